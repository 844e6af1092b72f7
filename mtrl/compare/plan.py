"""What is compared: the settings of each agent, made from those of the one that shares."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from mtrl.agents.balancing import Sum
from mtrl.agents.networks import (
    CNN,
    MLP,
    MixtureOfExperts,
    NetworkConfig,
    ParameterCompositions,
    PerTask,
    Shared,
    SoftModules,
    TrunkConfig,
    Unshared,
)
from mtrl.config import check_positive
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.multitask.config import MultiTaskConfig, ObjectiveConfig

__all__ = [
    "Kind",
    "Plan",
    "blind_config",
    "parse_kinds",
    "plain_trunk",
    "specialist_config",
    "unshared_config",
]

Kind = Literal["specialists", "shared", "unshared", "blind"]
"""`specialists`: one agent for each task. `shared`: the settings as given. `unshared`: the same loop and
batches with a network for each task. `blind`: one network that is not told the task."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison.

    Attributes:
        settings: of the shared agent.
        tasks: the same for all agents.
        kinds: of agents.
        seeds: how many trainings of each agent; they count from `settings.seed`.
        episodes: of the final evaluation, on each task.

    Raises:
        UsageError: there are no seeds, fewer than two tasks or a task twice, fewer steps than tasks, or a
            trunk that cannot be shared or unshared.
    """

    settings: MultiTaskConfig
    tasks: tuple[Task, ...]
    kinds: tuple[Kind, ...]
    seeds: int
    episodes: int

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "episodes")
        if len(self.tasks) < 2:
            raise UsageError(
                f"tasks is {len(self.tasks)}: nothing can be shared with fewer than 2 tasks; give more"
            )
        if len({task.id for task in self.tasks}) < len(self.tasks):
            raise UsageError("a task is there twice; list each once in task_file")
        if self.settings.total_steps < len(self.tasks):
            raise UsageError(
                f"total_steps is {self.settings.total_steps} for {len(self.tasks)} tasks; each "
                "specialist needs at least one step, give more"
            )
        if isinstance(self.settings.network.trunk, Unshared) and "shared" in self.kinds:
            raise UsageError(
                "network.trunk is unshared, and the settings are those of the agent that shares; "
                "give the trunk that tasks share, the unshared agent is made from it"
            )
        if "unshared" in self.kinds:
            unshared_config(self.settings)

    @property
    def all_seeds(self) -> range:
        """Return the seeds of the trainings."""
        return range(self.settings.seed, self.settings.seed + self.seeds)

    @property
    def specialist_steps(self) -> int:
        """Return the budget of one specialist, rounded down."""
        return self.settings.total_steps // len(self.tasks)

    @property
    def rounding(self) -> str:
        """Return what is lost where tasks do not divide the budget, in a sentence, or nothing."""
        tasks, total = len(self.tasks), self.settings.total_steps
        if total % tasks == 0 or "specialists" not in self.kinds:
            return ""
        return (
            f"{total:,} steps are no multiple of {tasks} tasks: each specialist has "
            f"{self.specialist_steps:,}, all of them together {total % tasks:,} fewer."
        )


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Return the kinds in a list such as "specialists,shared", each once.

    Raises:
        UsageError: one is unknown, or there is none.
    """
    known: tuple[Kind, ...] = get_args(Kind)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UsageError(
                f"agents has {name!r}; write some of {', '.join(known)} with commas between them"
            )
    if not names:
        raise UsageError(f"agents is empty; write some of {', '.join(known)}")
    return tuple(kind for kind in known if kind in names)


def plain_trunk(trunk: TrunkConfig) -> MLP | CNN:
    """Return the trunk of one task: as many layers of the same units, with nothing that routes.

    Of experts and sets of parameters it has one; modules of a layer lie side by side in one layer.
    """
    if isinstance(trunk, MLP | CNN):
        return trunk
    hidden = trunk.encoder if isinstance(trunk, SoftModules) else trunk.hidden
    if isinstance(trunk, SoftModules):
        hidden += (trunk.modules * trunk.width,) * trunk.layers
    assert isinstance(trunk, SoftModules | MixtureOfExperts | ParameterCompositions | Unshared)
    return MLP(hidden=hidden, activation=trunk.activation, initializer=trunk.initializer)


def specialist_config(
    settings: MultiTaskConfig, tasks: int, task_file: Path, seed: int
) -> MultiTaskConfig:
    """Return the settings of the specialist of the one task in `task_file`, one of `tasks`."""

    def share(amount: int) -> int:
        return max(1, amount // tasks)

    return replace(
        settings,
        tasks=1,
        task_file=task_file,
        network=_network(settings, Shared),
        balancer=Sum(),
        objective=ObjectiveConfig(),
        total_steps=share(settings.total_steps),
        log_every=share(settings.log_every),
        evaluate_every=share(settings.evaluate_every),
        checkpoint_every=share(settings.checkpoint_every),
        seed=seed,
    )


def unshared_config(settings: MultiTaskConfig) -> MultiTaskConfig:
    """Return the settings of the agent that shares nothing but the loop and its batches.

    Raises:
        UsageError: the trunk is for images.
    """
    trunk = plain_trunk(settings.network.trunk)
    if isinstance(trunk, CNN):
        raise UsageError(
            "the unshared agent has no trunk for images; leave it out: --agents specialists,shared"
        )
    own = Unshared(hidden=trunk.hidden, activation=trunk.activation, initializer=trunk.initializer)
    network = replace(_network(settings, PerTask), trunk=own)
    return replace(settings, network=network, balancer=Sum())


def blind_config(settings: MultiTaskConfig) -> MultiTaskConfig:
    """Return the settings of an agent that is not told the task."""
    return replace(settings, network=_network(settings, Shared), balancer=Sum())


def _network(settings: MultiTaskConfig, head: type[Shared] | type[PerTask]) -> NetworkConfig:
    """Return an unconditioned network whose parameters are drawn as those of the settings."""
    given = settings.network.head
    return NetworkConfig(
        trunk=plain_trunk(settings.network.trunk),
        head=head(initializer=given.initializer, scale=given.scale),
    )
