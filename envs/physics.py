"""What the families of classic control share: Gymnasium's environment, with its constants varied.

A task sets attributes of the Gymnasium environment. At the values of `defaults` the dynamics are
those of `gymnasium_id`, and elsewhere those of that environment with the attributes set; Gymnasium
also draws the pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from mtrl.envs.batched import BatchedFamily
from mtrl.envs.distributions import Choice, Distribution, Interval, Intervals, Range
from mtrl.envs.parameters import ParameterSpace, SplitRule
from mtrl.envs.task import Split, Task
from mtrl.errors import MissingExtraError, UsageError

__all__ = ["GymnasiumRenderer", "PhysicsFamily", "RangeSpec"]

RangeSpec = float | Interval | Sequence[Interval] | Choice
"""A constant, bounds, several intervals, or a `Choice`."""


def _distribution(spec: RangeSpec) -> Range | Intervals | Choice:
    if isinstance(spec, Choice):
        return spec
    if isinstance(spec, int | float):
        return Range(float(spec), float(spec))
    if isinstance(spec[0], int | float):
        low, high = cast(Interval, spec)
        return Range(float(low), float(high))
    pairs = cast(Sequence[Interval], spec)
    return Intervals(tuple((float(low), float(high)) for low, high in pairs))


@dataclass(frozen=True, kw_only=True)
class PhysicsFamily(BatchedFamily):
    """A Gymnasium environment of classic control, whose constants are task parameters.

    Args:
        ranges: bounds by parameter name; a parameter without is constant at Gymnasium's value.
        split_rule: how train and test tasks differ (`mtrl.envs.parameters`).
        held_out: intervals of test tasks by name, for `interpolation` and `extrapolation`.

    Raises:
        UsageError: a parameter that the family lacks, one that must be positive and is not, or an
            impossible split.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=dict)
    split_rule: SplitRule = "random"
    held_out: Mapping[str, Sequence[Interval]] = field(default_factory=dict)

    gymnasium_id: ClassVar[str]
    defaults: ClassVar[Mapping[str, float]]
    units: ClassVar[Mapping[str, str]]
    positive: ClassVar[frozenset[str]] = frozenset()
    """Parameters that divide or have no meaning at 0 and below."""
    dtype: ClassVar[torch.dtype] = torch.float64
    takes_numpy: ClassVar[bool] = True
    render_modes: ClassVar[tuple[str, ...]] = ("human", "rgb_array")

    def __post_init__(self) -> None:
        for name in self.ranges:
            if name not in self.defaults:
                raise UsageError(
                    f"task family {self.name!r} has no parameter {name!r}; "
                    f"there are {', '.join(self.defaults)}"
                )
        for name in self.positive:
            if not self.bounds(name)[0] > 0:
                raise UsageError(
                    f"task family {self.name!r}: {name} goes down to {self.bounds(name)[0]}; "
                    "it must be positive"
                )
        if self.horizon < 1:
            raise UsageError(f"horizon of {self.name!r} is {self.horizon}; it must be at least 1")
        _ = self.parameters  # refuses impossible ranges and splits

    @cached_property
    def parameters(self) -> ParameterSpace:
        """The distribution of the tasks."""
        ranges: dict[str, Distribution] = {
            name: _distribution(self.ranges.get(name, value))
            for name, value in self.defaults.items()
        }
        held_out = {
            name: tuple((float(low), float(high)) for low, high in intervals)
            for name, intervals in self.held_out.items()
        }
        return ParameterSpace(self.name, ranges, self.split_rule, held_out, strict=True)

    def bounds(self, name: str) -> Interval:
        """Return the lowest and highest value of parameter `name`."""
        return _distribution(self.ranges.get(name, self.defaults[name])).support

    def task(self, split: Split = "train", **params: float) -> Task:
        """Return the task with these parameters, and Gymnasium's values for the others.

        A parameter that is constant in this family has that constant instead.
        """
        constants = {name: self.bounds(name) for name in self.ranges}
        fixed = {name: low for name, (low, high) in constants.items() if low == high}
        task = Task(family=self.name, params={**self.defaults, **fixed, **params}, split=split)
        self.parameters.check(task)
        return task

    def attributes(self, task: Task) -> dict[str, Any]:
        """Return by name the attributes of Gymnasium's environment that make it this task."""
        return dict(task.params)

    def gymnasium_env(self, task: Task, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return Gymnasium's own environment with the attributes of `task`, without wrappers."""
        made = gym.make(self.gymnasium_id, render_mode=render_mode, disable_env_checker=True)
        self.set_attributes(made.unwrapped, task)
        return made.unwrapped

    def set_attributes(self, env: gym.Env[Any, Any], task: Task) -> None:
        """Make Gymnasium's environment that of `task`."""
        for name, value in self.attributes(task).items():
            setattr(env, name, value)

    def pose(self, env: Any, state: NDArray[Any], action: Any) -> None:
        """Put Gymnasium's environment in `state`, to which `action` has led."""
        env.state = state.copy()

    def renderer(self, render_mode: str) -> "GymnasiumRenderer":
        """Return Gymnasium's own renderer."""
        return GymnasiumRenderer(self, render_mode)


class GymnasiumRenderer:
    """Draws a family's states with Gymnasium's environment; one window for all tasks."""

    def __init__(self, family: PhysicsFamily, render_mode: str) -> None:
        self._family = family
        self._render_mode = render_mode
        self._env: gym.Env[Any, Any] | None = None

    def draw(self, task: Task, state: NDArray[Any], action: Any) -> NDArray[np.uint8] | None:
        """Draw `state`: return the picture, or None where it is shown in a window.

        Raises:
            MissingExtraError: pygame is not installed.
        """
        if self._env is None:
            self._env = self._family.gymnasium_env(task, self._render_mode)
        self._family.set_attributes(self._env, task)
        self._family.pose(self._env, state, action)
        try:
            picture = self._env.render()
        except DependencyNotInstalled as error:
            raise MissingExtraError(
                f"rendering {self._family.name!r} needs pygame; "
                'pip install "mtrl-suite[classic-control]"'
            ) from error
        return None if picture is None else np.asarray(picture)

    def close(self) -> None:
        """Close Gymnasium's window."""
        if self._env is not None:
            self._env.close()
            self._env = None
