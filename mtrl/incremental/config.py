"""Settings of a run that learns tasks one after another."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mtrl.agents.incremental import ColumnsTrunk, FineTune, MethodConfig, TaskSwitch
from mtrl.agents.networks import (
    CNN,
    MLP,
    Embedding,
    Film,
    MixtureOfExperts,
    NetworkConfig,
    OneHot,
    ParameterCompositions,
    PerTask,
    Shared,
    SoftModules,
    TaskParameters,
    Unshared,
)
from mtrl.config import check_at_least, check_positive
from mtrl.errors import UsageError
from mtrl.multitask.algorithms import DQN, PPO, SAC

__all__ = ["IncrementalConfig", "ListedTask", "NetworkSettings"]

Score = Literal["return", "success", "scaled"]
Trunks = (
    MLP | CNN | SoftModules | MixtureOfExperts | ParameterCompositions | Unshared | ColumnsTrunk
)


@dataclass(frozen=True, kw_only=True)
class ListedTask:
    """A task of a sequence, written down."""

    family: str = "cartpole"
    """Its family, one of `families`."""
    params: dict[str, float | tuple[float, ...]] = field(default_factory=dict)
    """Its parameters; those left out are the family's usual ones."""
    low: float | None = None
    """The return that a scaled score calls 0, such as that of random actions."""
    high: float | None = None
    """The return that a scaled score calls 1, such as that of a specialist."""

    def __post_init__(self) -> None:
        given = (self.low, self.high)
        if given.count(None) == 1:
            raise UsageError("give both low and high, or neither")
        if self.low is not None and self.high is not None:
            ordered = math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high
            if not ordered:
                raise UsageError(f"low is {self.low} and high {self.high}; low must be the lower")


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """A network for tasks that come one after another."""

    trunk: Trunks = field(default_factory=lambda: MLP(hidden=(64, 64)))
    """What tasks share; `columns-trunk` goes with the method progressive-columns."""
    conditioning: OneHot | Embedding | TaskParameters | Film | None = None
    """What the trunk is told of the task."""
    head: Shared | PerTask = field(default_factory=PerTask)
    """Whether tasks share the last layer."""

    def network(self) -> NetworkConfig:
        """Return the settings as policies take them."""
        # Columns are a trunk by what they do, and declared with the methods, not with the networks.
        trunk: Any = self.trunk
        return NetworkConfig(trunk=trunk, conditioning=self.conditioning, head=self.head)


@dataclass(frozen=True, kw_only=True)
class IncrementalConfig:
    """Training one agent on tasks one after another.

    The tasks are those of `tasks`, else those of `task_file`, else `drawn` of each family in turn.
    """

    families: tuple[str, ...] = ("cartpole:wide",)
    """Task families, each with its preset after a colon; the family's first if there is none. Several
    families get one space of observations and one of actions, the larger ones."""
    family_options: dict[str, bool | int | float] = field(default_factory=dict)
    """Arguments of families that replace those of their presets, such as acrobot.horizon."""
    tasks: Annotated[dict[str, ListedTask], tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default_factory=dict
    )
    """Tasks by name, in the order in which they are learnt; given in a file of settings (--config)."""
    task_file: Path | None = None
    """File of tasks, one in JSON per line, in the order in which they are learnt."""
    order: tuple[str, ...] = ()
    """Names of tasks in the order in which they are learnt, if it is another. A task may come again, and
    one that is left out is only scored."""
    drawn: int = 3
    """Tasks drawn from each family's train split, where none are given."""
    rounds: int = 1
    """How often the sequence is gone through."""
    steps_per_task: int = 50_000
    """Environment steps of each stage."""
    method: MethodConfig = field(default_factory=FineTune)
    """What guards earlier tasks."""
    switch: TaskSwitch = field(default_factory=TaskSwitch)
    """What happens to the agent's parts where the task changes."""
    algorithm: PPO | DQN | SAC = field(default_factory=PPO)
    """What trains the agent."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    """Trunk, conditioning and heads."""
    envs: int = 16
    """Environments that play the present task side by side."""
    score: Score = "return"
    """What fills the performance matrix: the mean return, the share of episodes that succeed, or the mean
    share of the way from a task's `low` return to its `high` one, no less than 0 and no more than 1."""
    eval_episodes: int = 10
    """Episodes of a score."""
    eval_actions: Literal["best", "drawn"] = "best"
    """Whether episodes of a score are played by the policy's best actions, or by ones drawn from it as in
    training."""
    evaluate_every: int = 5000
    """Environment steps between two scores of the task that is learnt; after each stage all have one."""
    log_every: int = 2000
    """Environment steps between two points of the curves of training."""
    checkpoint_every: int = field(default=20_000, metadata={"resumable": True})
    """Environment steps between two checkpoints; the end of a stage is one too."""
    seed: int = 0
    """Of the drawn tasks and of all random streams."""
    device: str = field(default="cpu", metadata={"resumable": True})
    """Torch device."""

    def __post_init__(self) -> None:
        check_positive(self, "drawn", "rounds", "steps_per_task", "envs", "eval_episodes")
        check_positive(self, "evaluate_every", "log_every", "checkpoint_every")
        check_at_least(self, 0, "seed")
        self._check_families()
        self._check_score()

    def _check_families(self) -> None:
        names = [each.partition(":")[0] for each in self.families]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"families are {self.families}; give at least one, and each once")
        for option in self.family_options:
            if option.partition(".")[0] not in names or "." not in option:
                raise UsageError(
                    f"family_options has {option!r}; write FAMILY.ARGUMENT with one of {', '.join(names)}"
                )
        strangers = [name for name in self.order if name not in self.tasks]
        if self.tasks and strangers:
            raise UsageError(f"order has {strangers[0]!r}; tasks has {', '.join(self.tasks)}")
        for name, task in self.tasks.items():
            if task.family not in names:
                raise UsageError(
                    f"task {name!r} is of family {task.family!r}; families has {', '.join(names)}"
                )

    def _check_score(self) -> None:
        if self.score != "scaled":
            return
        without = [name for name, task in self.tasks.items() if task.low is None]
        if without or not self.tasks:
            missing = ", ".join(without) or "the drawn tasks"
            raise UsageError(
                f"score is 'scaled', and {missing} have no low and high return; give them in tasks, "
                "or score by the return"
            )
