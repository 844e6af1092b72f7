"""Curricula over a box of tasks: what they share, and the box."""

import abc
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.curricula.protocol import (
    Array,
    OutcomeKind,
    Proposal,
    check_outcome,
    check_state,
)
from mtrl.envs.distributions import Range
from mtrl.envs.parameters import ParameterSpace
from mtrl.envs.task import Split, Task, Value, check_split
from mtrl.errors import UsageError

__all__ = ["BoxCurriculum", "TaskBox"]


class TaskBox:
    """The tasks of a family whose parameters are numbers in ranges, as points of the unit cube.

    Coordinates are in the order of the names of what varies, each scaled to [0, 1]. Where a hash
    decides the split, a point of the other split is moved by the least steps of float32 that bring
    it into its own.

    Args:
        space: the family's parameters.
        split: what the tasks belong to.

    Raises:
        UsageError: a parameter that varies is no `Range`, none varies, or the space has held-out
            intervals, which would leave holes in the box.
    """

    def __init__(self, space: ParameterSpace, *, split: Split = "train") -> None:
        self.space, self.split = space, check_split(split)
        self._ranges: dict[str, Range] = {}
        self._fixed: dict[str, Value] = {}
        for name, limits in sorted(space.ranges.items()):
            if (constant := limits.constant) is not None:
                size = limits.size
                self._fixed[name] = constant if size is None else (constant,) * size
            elif isinstance(limits, Range):
                self._ranges[name] = limits
            else:
                raise self._error(f"{name!r} is {limits}, not a range; a box needs ranges")
        if not self._ranges:
            raise self._error("no parameter varies; give one a range")
        if space.held_out:
            raise self._error("held_out leaves holes in the box; choose tasks from a list instead")

    def _error(self, problem: str) -> UsageError:
        return UsageError(f"task family {self.space.family!r}: {problem}")

    @cached_property
    def _bounds(self) -> NDArray[np.float32]:
        """The lower and the upper bounds, (2, dimensions)."""
        columns = [[limits.support] * (limits.size or 1) for limits in self._ranges.values()]
        return np.concatenate(columns).astype(np.float32).T

    @property
    def dimensions(self) -> int:
        """How many numbers vary."""
        return int(self._bounds.shape[1])

    @property
    def coordinates(self) -> list[str]:
        """The name of each coordinate: its parameter's, with a number if that has several."""
        return [
            name if limits.size is None else f"{name}_{place}"
            for name, limits in self._ranges.items()
            for place in range(limits.size or 1)
        ]

    def scaled(self, point: Array) -> Array:
        """Return `point` (dimensions,) in the parameters' units, clipped to their ranges."""
        low, high = self._bounds
        values: Array = low + (high - low) * np.clip(point, 0, 1)
        return values

    def task(self, point: Array) -> Task:
        """Return the task at `point` (dimensions,), which is clipped to [0, 1]."""
        low, high = self._bounds
        scaled = self.scaled(point)
        # Rounding to float32 may pass the upper bound.
        values = np.clip(scaled.astype(np.float32), low, high)
        # Each step is in the split with probability 1/2; the far bound is always out of reach.
        far = high[0] if values[0] - low[0] < high[0] - values[0] else low[0]
        while not self._belongs(values):
            values[0] = np.nextafter(values[0], far)
        return Task(family=self.space.family, params=self._params(values), split=self.split)

    def _belongs(self, values: NDArray[np.float32]) -> bool:
        if self.space.split_rule == "shared":
            return True
        return self.space.split_of(self._params(values)) == self.split

    def _params(self, values: NDArray[np.float32]) -> dict[str, Value]:
        params, numbers = dict(self._fixed), values.tolist()
        for name, limits in self._ranges.items():
            size = limits.size or 1
            first, numbers = tuple(numbers[:size]), numbers[size:]
            params[name] = first[0] if limits.size is None else first
        return params

    def point(self, task: Task) -> Array:
        """Return where `task` lies in the unit cube (dimensions,).

        Raises:
            UsageError: it is of another family, or outside the box; the message names it.
        """
        self.space.check(task)
        values = np.hstack([task.params[name] for name in self._ranges]).astype(np.float32)
        low, high = self._bounds
        if not ((low <= values) & (values <= high)).all():
            raise UsageError(
                f"task {task.id} {dict(task.params)} of family {task.family!r} is none of this "
                "curriculum: it lies outside the family's ranges"
            )
        point: Array = (values.astype(np.float64) - low) / (high.astype(np.float64) - low)
        return point


class BoxCurriculum(abc.ABC):
    """A `Curriculum` whose tasks are the points of a `TaskBox`.

    Args:
        box: the tasks.
        rng: the curriculum's own generator; nothing else may draw from it.
    """

    outcome: OutcomeKind = "return"
    lag: int = 0
    kind: str

    def __init__(self, box: TaskBox, rng: np.random.Generator) -> None:
        self.box, self.rng = box, rng

    @abc.abstractmethod
    def _draw(self) -> tuple[Array, int | None]:
        """Return a point (dimensions,) and the label of its proposal."""

    @abc.abstractmethod
    def _learn(self, point: Array, outcome: float, label: int | None) -> None:
        """Take in a finite outcome of the task at `point`."""

    @abc.abstractmethod
    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return all that draws and updates change, besides the generator."""

    @abc.abstractmethod
    def _set_state(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Take back what `_state` returned."""

    def propose(self, n: int) -> list[Proposal]:
        """Draw `n` tasks."""
        drawn = [self._draw() for _ in range(n)]
        return [Proposal(task=self.box.task(point), label=label) for point, label in drawn]

    def update(self, played: Proposal | Task, outcome: float) -> None:
        """Credit a result to its task.

        Raises:
            UsageError: the task is not in the box; the message names it.
            MtrlError: the outcome is not finite; nothing is changed.
        """
        proposal = Proposal(task=played) if isinstance(played, Task) else played
        point = self.box.point(proposal.task)
        self._learn(point, check_outcome(proposal.task, outcome), proposal.label)

    def _names(self) -> list[str]:
        return [self.box.space.family, *sorted(self.box.space.ranges)]

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values) for a checkpoint."""
        tensors, values = self._state()
        named = {"kind": self.kind, "tasks": self._names(), "rng": self.rng.bit_generator.state}
        return tensors, {**named, **values}

    def load_state_dict(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: the next proposals are the same.

        Raises:
            CheckpointError: it is of another kind of curriculum, or of another family.
        """
        check_state(values, kind=self.kind, tasks=self._names())
        self.rng.bit_generator.state = values["rng"]
        self._set_state(tensors, values)
