"""Intervals and comparisons for scores: what a result states besides its mean.

Every random number comes from a generator that the caller passes: the same generator state gives
the same interval. Scores that are not finite are refused by name, since an average that silently
drops a diverged run is not the run's average. Where there are too few samples to say how much they
vary, the estimate is returned with bounds of NaN, so that a report of a single run still prints.

Sources: Efron 1987 for the BCa interval; Agarwal et al. 2021 (arXiv:2108.13264, rliable) for the
interquartile mean, the stratified bootstrap, the probability of improvement and performance profiles.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

__all__ = [
    "Interval",
    "PairedDifference",
    "Profile",
    "interval",
    "iqm",
    "normal_interval",
    "paired_difference",
    "performance_profile",
    "probability_of_improvement",
    "stratified_interval",
]

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# Resampled values held at once: 8 MiB of float64.
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and the confidence bounds around it; the bounds are NaN if nothing is known."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.estimate:.2f} (no interval)"
        digits = _decimals(self.low, self.high)
        return f"{self.estimate:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The difference a - b over pairs measured on the same tasks with the same noise.

    Attributes:
        mean: mean of a - b.
        low: lower bound of the mean.
        high: upper bound of the mean.
        n: number of pairs.
        share_above: share of pairs where a is above b, ties counted half. Which side is better
            depends on the score: an error should be below, a return above.
        p_value: two-sided, from random sign flips; the chance of a mean this far from zero if
            a and b were exchangeable within each pair.
    """

    mean: float
    low: float
    high: float
    n: int
    share_above: float
    p_value: float

    def __str__(self) -> str:
        mean = Interval(estimate=self.mean, low=self.low, high=self.high)
        return f"{mean}, above in {self.share_above:.0%} of {self.n} pairs, p = {self.p_value:.2g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """A performance profile: the share of all scores above each threshold, each (thresholds,).

    Attributes:
        thresholds: increasing.
        share: of the scores of all runs and tasks.
        low, high: confidence bounds at each threshold by itself; NaN if nothing is known.
    """

    thresholds: Array
    share: Array
    low: Array
    high: Array


def interval(
    samples: npt.ArrayLike,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
    method: Literal["bca", "percentile"] = "bca",
) -> Interval:
    """Return the mean of independent samples with its bootstrap interval.

    "bca" corrects the percentile interval for bias and skewness and is the better one for skewed
    scores such as errors; "percentile" is the plain quantiles of the resampled means.

    Raises:
        ValueError: there are no samples, one is not finite, or an option is out of range.
    """
    values = _finite("samples", samples, axes=1)
    _check_options(confidence, resamples)
    if method not in ("bca", "percentile"):
        raise ValueError(f"method must be 'bca' or 'percentile', got {method!r}")
    estimate = float(values.mean())
    if len(values) < 2:
        return _unknown(estimate)
    draws = _choices(rng, (len(values),), len(values), resamples)
    means = np.concatenate([values[index].mean(-1) for index in draws])
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        tails = _bca_levels(values, means, tails)
    low, high = np.quantile(means, tails)
    return Interval(estimate=estimate, low=float(low), high=float(high))


def normal_interval(samples: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the mean ± z s/√n (1.96 s/√n at 95 %), the interval that most papers print.

    Raises:
        ValueError: there are no samples, one is not finite, or the confidence is out of range.
    """
    values = _finite("samples", samples, axes=1)
    _check_options(confidence, 1)
    estimate = float(values.mean())
    if len(values) < 2:
        return _unknown(estimate)
    half = float(ndtri((1 + confidence) / 2) * values.std(ddof=1) / math.sqrt(len(values)))
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half)


def iqm(scores: npt.ArrayLike) -> Array:
    """Return the mean of the middle half of all scores, over the last two axes (runs, tasks).

    A quarter of the scores, rounded down, is cut from each end.
    """
    values = np.asarray(scores, dtype=np.float64)
    ordered = np.sort(values.reshape(*values.shape[:-2], -1), axis=-1)
    cut = ordered.shape[-1] // 4
    middle: Array = ordered[..., cut : ordered.shape[-1] - cut].mean(-1)
    return middle


