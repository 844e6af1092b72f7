"""Task spaces: how a family's tasks are drawn, and which of them are for training.

The split rule decides, and the sets are disjoint by construction:

- `random`: both splits follow the same distribution, as the papers' test tasks do. The task itself
  decides its split, by one bit of a hash of its float32 parameters. Each half is then half of a
  grid of float32 values, spread over the whole space.
- `interpolation` and `extrapolation`: test tasks have the named parameters in held-out intervals,
  inside the range or at its ends; no training task has any of them there.
- `shared`: too few tasks to split. Both splits are all tasks, and the family says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mtrl.envs.distributions import Choice, Distribution, Interval, Intervals, Range
from mtrl.envs.task import SPLITS, Params, Split, Task, Value, check_split
from mtrl.errors import UsageError

__all__ = ["ParameterSpace", "Range", "SplitRule", "TaskStream"]

Array = NDArray[np.float32]
SplitRule = Literal["random", "interpolation", "extrapolation", "shared"]
_AHEAD = 2048
"""About how many uniform numbers a `TaskStream` draws at once."""
_FEW = 64
"""Spaces of no more tasks than this are not split at random: one half might be empty."""


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalise splitmix64 (Steele et al. 2014): every output bit depends on every input bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _candidates(n: int) -> int:
    """Return how many rows are drawn for `n` tasks, of which a split may take half."""
    return 2 * n + 8


def _without(low: float, high: float, holes: tuple[Interval, ...]) -> tuple[Interval, ...]:
    """Return what is left of [low, high] without the holes."""
    parts, start = [], low
    for hole_low, hole_high in sorted(holes):
        parts.append((start, hole_low))
        start = hole_high
    parts.append((start, high))
    return tuple((low, high) for low, high in parts if low < high)


@dataclass(frozen=True, eq=False)
class ParameterSpace:
    """The distribution of a family's task parameters, independent of each other.

    Args:
        family: its name.
        ranges: a distribution per parameter name.
        split_rule: how train and test tasks differ; see the module.
        held_out: intervals of test tasks by name, within that parameter's `Range`; they are what
            `interpolation` (inside the range) and `extrapolation` (at its ends) need.
        strict: whether `check` refuses tasks that cannot be drawn.

    Raises:
        UsageError: a range is empty, a split is impossible, or the split rule and `held_out`
            contradict each other.
    """

    family: str
    ranges: Mapping[str, Distribution]
    split_rule: SplitRule = "random"
    held_out: Mapping[str, tuple[Interval, ...]] = field(default_factory=dict)
    strict: bool = False

    def __post_init__(self) -> None:
        for name, limits in self.ranges.items():
            if isinstance(limits, Range) and not limits.low <= limits.high:
                raise self._error(
                    f"range of {name!r} is [{limits.low}, {limits.high}]; low must not exceed high"
                )
        self._check_split_rule()

    def _check_split_rule(self) -> None:
        if self.split_rule not in get_args(SplitRule):
            raise self._error(
                f"split_rule is {self.split_rule!r}; it must be one of "
                f"{', '.join(map(repr, get_args(SplitRule)))}"
            )
        needs_intervals = self.split_rule in ("interpolation", "extrapolation")
        if needs_intervals != bool(self.held_out):
            raise self._error(
                f"split_rule is {self.split_rule!r} and held_out is {dict(self.held_out)}; "
                "'interpolation' and 'extrapolation' need intervals by name, the others none"
            )
        for name, intervals in self.held_out.items():
            self._check_held_out(name, intervals)
        if self.split_rule == "random":
            self._check_size()

    def _error(self, problem: str) -> UsageError:
        return UsageError(f"task family {self.family!r}: {problem}")

    def _check_size(self) -> None:
        if all(limits.constant is not None for limits in self.ranges.values()):
            raise self._error(
                "all parameters are constants; let one vary, or set split_rule to 'shared'"
            )
        kinds = [limits for limits in self.ranges.values() if limits.constant is None]
        finite = [len(set(limits.values)) for limits in kinds if isinstance(limits, Choice)]
        if len(finite) == len(kinds) and math.prod(finite) <= _FEW:
            raise self._error(
                f"{math.prod(finite)} tasks are too few for a random split; "
                "set split_rule to 'shared'"
            )

    def _check_held_out(self, name: str, intervals: tuple[Interval, ...]) -> None:
        limits = self.ranges.get(name)
        if not isinstance(limits, Range) or limits.size is not None or limits.constant is not None:
            names = [n for n, r in self.ranges.items() if isinstance(r, Range)]
            raise self._error(f"held_out {name!r} is not a number that varies; there are {names}")
        Intervals(intervals)  # refuses empty and overlapping ones
        for low, high in intervals:
            inside = limits.low < low and high < limits.high
            at_end = (low == limits.low) != (high == limits.high)
            within = limits.low <= low and high <= limits.high
            if not (within and (inside if self.split_rule == "interpolation" else at_end)):
                where = "inside" if self.split_rule == "interpolation" else "at one end of"
                raise self._error(
                    f"held_out {name!r} is [{low}, {high}]; under {self.split_rule!r} it must lie "
                    f"{where} the range [{limits.low}, {limits.high}]"
                )
        if not _without(limits.low, limits.high, intervals):
            raise self._error(f"held_out {name!r} leaves nothing of its range for training")

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

    def _columns(self, name: str) -> slice:
        where = self._slices[name]
        return slice(where, where + 1) if isinstance(where, int) else where

    @cached_property
    def _bounds(self) -> tuple[Array, Array]:
        """Bounds by column; 0 and 1 for what is not a range and transforms the uniform itself."""
        ordered = (self.ranges[name] for name in sorted(self.ranges))
        pairs = [
            [limits.support if isinstance(limits, Range) else (0.0, 1.0)] * (limits.size or 1)
            for limits in ordered
        ]
        low, high = np.concatenate(pairs).astype(np.float32).T
        return low, high

    @property
    def _low(self) -> Array:
        return self._bounds[0]

    @cached_property
    def _span(self) -> Array:
        return self._bounds[1] - self._low

    @cached_property
    def _varies(self) -> NDArray[np.bool_]:
        varies = np.zeros(len(self._low), np.bool_)
        for name, limits in self.ranges.items():
            varies[self._columns(name)] = limits.constant is None
        return varies

    @cached_property
    def _constants(self) -> dict[str, Any]:
        """Constants as given: float32 would turn a gravity of 9.8 into 9.800000190734863."""
        constants = {}
        for name, limits in self.ranges.items():
            if (value := limits.constant) is not None:
                constants[name] = value if limits.size is None else (value,) * limits.size
        return constants

    @cached_property
    def _transforms(self) -> dict[Split, list[tuple[slice, Distribution]]]:
        """By split, the columns that are not drawn by one range, and how they are."""
        train: dict[str, Distribution] = {
            name: limits for name, limits in self.ranges.items() if not isinstance(limits, Range)
        }
        test = dict(train)
        for name, holes in self.held_out.items():
            limits = self.ranges[name]
            assert isinstance(limits, Range)
            train[name] = Intervals(_without(limits.low, limits.high, holes))
            test[name] = Intervals(holes)
        return {
            "train": [(self._columns(name), how) for name, how in train.items()],
            "test": [(self._columns(name), how) for name, how in test.items()],
        }

    @cached_property
    def _weights(self) -> NDArray[np.uint64]:
        return _mix(np.arange(1, len(self._low) + 1, dtype=np.uint64)) | np.uint64(1)

    def _split_bits(self, rows: Array) -> NDArray[np.uint64]:
        # Adding zero turns -0.0 into 0.0, which is the same task.
        words = (rows + np.float32(0)).view(np.uint32).astype(np.uint64)
        return _mix((words * self._weights).sum(axis=1)) & np.uint64(1)

    def _in_split(self, rows: Array, split: Split) -> NDArray[np.bool_]:
        """Return which rows belong to `split`; under held-out intervals some belong to neither."""
        if self.split_rule == "shared":
            return np.ones(len(rows), np.bool_)
        if self.split_rule == "random":
            return np.asarray(self._split_bits(rows) == SPLITS.index(split))
        held = np.empty((len(rows), len(self.held_out)), np.bool_)
        for column, (name, intervals) in enumerate(self.held_out.items()):
            low, high = np.array(intervals, np.float32).T
            values = rows[:, self._columns(name)]
            # Closed, so that a value on the border is in one split and not in both.
            held[:, column] = ((low <= values) & (values <= high)).any(-1)
        return np.asarray(held.all(-1) if split == "test" else ~held.any(-1))

    def _uniform(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return rng.random((*shape, len(self._low)), dtype=np.float32)

    def _transform(self, uniform: Array, split: Split) -> Array:
        """Return as many rows, of which some may not belong to `split`."""
        columns = self._transforms[split]
        drawn = [(where, how.draw(uniform[:, where])) for where, how in columns]
        rows = self._low + self._span * uniform
        for where, values in drawn:
            rows[:, where] = values
        if not np.isfinite(rows).all():
            raise self._error("its ranges draw numbers that are not finite; narrow them")
        rows += np.float32(0)  # -0.0 becomes 0.0: one task must not have two ids
        return rows

    def _rows(self, n: int, rng: np.random.Generator, split: Split) -> Array:
        parts, missing = [self._low[None][:0]], n
        check_split(split)
        while missing > 0:
            rows = self._transform(self._uniform((_candidates(missing),), rng), split)
            parts.append(rows[self._in_split(rows, split)][:missing])
            missing -= len(parts[-1])
        return parts[-1] if len(parts) == 2 else np.concatenate(parts)

    def sample_params(self, n: int, rng: np.random.Generator, split: Split) -> dict[str, Any]:
        """Draw `n` tasks of `split` as float32 arrays by name, shaped (n,) or (n, size).

        The fast path of `sample`: the same draws from the same generator state. A constant that
        float32 does not hold exactly is float64.
        """
        rows = self._rows(n, rng, split)
        params = {name: rows[:, where] for name, where in self._slices.items()}
        for name, constant in self._constants.items():
            exact = np.array(constant)
            if (exact.astype(np.float32) != exact).any():
                params[name] = np.broadcast_to(exact, params[name].shape).copy()
        return params

    @cached_property
    def _template(self) -> Params:
        """The parameters by sorted names, with the constants; what varies is 0."""
        return Params({name: self._constants.get(name, 0.0) for name in self.ranges})

    def _task(self, row: list[float], split: Split) -> Task:
        values: dict[str, Value] = dict(self._template)
        for name, where in self._slices.items():
            if name not in self._constants:
                values[name] = row[where] if isinstance(where, int) else tuple(row[where])
        return Task(family=self.family, params=Params.drawn(values), split=split)

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        """Draw `n` tasks of `split`."""
        return [self._task(row, split) for row in self._rows(n, rng, split).tolist()]

    def check(self, task: Task) -> None:
        """Check that `task` has this space's parameters; unless `strict`, they may have any value.

        Raises:
            UsageError: another family's task, other parameters than this family's, or under
                `strict` values that this space does not draw.
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
        if self.strict:
            self._check_values(task)

    def _check_values(self, task: Task) -> None:
        for name, limits in self.ranges.items():
            if not limits.contains(np.array(task.params[name], np.float32, ndmin=1)):
                raise UsageError(
                    f"task {task.id} of {self.family!r}: {name} is {task.params[name]}, "
                    f"outside {limits}; give the family ranges that hold it"
                )

    def _row(self, task: Task) -> Array:
        self.check(task)
        return np.hstack([task.params[name] for name in sorted(self.ranges)]).astype(np.float32)

    def split_of(self, params: Mapping[str, Any]) -> Split:
        """Return the split that one task's `params` belong to.

        Raises:
            UsageError: they belong to both (`shared`), or to neither: some of several named
                parameters are held out and others are not.
        """
        row = self._row(Task(family=self.family, params=params))[None]
        found = [split for split in SPLITS if self._in_split(row, split)[0]]
        if len(found) != 1:
            which = "both splits" if found else "neither split"
            raise self._error(f"parameters {dict(params)} belong to {which}")
        return found[0]

    def vector(self, task: Task) -> Array:
        """Return the parameters that vary, in the order of their names, as a float32 vector."""
        return self._row(task)[self._varies]


