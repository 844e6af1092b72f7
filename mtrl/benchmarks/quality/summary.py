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
        mean: by learner, mean after its last step.
        improvement: by learner, the chance that a run of it scores better than one of the reference, each after
            its last step; the reference is left out.
        reference: the learner compared with.
        profiles: by learner, after its last step, over scores of which higher ones are better.
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
    learners = family.learners
    reference = reference if reference in learners else next(iter(learners))

    def rng(what: str) -> np.random.Generator:
        return numpy_generator(seed, f"quality {family.family} {what}")

    def interval(learner: str, steps: int, *, plain: bool = False) -> Interval:
        values = learners[learner].values[:, :, steps]
        statistic = (lambda x: x.mean((-2, -1))) if plain else iqm
        return stratified_interval(values, rng(f"{learner} {steps} {plain}"), statistic)

    thresholds = _thresholds(family)
    return FamilySummary(
        family=family,
        iqm={
            name: tuple(interval(name, steps) for steps in range(each.values.shape[2]))
            for name, each in learners.items()
        },
        mean={name: interval(name, -1, plain=True) for name in learners},
        improvement={
            name: probability_of_improvement(
                family.last_upwards(name),
                family.last_upwards(reference),
                rng(f"{name} against {reference}"),
            )
            for name in learners
            if name != reference
        },
        reference=reference,
        profiles={
            name: performance_profile(
                family.last_upwards(name), thresholds, rng(f"{name} profile"), resamples=500
            )
            for name in learners
        },
    )


def _thresholds(family: FamilyScores) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return levels between all but the worst hundredth of the last scores, and all but the best."""
    last = np.concatenate([family.last_upwards(name).ravel() for name in family.learners])
    low, high = np.quantile(last, [0.02, 0.995])
    return np.linspace(low, high, PROFILE_POINTS)
