"""Distributions of one task parameter, each a transform of uniform numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from mtrl.errors import UsageError

__all__ = [
    "Choice",
    "Distribution",
    "FlatDirichlet",
    "Interval",
    "Intervals",
    "Normal",
    "Range",
    "RangeSpec",
    "distribution_of",
]

Rows = NDArray[np.float32]
Interval = tuple[float, float]
_HALF_BIT = 2.0**-25  # uniform float32 numbers are multiples of 2^-24 in [0, 1)


class Distribution(Protocol):
    """How one parameter is drawn: a number if `size` is None, else a tuple of `size` numbers."""

    @property
    def size(self) -> int | None:
        """The length of the tuple, or None for a number."""

    @property
    def constant(self) -> float | None:
        """The one value that is drawn, or None if it varies."""

    def draw(self, uniform: Rows) -> Rows:
        """Turn uniforms in [0, 1), shaped (tasks, size or 1), into as many values."""

    def contains(self, values: Rows) -> bool:
        """Return whether `values` can be drawn, in float32."""


@dataclass(frozen=True)
class Range:
    """Uniform in [low, high]; equal bounds make it a constant, `size` a tuple."""

    low: float
    high: float
    size: int | None = None

    @property
    def support(self) -> Interval:
        """The bounds."""
        return self.low, self.high

    @property
    def constant(self) -> float | None:
        """The bounds, if they are equal."""
        return self.low if self.low == self.high else None

    def draw(self, uniform: Rows) -> Rows:
        """Return values in the range."""
        low = np.float32(self.low)
        return low + (np.float32(self.high) - low) * uniform

    def contains(self, values: Rows) -> bool:
        """Return whether all `values` lie in the range."""
        inside = (np.float32(self.low) <= values) & (values <= np.float32(self.high))
        return bool(inside.all())


@dataclass(frozen=True)
class Intervals:
    """A number uniform in the union of `intervals`, which must not overlap."""

    intervals: tuple[Interval, ...]
    size: None = None
    constant: None = None

    def __post_init__(self) -> None:
        ordered = sorted(self.intervals)
        for low, high in ordered:
            if not low < high:
                raise UsageError(f"interval [{low}, {high}]: low must be less than high")
        for (_, end), (start, _) in pairwise(ordered):
            if start < end:
                raise UsageError(f"intervals {self.intervals} overlap; merge them")
        if not ordered:
            raise UsageError("a union of no intervals is empty; give at least one")

    @property
    def support(self) -> Interval:
        """The outermost bounds."""
        return min(low for low, _ in self.intervals), max(high for _, high in self.intervals)

    @cached_property
    def _ends(self) -> tuple[Rows, Rows]:
        bounds = np.array(sorted(self.intervals), np.float32)
        return bounds[:, 0], bounds[:, 1]

    def draw(self, uniform: Rows) -> Rows:
        """Return values in the union: long intervals get many, short ones few."""
        low, high = self._ends
        edges = np.concatenate([[0.0], np.cumsum(high - low, dtype=np.float64)])
        along = uniform * edges[-1]
        which = np.clip(np.searchsorted(edges, along, side="right") - 1, 0, len(low) - 1)
        values = (low[which] + (along - edges[which])).astype(np.float32)
        return np.asarray(np.clip(values, low[which], high[which]))

    def contains(self, values: Rows) -> bool:
        """Return whether all `values` lie in one of the intervals."""
        low, high = self._ends
        return bool(((low <= values[..., None]) & (values[..., None] <= high)).any(-1).all())


@dataclass(frozen=True)
class Choice:
    """A number drawn from finitely many `values`, each as likely as the others."""

    values: Sequence[float]
    size: None = None

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("a choice among no values is empty; give at least one")

    @property
    def support(self) -> Interval:
        """The extreme values."""
        return min(self.values), max(self.values)

    @property
    def constant(self) -> float | None:
        """The value, if there is one only."""
        return self.values[0] if len(set(self.values)) == 1 else None

    def draw(self, uniform: Rows) -> Rows:
        """Return some of the values."""
        values = np.array(self.values, np.float32)
        which = (uniform * len(values)).astype(np.int64)
        return np.asarray(values[which.clip(max=len(values) - 1)])

    def contains(self, values: Rows) -> bool:
        """Return whether all `values` are among ours."""
        return bool(np.isin(values, np.array(self.values, np.float32)).all())


@dataclass(frozen=True)
class Normal:
    """Independent normal numbers."""

    mean: float
    std: float
    size: int | None = None
    constant: None = None

    def draw(self, uniform: Rows) -> Rows:
        """Return the quantiles at `uniform`."""
        quantiles = ndtri(uniform.astype(np.float64) + _HALF_BIT)
        return np.asarray(self.mean + self.std * quantiles, np.float32)

    def contains(self, values: Rows) -> bool:
        """Return True: every finite number can be drawn."""
        return True


@dataclass(frozen=True)
class FlatDirichlet:
    """`rows` independent distributions over `outcomes` outcomes, uniform on the simplex."""

    rows: int
    outcomes: int
    constant: None = None

    @property
    def size(self) -> int:
        """All rows in succession."""
        return self.rows * self.outcomes

    def draw(self, uniform: Rows) -> Rows:
        """Normalise exponential numbers: the flat Dirichlet distribution."""
        exponential = -np.log(1.0 - uniform.astype(np.float64) - _HALF_BIT)
        rows = exponential.reshape(-1, self.rows, self.outcomes)
        probabilities = rows / rows.sum(-1, keepdims=True)
        return np.asarray(probabilities.reshape(len(uniform), -1), np.float32)

    def contains(self, values: Any) -> bool:
        """Return whether every row is a distribution, to the rounding of float32."""
        rows = np.asarray(values, np.float64).reshape(-1, self.outcomes)
        # Each of the outcomes is rounded by at most 2^-25 of itself.
        return bool((rows >= 0).all() and np.allclose(rows.sum(-1), 1.0, rtol=0, atol=1e-5))


RangeSpec = float | Interval | Sequence[Interval] | Choice
"""A constant, bounds, several intervals, or a `Choice`."""


def distribution_of(spec: RangeSpec) -> Range | Intervals | Choice:
    """Return the distribution that `spec` is short for."""
    if isinstance(spec, Choice):
        return spec
    if isinstance(spec, int | float):
        return Range(float(spec), float(spec))
    if isinstance(spec[0], int | float):
        low, high = cast(Interval, spec)
        return Range(float(low), float(high))
    pairs = cast(Sequence[Interval], spec)
    return Intervals(tuple((float(low), float(high)) for low, high in pairs))