def stratified_interval(
    scores: npt.ArrayLike,
    rng: np.random.Generator,
    statistic: Callable[[Array], Array] = iqm,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> Interval:
    """Return a statistic of scores (runs, tasks) with its stratified bootstrap interval.

    Runs are resampled within each task, independently between tasks; the bounds are percentiles.

    Args:
        scores: (runs, tasks).
        rng: the generator of the resamples.
        statistic: maps (..., runs, tasks) to (...).
        confidence: share of intervals that should hold the truth.
        resamples: number of resampled statistics.

    Raises:
        ValueError: the scores are not (runs, tasks), or one is not finite.
    """
    values = _finite("scores", scores, axes=2)
    _check_options(confidence, resamples)
    estimate = float(statistic(values))
    if len(values) < 2:
        return _unknown(estimate)
    draws = _choices(rng, values.shape, len(values), resamples)
    resampled = [statistic(np.take_along_axis(values[None], index, axis=1)) for index in draws]
    return _percentiles(estimate, np.concatenate(resampled), confidence)


def performance_profile(
    scores: npt.ArrayLike,
    thresholds: npt.ArrayLike,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> Profile:
    """Return the share of scores (runs, tasks) above each threshold, with stratified bootstrap bounds.

    It is Agarwal et al.'s score distribution: unlike a mean it shows on how much of the tasks and runs a
    learner fails, and it needs no common scale of the tasks to be read.

    Args:
        scores: (runs, tasks).
        thresholds: (thresholds,).
        rng: the generator of the resamples.
        confidence: share of bounds that should hold the truth, at each threshold.
        resamples: number of resampled profiles.

    Raises:
        ValueError: the scores are not (runs, tasks), the thresholds not a vector, or one is not finite.
    """
    values, levels = _finite("scores", scores, axes=2), _finite("thresholds", thresholds, axes=1)
    _check_options(confidence, resamples)
    share = _shares_above(values[None], levels)[0]
    if len(values) < 2:
        unknown = np.full_like(share, math.nan)
        return Profile(thresholds=levels, share=share, low=unknown, high=unknown)
    draws = _choices(rng, values.shape, len(values), resamples)
    resampled = [
        _shares_above(np.take_along_axis(values[None], index, axis=1), levels) for index in draws
    ]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(np.concatenate(resampled), tails, axis=0)
    return Profile(thresholds=levels, share=share, low=low, high=high)


def probability_of_improvement(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> Interval:
    """Return the chance that a run of `x` scores above one of `y`, averaged over tasks.

    Per task it is the Mann-Whitney statistic over all pairs of runs, ties counted half; the
    interval resamples the runs of both within each task.

    Args:
        x: (runs, tasks), higher is better.
        y: (runs, tasks), the same tasks; the number of runs may differ.
        rng: the generator of the resamples.
        confidence: share of intervals that should hold the truth.
        resamples: number of resampled probabilities.

    Raises:
        ValueError: the scores are not (runs, tasks) over equal tasks, or one is not finite.
    """
    a, b = _finite("x", x, axes=2), _finite("y", y, axes=2)
    _check_options(confidence, resamples)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"x {a.shape} and y {b.shape} must cover the same tasks (the second axis)")
    wins = _wins(a[:, None] - b)
    estimate = float(wins.mean())
    if min(len(a), len(b)) < 2:
        return _unknown(estimate)
    tasks = np.arange(a.shape[1])
    size = len(a) * b.size
    pairs = zip(
        _choices(rng, a.shape, len(a), resamples, size=size),
        _choices(rng, b.shape, len(b), resamples, size=size),
        strict=True,
    )
    resampled = [wins[i[:, :, None], j[:, None], tasks].mean((1, 2, 3)) for i, j in pairs]
    return _percentiles(estimate, np.concatenate(resampled), confidence)


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> PairedDifference:
    """Compare two learners measured on identical tasks with identical noise, pair by pair.

    What a pair shares cancels, so the interval is narrower than that of two separate means. It is
    the BCa bootstrap of the mean of a - b.

    Raises:
        ValueError: the two do not pair up, or a score is not finite.
    """
    first, second = _finite("a", a, axes=1), _finite("b", b, axes=1)
    if len(first) != len(second):
        raise ValueError(
            f"a ({len(first)}) and b ({len(second)}) must hold one score for each of the same tasks"
        )
    differences = first - second
    mean = interval(differences, rng, confidence, resamples)
    return PairedDifference(
        mean=mean.estimate,
        low=mean.low,
        high=mean.high,
        n=len(differences),
        share_above=float(_wins(differences).mean()),
        p_value=_sign_flip_p_value(differences, rng, resamples),
    )


def _shares_above(values: Array, thresholds: Array) -> Array:
    """Return the share of `values` (n, runs, tasks) above each threshold, (n, thresholds)."""
    return np.stack([(values > level).mean((1, 2)) for level in thresholds], axis=1)


def _bca_levels(values: Array, means: Array, tails: Array) -> Array:
    """Return the quantile levels that correct for bias and skewness (Efron 1987, eq. 6.8)."""
    centred = values - values.mean()
    squares = float((centred**2).sum())
    # Equal samples: every resampled mean is the estimate, up to rounding, and any level finds it.
    if squares <= np.finfo(float).eps * float((values**2).sum()):
        return tails
    acceleration = float((centred**3).sum()) / (6 * squares**1.5)
    # Half a count keeps the correction finite when all resamples fall on one side.
    below = (_wins(values.mean() - means).sum() + 0.5) / (len(means) + 1)
    shifted = ndtri(below) + ndtri(tails)
    levels: Array = ndtr(ndtri(below) + shifted / (1 - acceleration * shifted))
    return levels


def _sign_flip_p_value(differences: Array, rng: np.random.Generator, resamples: int) -> float:
    """Return the two-sided p-value of the mean under random signs, the observed signs counted."""
    # Rounding must not turn a tie with the observed sum into a miss.
    observed = abs(float(differences.sum())) * (1 - 1e-12)
    extreme = 1
    for signs in _choices(rng, differences.shape, 2, resamples):
        extreme += int(np.count_nonzero(np.abs((2.0 * signs - 1.0) @ differences) >= observed))
    return extreme / (resamples + 1)


def _choices(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    options: int,
    resamples: int,
    size: int | None = None,
) -> Iterator[Indices]:
    """Yield random indices (some resamples, *shape) below `options`, in chunks of bounded memory.

    `size` is the number of values that one resample makes, if more than its indices.
    """
    chunk = max(1, _CHUNK // (size or math.prod(shape)))
    for start in range(0, resamples, chunk):
        yield rng.integers(options, size=(min(chunk, resamples - start), *shape))


def _percentiles(estimate: float, resampled: Array, confidence: float) -> Interval:
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate=estimate, low=float(low), high=float(high))


def _unknown(estimate: float) -> Interval:
    return Interval(estimate=estimate, low=math.nan, high=math.nan)


def _wins(differences: Array) -> Array:
    return np.heaviside(differences, 0.5)


def _decimals(low: float, high: float) -> int:
    """Return the decimals that show the half width's first digit, between 2 and 6."""
    half = (high - low) / 2
    return min(6, max(2, math.ceil(-math.log10(half)))) if half > 0 else 2


def _finite(name: str, values: npt.ArrayLike, axes: int) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != axes or array.size == 0:
        wanted = "(samples,)" if axes == 1 else "(runs, tasks)"
        raise ValueError(f"{name} must have shape {wanted} and not be empty, got {array.shape}")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = ", ".join(map(str, bad[0]))
        raise ValueError(
            f"{name} holds {len(bad)} values that are not finite, the first at [{index}]: "
            "give a diverged run the worst score, or leave it out and say so"
        )
    return array


def _check_options(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}; 95 % is 0.95")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
