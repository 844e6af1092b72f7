"""Continuous task spaces: uniform draws whose train and test tasks cannot coincide.

Both splits follow the same distribution, as the papers' test tasks do, and are disjoint by
construction: the task itself decides its split, by one bit of a hash of its float32 parameters.
Each half is then half of a grid of float32 values, spread over the whole space.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.task import SPLITS, Split, Task, check_split
from mtrl.errors import UsageError

__all__ = ["ParameterSpace", "Range"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Range:
    """A parameter uniform in [low, high]; equal bounds make it a constant, `size` a tuple."""

    low: float
    high: float
    size: int | None = None


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalise splitmix64 (Steele et al. 2014): every output bit depends on every input bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@dataclass(frozen=True, eq=False)
class ParameterSpace:
    """The distribution of a family's task parameters: independent uniform `ranges` by name.

    Raises:
        UsageError: a range is empty, or all are constants (one task cannot be split in two).
    """

    family: str
    ranges: Mapping[str, Range]

    def __post_init__(self) -> None:
        for name, limits in self.ranges.items():
            if not limits.low <= limits.high:
                raise UsageError(
                    f"range of {name!r} in {self.family!r} is [{limits.low}, {limits.high}]; "
                    "low must not exceed high"
                )
        if not (self._span > 0).any():
            raise UsageError(f"all parameters of {self.family!r} are constants; let one vary")

    @cached_property
    def _slices(self) -> dict[str, slice | int]:
        """Where each parameter lies in a row: a column for a number, a slice for a tuple."""
        slices: dict[str, slice | int] = {}
        end = 0
        for name in sorted(self.ranges):
            start, size = end, self.ranges[name].size
            end += 1 if size is None else size
            slices[name] = start if size is None else slice(start, end)
        return slices

    def _bounds(self, bound: str) -> Array:
        ordered = (self.ranges[name] for name in sorted(self.ranges))
        return np.concatenate(
            [np.full(limits.size or 1, getattr(limits, bound), np.float32) for limits in ordered]
        )

    @cached_property
    def _low(self) -> Array:
        return self._bounds("low")

    @cached_property
    def _span(self) -> Array:
        return self._bounds("high") - self._low

    @cached_property
    def _weights(self) -> NDArray[np.uint64]:
        return _mix(np.arange(1, len(self._low) + 1, dtype=np.uint64)) | np.uint64(1)

    def _split_bits(self, rows: Array) -> NDArray[np.uint64]:
        # Adding zero turns -0.0 into 0.0, which is the same task.
        words = (rows + np.float32(0)).view(np.uint32).astype(np.uint64)
        return _mix((words * self._weights).sum(axis=1)) & np.uint64(1)

    def _rows(self, n: int, rng: np.random.Generator, split: Split) -> Array:
        wanted, parts, missing = SPLITS.index(check_split(split)), [], n
        while missing > 0:
            uniform = rng.random((2 * missing + 8, len(self._low)), dtype=np.float32)
            rows = self._low + self._span * uniform
            parts.append(rows[self._split_bits(rows) == wanted][:missing])
            missing -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, self._low[None][:0]])

    def sample_params(self, n: int, rng: np.random.Generator, split: Split) -> dict[str, Array]:
        """Draw `n` tasks of `split` as float32 arrays by name, shaped (n,) or (n, size).

        The fast path of `sample`: the same draws from the same generator state.
        """
        rows = self._rows(n, rng, split)
        return {name: rows[:, where] for name, where in self._slices.items()}

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        """Draw `n` tasks of `split`."""
        return [
            Task(
                family=self.family,
                params={name: row[where] for name, where in self._slices.items()},
                split=split,
            )
            for row in self._rows(n, rng, split).tolist()
        ]

    def check(self, task: Task) -> None:
        """Check that `task` has this space's parameters; they may lie outside the ranges.

        Raises:
            UsageError: another family's task, or other parameters than this family's.
        """
        if task.family != self.family:
            raise UsageError(f"task {task.id} is of family {task.family!r}, not {self.family!r}")
        sizes = {k: len(v) if isinstance(v, tuple) else None for k, v in task.params.items()}
        wanted = {name: limits.size for name, limits in self.ranges.items()}
        if sizes != wanted:
            raise UsageError(
                f"task {task.id} of {self.family!r} has parameters of sizes {sizes}; "
                f"the family's are {wanted}"
            )

    def _row(self, task: Task) -> Array:
        self.check(task)
        return np.hstack([task.params[name] for name in sorted(self.ranges)]).astype(np.float32)

    def split_of(self, params: Mapping[str, Any]) -> Split:
        """Return the split that one task's `params` belong to."""
        row = self._row(Task(family=self.family, params=params))
        return SPLITS[int(self._split_bits(row[None])[0])]

    def vector(self, task: Task) -> Array:
        """Return the parameters that vary, in the order of their names, as a float32 vector."""
        return self._row(task)[self._span > 0]