class TaskStream:
    """Tasks one by one: those that `sample(1, rng, split)` would draw in succession.

    They are drawn several at a time, which takes little longer than one. Both splits use the
    generator's numbers alike, so that the split may change from task to task.
    """

    def __init__(self, space: ParameterSpace, rng: np.random.Generator) -> None:
        self._space, self._rng = space, rng
        self._before = rng.bit_generator.state
        self._split: Split | None = None
        self._rows: list[list[float] | None] = []
        """One per block of candidates: the first that belongs to the split, if any does."""
        self._used = 0

    def next(self, split: Split) -> Task:
        """Draw a task of `split`."""
        while True:
            if self._used == len(self._rows):
                self._refill()
            if split != self._split:
                self._choose(split)
            row = self._rows[self._used]
            self._used += 1
            if row is not None:
                return self._space._task(row, split)

    def _refill(self) -> None:
        block = _candidates(1)
        blocks = max(1, _AHEAD // (block * len(self._space._low)))
        self._before = self._rng.bit_generator.state
        self._uniform = self._space._uniform((blocks, block), self._rng)
        self._used, self._split = 0, None

    def _choose(self, split: Split) -> None:
        blocks, block, width = self._uniform.shape
        rows = self._space._transform(self._uniform.reshape(-1, width), check_split(split))
        inside = self._space._in_split(rows, split).reshape(blocks, block)
        first = rows.reshape(blocks, block, width)[np.arange(blocks), inside.argmax(axis=1)]
        found = np.asarray(inside.any(axis=1))
        self._rows = [row if ok else None for row, ok in zip(first.tolist(), found, strict=True)]
        self._split = split

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return (tensors, JSON values) for a checkpoint."""
        return {}, {"rng": self._before, "split": self._split, "used": self._used}

    def load_state_dict(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: the tasks that follow are the same."""
        self._rng.bit_generator.state = values["rng"]
        self._before, self._split, self._rows, self._used = values["rng"], None, [], 0
        if values["split"] is not None:
            # What was drawn ahead is drawn again, from the generator as it was before.
            self._refill()
            self._choose(check_split(values["split"]))
            self._used = int(values["used"])
