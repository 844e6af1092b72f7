"""What lives under one condition have in common, and what the paper claims of the conditions.

Source: Li 2020 (arXiv:2001.09608), section 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtrl.evaluation.statistics import Interval, interval
from mtrl.reproduce.lifelong_lives import CONDITIONS, Condition, LifeRecord, Plan

__all__ = ["PAPER", "Summary", "claims", "curve", "ratio", "summarise"]

Array = NDArray[np.float64]
RESAMPLES = 10_000

PROGRESS_FREE, PROGRESS_BIASED, LEFT_FREE, LEFT_BIASED, *_ = CONDITIONS
PAPER: Mapping[Condition, str] = {
    PROGRESS_FREE: "100 % after about 25M steps",
    PROGRESS_BIASED: "100 % after about 8M steps",
    LEFT_FREE: "not 100 % within 100M steps",
    LEFT_BIASED: "100 % after about 50M steps, the optimal way by about 90M",
}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The lives under one condition; steps are NaN where something is not so at the life's end.

    Attributes:
        condition: which.
        steps: of a life.
        success: (lives,), steps after which both errands are done in time, for the rest of the life.
        short_way: (lives,), the same for doing both by the short way.
        lured: whether each life that reaches success goes left when it does.
        final: (lives,), share of the two errands that are done in time at the life's end.
        in_time: (lives,), share of the errands in the last tenth of the life that are in time.
    """

    condition: Condition
    steps: int
    success: Array
    short_way: Array
    lured: Sequence[bool]
    final: Array
    in_time: Array

    def reached(self, steps: Array) -> int:
        """Return in how many lives it is so at the end."""
        return int(np.isfinite(steps).sum())

    def mean(self, steps: Array, rng: np.random.Generator) -> Interval | None:
        """Return the mean with its 95 % bootstrap interval over lives; None if it is not so in all."""
        if not np.isfinite(steps).all():
            return None
        return interval(steps, rng, resamples=RESAMPLES)


def summarise(condition: Condition, records: Sequence[LifeRecord], plan: Plan) -> Summary:
    """Return what the lives under `condition` have in common."""

    def steps(lists: Sequence[Sequence[bool]]) -> Array:
        found = [record.first_lasting(list(h)) for record, h in zip(records, lists, strict=True)]
        return np.array([np.nan if n is None else n * plan.probe_every for n in found])

    success = steps([[share == 1.0 for share in record.success] for record in records])
    tenth = max(1, plan.probes(condition) // 10)
    return Summary(
        condition=condition,
        steps=plan.probes(condition) * plan.probe_every,
        success=success,
        short_way=steps([record.short_way for record in records]),
        lured=[
            record.left[int(n) // plan.probe_every - 1]
            for record, n in zip(records, success, strict=True)
            if np.isfinite(n)
        ],
        final=np.array([record.success[-1] for record in records]),
        in_time=np.array(
            [sum(r.in_time[-tenth:]) / max(1, sum(r.completed[-tenth:])) for r in records]
        ),
    )


def curve(records: Sequence[LifeRecord], rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return by probe the share of errands done in time, and its 95 % bounds over resampled lives."""
    values = np.array([record.success for record in records])
    return _band(values, rng)


def _band(values: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    draws = rng.integers(len(values), size=(1000, len(values)))
    means = values[draws].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return values.mean(axis=0), low, high


def ratio(slow: Array, fast: Array, rng: np.random.Generator) -> Interval:
    """Return the ratio of two means with its 95 % percentile bootstrap interval.

    Both are resampled on their own: the lives of two conditions have nothing in common.
    """
    means = [
        sample[rng.integers(len(sample), size=(RESAMPLES, len(sample)))].mean(axis=1)
        for sample in (slow, fast)
    ]
    low, high = np.quantile(means[0] / means[1], [0.025, 0.975])
    return Interval(estimate=float(slow.mean() / fast.mean()), low=float(low), high=float(high))


def claims(
    summaries: Mapping[Condition, Summary], rng: np.random.Generator
) -> tuple[dict[str, bool], Interval]:
    """Return by claim whether it holds, and how many times the biased steps the unbiased ones are.

    A life that never succeeds counts with all of its steps, so that the ratio is too small if
    anything.
    """
    free, biased = summaries[PROGRESS_FREE], summaries[PROGRESS_BIASED]
    misled, overcoming = summaries[LEFT_FREE], summaries[LEFT_BIASED]
    lives = len(free.success)
    slow = np.where(np.isnan(free.success), free.steps, free.success)
    fast = np.where(np.isnan(biased.success), biased.steps, biased.success)
    times = ratio(slow, fast, rng)
    found = {
        "With progress guidance every biased life reaches 100 % success, and stays there.": (
            biased.reached(biased.success) == lives
        ),
        (
            "It takes at most half the steps of the unbiased ones, by the whole interval of the ratio "
            "of means."
        ): times.low >= 2,
        (
            "With sub-optimal guidance the unbiased lives are not at 100 % at their end, by the whole "
            "interval of their mean."
        ): interval(misled.final, rng, resamples=RESAMPLES).high < 1,
        "With it every biased life reaches 100 % success, and stays there.": (
            overcoming.reached(overcoming.success) == lives
        ),
        (
            "The guidance misleads: when they reach it, most biased lives do an errand by the left, "
            "longer way."
        ): 2 * sum(overcoming.lured) > lives,
        "It is overcome: in the end every biased life does both errands by the short way.": (
            overcoming.reached(overcoming.short_way) == lives
        ),
    }
    return found, times
