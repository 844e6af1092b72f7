"""Any Gymnasium environment as a task family: say what varies in it, and how far.

A task sets attributes of the unwrapped environment, fields of its MuJoCo model, or keywords of its
constructor. Attributes and fields are set before the reset of an episode; other keywords mean that
the environment is made anew.

An environment may compute one attribute from others when it is made, as CartPole does its
`total_mass`, and then a new `masspole` alone changes only a part of its physics: name such
attributes in `derived`. An environment that sets an attribute in its own `reset` undoes a task.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces.utils import flatten_space
from numpy.typing import NDArray

from mtrl.envs.contexts.arithmetic import Expression
from mtrl.envs.contexts.env import ContextEnv
from mtrl.envs.contexts.probe import Probed, probe
from mtrl.envs.contexts.recipe import Recipe, Target
from mtrl.envs.contexts.spaces import common_action_space, common_observation_space
from mtrl.envs.contexts.targets import Attribute, Keyword, close_matches
from mtrl.envs.contexts.vector_env import ContextVectorEnv
from mtrl.envs.distributions import (
    Choice,
    Distribution,
    Interval,
    RangeSpec,
    distribution_of,
)
from mtrl.envs.episode_envs import EpisodeEnvs
from mtrl.envs.family import TaskSource
from mtrl.envs.parameters import ParameterSpace, SplitRule
from mtrl.envs.task import Split, Task
from mtrl.errors import UsageError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import DummyVecEnv

__all__ = ["ContextFamily"]

Space = gym.Space[Any]


@dataclass(frozen=True, kw_only=True)
class ContextFamily:
    """The tasks of one Gymnasium environment.

    Making a family makes its environment, once per combination of the keywords that vary, to see
    that everything named here is there.

    Args:
        name: of the family; the ids of its tasks depend on it.
        env: an id for `gymnasium.make`, or a callable that takes keywords and returns an
            environment.
        ranges: per parameter a number, bounds, several intervals or a distribution.
        targets: what a parameter is; the attribute of the same name if left out.
        derived: formulas of attributes that follow from others, by path: numbers, parameters,
            attributes and `+ - * / **`. They are computed in this order, after the others are set.
        keywords: of the constructor, the same for all tasks.
        split_rule: how train and test tasks differ (`mtrl.envs.parameters`).
        held_out: intervals of test tasks by name, for `interpolation` and `extrapolation`.
        horizon: steps after which an episode is truncated; 0 for those of the id's registration.
        flatten: whether observations are flattened to one vector, as `gymnasium.spaces.flatten`.
        units: of the parameters, by name, for descriptions.

    Raises:
        UsageError: no such environment, parameter, attribute, keyword or model field; an impossible
            range or split; no time limit; tasks whose spaces cannot be made one.
        MissingExtraError: the environment needs a package that is not installed.
        MtrlError: the environment cannot be made.
    """

    name: str
    env: str | Callable[..., gym.Env[Any, Any]]
    ranges: Mapping[str, RangeSpec | Distribution]
    targets: Mapping[str, Target] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)
    keywords: Mapping[str, Any] = field(default_factory=dict)
    split_rule: SplitRule = "random"
    held_out: Mapping[str, Sequence[Interval]] = field(default_factory=dict)
    horizon: int = 0
    flatten: bool = False
    units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.horizon < 0:
            raise self._error(f"horizon is {self.horizon}; it must be at least 1")
        if not self._distributions:
            raise self._error("ranges is empty; say which parameters vary, and how far")
        for name in self.targets:
            if name not in self._distributions:
                raise self._error(
                    f"target {name!r} has no range; {close_matches(name, self.ranges)}"
                )
        _ = self.parameters  # refuses impossible ranges and splits
        object.__setattr__(self, "horizon", self._probed.horizon)
        _ = self.observation_space, self.action_space  # refuses what padding cannot make one

    def _error(self, problem: object) -> UsageError:
        return UsageError(f"task family {self.name!r}: {problem}")

    @cached_property
    def _distributions(self) -> dict[str, Distribution]:
        drawn: dict[str, Distribution] = {}
        for name, spec in self.ranges.items():
            given = isinstance(spec, float | int | Sequence | Choice)
            drawn[name] = distribution_of(spec) if given else spec  # type: ignore[arg-type, assignment]  # told apart by `given`
        for name, target in self.targets.items():
            if isinstance(target, Keyword) and target.options:
                drawn.setdefault(name, Choice(range(len(target.options))))
        return drawn

    @cached_property
    def parameters(self) -> ParameterSpace:
        """The distribution of the tasks."""
        held_out = {
            name: tuple((float(low), float(high)) for low, high in intervals)
            for name, intervals in self.held_out.items()
        }
        return ParameterSpace(
            self.name, self._distributions, self.split_rule, held_out, strict=True
        )

    @cached_property
    def recipe(self) -> Recipe:
        """How an environment is made."""
        try:
            derived = {path: Expression(text) for path, text in self.derived.items()}
        except UsageError as error:
            raise self._error(f"derived: {error}") from None
        return Recipe(
            family=self.name,
            env=self.env,
            keywords=self.keywords,
            horizon=self.horizon,
            targets={n: self.targets.get(n, Attribute(n)) for n in self._distributions},
            whole=frozenset(n for n, how in self._distributions.items() if _is_whole(how)),
            derived=derived,
        )

    @cached_property
    def _probed(self) -> Probed:
        (task,) = self.parameters.sample(1, np.random.default_rng(0), "train")
        try:
            return probe(self.recipe, self._distributions, task.params)
        except UsageError as error:
            named = str(error).startswith("task family")
            raise error if named else self._error(error) from error

    @property
    def spaces(self) -> list[tuple[Space, Space]]:
        """The different observation and action spaces that tasks have."""
        return self._probed.spaces

    @property
    def metadata(self) -> dict[str, Any]:
        """That of the environment, such as its render modes."""
        return self._probed.metadata

    @cached_property
    def padded_space(self) -> Space:
        """The space of observations before they are flattened."""
        try:
            return common_observation_space([observation for observation, _ in self.spaces])
        except UsageError as error:
            raise self._error(error) from None

    @cached_property
    def observation_space(self) -> Space:
        """The space of one environment's observation, the same for all tasks."""
        return flatten_space(self.padded_space) if self.flatten else self.padded_space

    @cached_property
    def action_space(self) -> Space:
        """The space of one environment's action, the same for all tasks."""
        try:
            return common_action_space([action for _, action in self.spaces])
        except UsageError as error:
            raise self._error(error) from None

    @cached_property
    def choices_differ(self) -> bool:
        """Whether tasks have different choices, so that `info["action_mask"]` marks each one's."""
        own = [action for _, action in self.spaces]
        return isinstance(own[0], gym.spaces.Discrete) and any(one != own[0] for one in own)

    @property
    def notes(self) -> list[str]:
        """What a user should know beyond the spaces: how they were made one."""
        (first_observation, first_action), notes = self.spaces[0], []
        if any(observation != first_observation for observation, _ in self.spaces):
            notes.append("observations of smaller tasks are padded with zeros")
        if self.choices_differ:
            notes.append("choices a task lacks wrap around; info['action_mask'] marks its own")
        elif any(action != first_action for _, action in self.spaces):
            notes.append("numbers that a task's actions lack are dropped, the others clipped")
        return notes

    @property
    def splits_overlap(self) -> bool:
        """Whether train and test tasks are the same by design."""
        return self.split_rule == "shared"

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        """Draw `n` tasks of `split`."""
        return self.parameters.sample(n, rng, split)

    def task(self, split: Split = "train", **params: Any) -> Task:
        """Return the task with these parameters; those that are constant may be left out.

        Raises:
            UsageError: a parameter is missing, unknown or outside its range.
        """
        constant = {n: how.constant for n, how in self._distributions.items()}
        known = {n: value for n, value in constant.items() if value is not None}
        task = Task(family=self.name, params=known | params, split=split)
        self.parameters.check(task)
        return task

    def context(self, task: Task) -> NDArray[np.float32]:
        """Return what tells this task from others as a float32 vector."""
        return self.parameters.vector(task)

    def make(self, task: TaskSource, render_mode: str | None = None) -> ContextEnv:
        """Return a Gymnasium environment of `task`."""
        return ContextEnv(self, task, render_mode=render_mode)

    def make_vec(self, tasks: Sequence[TaskSource], seed: int | None = None) -> ContextVectorEnv:
        """Return a Gymnasium vector environment, one sub-environment per task source.

        `seed` is that of the first reset, as if it were given there.
        """
        return ContextVectorEnv(self, tasks, seed=seed)

    def make_sb3(self, tasks: Sequence[TaskSource], seed: int | None = None) -> "DummyVecEnv":
        """Return a Stable-Baselines3 `VecEnv`, one sub-environment per task source."""
        # Stable-Baselines3 takes seconds to import, and most users of a family do without it.
        from stable_baselines3.common.vec_env import DummyVecEnv

        envs = DummyVecEnv([functools.partial(self.make, task) for task in tasks])
        envs.seed(seed)
        return envs

    def __getstate__(self) -> dict[str, Any]:
        # Environments at rest stay behind when a family is sent to another process.
        return {name: value for name, value in vars(self).items() if name != "_idle"}

    @cached_property
    def _idle(self) -> list[gym.Env[Any, Any]]:
        """Environments that no batch uses now: making one may take longer than an episode."""
        return []

    def batch(
        self, tasks: Sequence[Task], *, repeats: int = 1, device: torch.device | str = "cpu"
    ) -> EpisodeEnvs:
        """Return a batch with `repeats` slots per task, task-major, one environment each."""
        return EpisodeEnvs(self, tasks, repeats=repeats, device=device, idle=self._idle)


def _is_whole(how: Distribution) -> bool:
    """Return whether all values that can be drawn are whole, so that they may be counts."""
    if isinstance(how, Choice):
        return all(float(value).is_integer() for value in how.values)
    return how.constant is not None and float(how.constant).is_integer()
