"""What the scores of a family say: interquartile means, chances of improvement, profiles."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtrl.benchmarks.quality.scores import FamilyScores
from mtrl.evaluation.statistics import (
    Interval,
    Profile,
    iqm,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)
from mtrl.seeding import numpy_generator

__all__ = ["FamilySummary", "summarise"]

PROFILE_POINTS = 60


@dataclass(frozen=True, kw_only=True)
class FamilySummary:
    """One family.

    Attributes:
        family: its scores.
        iqm: by learner, interquartile mean over runs and tasks after 0, 1, ... adaptation steps.
        mean: by learner, mean after the last step.
        improvement: by learner, the chance that a run of it scores better than one of the reference after the
            last step; the reference is left out.
        reference: the learner compared with.
        profiles: by learner, after the last step, over scores of which higher ones are better.
    """

    family: FamilyScores
    iqm: Mapping[str, tuple[Interval, ...]]
    mean: Mapping[str, Interval]
    improvement: Mapping[str, Interval]
    reference: str
    profiles: Mapping[str, Profile]


def summarise(family: FamilyScores, reference: str, seed: int) -> FamilySummary:
    """Return the statistics of a family, with 95 % stratified bootstrap intervals.

    Args:
        family: the scores.
        reference: learner to compare with; the first if it is not there.
        seed: of the resamples; each number has a stream of its own.
    """
    reference = reference if reference in family.scores else next(iter(family.scores))
    last = family.steps

    def rng(what: str) -> np.random.Generator:
        return numpy_generator(seed, f"quality {family.family} {what}")

    def interval(learner: str, steps: int, *, plain: bool = False) -> Interval:
        values = family.scores[learner][:, :, steps]
        statistic = (lambda x: x.mean((-2, -1))) if plain else iqm
        return stratified_interval(values, rng(f"{learner} {steps} {plain}"), statistic)

    thresholds = _thresholds(family)
    return FamilySummary(
        family=family,
        iqm={
            learner: tuple(interval(learner, steps) for steps in range(last + 1))
            for learner in family.scores
        },
        mean={learner: interval(learner, last, plain=True) for learner in family.scores},
        improvement={
            learner: probability_of_improvement(
                family.upwards(learner, last),
                family.upwards(reference, last),
                rng(f"{learner} against {reference}"),
            )
            for learner in family.scores
            if learner != reference
        },
        reference=reference,
        profiles={
            learner: performance_profile(
                family.upwards(learner, last), thresholds, rng(f"{learner} profile"), resamples=500
            )
            for learner in family.scores
        },
    )


def _thresholds(family: FamilyScores) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return levels between all but the worst hundredth of the last scores, and all but the best."""
    last = np.concatenate([family.upwards(name, family.steps).ravel() for name in family.scores])
    low, high = np.quantile(last, [0.02, 0.995])
    return np.linspace(low, high, PROFILE_POINTS)
