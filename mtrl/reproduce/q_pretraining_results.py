"""What the trainings of `mtrl reproduce q-pretraining` come to: episodes to the expert's level, and what is lost.

A policy is at the expert's level when its greedy return is at least 90 % of the way from that of random
actions to the expert's on the same episodes, in three evaluations in a row. A training that never gets there counts with all of its episodes, fewer than it
would need: ratios are then too large, never too small. Intervals are over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtrl.evaluation.statistics import Interval, interval, stratified_interval
from mtrl.reproduce.q_pretraining_training import Curve, Setup, Start
from mtrl.seeding import numpy_generator

__all__ = ["LEVEL", "Comparison", "claims", "on_grid"]

Array = NDArray[np.float64]

LEVEL = 0.9
"""Of the way from random actions to the expert."""
WANTED_RATIO = 1 / 3
"""Of the episodes with pretraining to those without."""
KEPT = 0.5
"""Share of the return at the switch, from that of random actions on, that no later evaluation falls below."""
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One task with and without pretraining.

    Attributes:
        task: its name.
        setup: how it was learned.
        expert: mean return of the expert.
        random: mean return of random actions.
        curves: of each seed, by start.
    """

    task: str
    setup: Setup
    expert: float
    random: float
    curves: Mapping[Start, Sequence[Curve]]

    def level(self, expert: float) -> float:
        """Return what counts as the level of an expert's mean return."""
        return self.random + LEVEL * (expert - self.random)

    def budget(self, start: Start) -> int:
        """Return how many episodes a training has."""
        if start == "scratch":
            return self.setup.scratch_episodes
        return self.setup.teaching_episodes + self.setup.later_episodes

    def reached(self, start: Start) -> Array:
        """Return after how many episodes each seed is at the level, (seeds,); NaN for never."""
        return np.array([curve.reached(self.level(curve.expert)) for curve in self.curves[start]])

    def episodes(self, start: Start) -> Array:
        """Return the same with all episodes for never."""
        found = self.reached(start)
        return np.where(np.isnan(found), self.budget(start), found)

    def mean_episodes(self, start: Start) -> Interval:
        """Return the mean of `episodes`, over seeds."""
        rng = numpy_generator(0, f"bootstrap {self.task} {start}")
        return interval(self.episodes(start), rng, resamples=RESAMPLES, method="percentile")

    @property
    def ratio(self) -> Interval:
        """Episodes with pretraining as a multiple of those without."""
        columns = np.stack([self.episodes("pretrained"), self.episodes("scratch")], axis=1)
        rng = numpy_generator(0, f"bootstrap {self.task} ratio")
        return stratified_interval(columns, rng, _ratio, resamples=RESAMPLES)

    @property
    def kept(self) -> Array:
        """Lowest return after the switch over that at it, both from random actions on, (seeds,)."""
        kept = [
            (curve.worst_after - self.random) / (curve.pretrained - self.random)
            for curve in self.curves["pretrained"]
        ]
        return np.array(kept)


def claims(comparisons: Sequence[Comparison]) -> dict[str, bool]:
    """Return what is claimed, each with whether the numbers bear it out."""
    made = {}
    for each in comparisons:
        made[
            f"{each.task}: with pretraining the expert's level takes at most a third of the episodes, by the "
            "whole interval."
        ] = each.ratio.high <= WANTED_RATIO
        made[
            f"{each.task}: after the switch no seed falls below half of its return at the switch."
        ] = bool((each.kept >= KEPT).all())
    return made


def on_grid(curves: Sequence[Curve], grid: Array) -> Array:
    """Return each curve's latest evaluation at every number of episodes, (seeds, grid); NaN before the first."""
    rows = []
    for curve in curves:
        places = np.searchsorted(curve.used, grid, side="right") - 1
        rows.append(np.where(places >= 0, curve.returns[places], np.nan))
    return np.array(rows)


def _ratio(scores: Array) -> Array:
    """Return the first column's mean over the second's, for scores (..., seeds, 2)."""
    means = scores.mean(-2)
    ratios: Array = means[..., 0] / means[..., 1]
    return ratios
