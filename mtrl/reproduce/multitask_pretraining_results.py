"""What the trainings of `mtrl reproduce multitask-pretraining` come to: steps until five new tasks are solved.

The new tasks are solved when the mean of their greedy returns is at least 95 % of the experts'. A training that
never gets there counts with all of its steps, fewer than it would need: ratios are then too large, never
too small. Intervals are over seeds, each with tasks of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtrl.evaluation.statistics import (
    Interval,
    PairedDifference,
    interval,
    paired_difference,
    stratified_interval,
)
from mtrl.reproduce.multitask_pretraining_training import Curve, Settings, Start
from mtrl.seeding import numpy_generator

__all__ = ["Comparison", "claims"]

Array = NDArray[np.float64]

LEVEL = 0.95
"""Of the experts' return."""
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All trainings.

    Attributes:
        settings: of all of them.
        experts: mean return of the experts on the new tasks of each seed, (seeds,).
        curves: of each seed, by start.
    """

    settings: Settings
    experts: Array
    curves: Mapping[Start, Sequence[Curve]]

    @property
    def levels(self) -> Array:
        """The return that counts as solving the tasks, (seeds,)."""
        return LEVEL * self.experts

    def reached(self, start: Start, *, with_teaching: bool = False) -> Array:
        """Return after how many steps each seed has solved its tasks, (seeds,); NaN for never.

        Args:
            start: of which trainings.
            with_teaching: whether the steps of imitation on the old tasks count.
        """
        pairs = zip(self.curves[start], self.levels.tolist(), strict=True)
        found = np.array([curve.all_solved(level) for curve, level in pairs])
        return found + self.settings.teaching_steps * (with_teaching and start == "pretrained")

    def steps(self, start: Start, *, with_teaching: bool = False) -> Array:
        """Return the same with all steps of the training for never."""
        found = self.reached(start, with_teaching=with_teaching)
        return np.where(np.isnan(found), self.settings.steps, found)

    def mean_steps(self, start: Start, *, with_teaching: bool = False) -> Interval:
        """Return the mean of `steps`, over seeds."""
        rng = numpy_generator(0, f"bootstrap {start} {with_teaching}")
        values = self.steps(start, with_teaching=with_teaching)
        return interval(values, rng, resamples=RESAMPLES, method="percentile")

    def ratio(self, *, with_teaching: bool = False) -> Interval:
        """Return the steps with pretraining as a multiple of those from scratch."""
        columns = [self.steps("pretrained", with_teaching=with_teaching), self.steps("scratch")]
        rng = numpy_generator(0, f"bootstrap ratio {with_teaching}")
        return stratified_interval(np.stack(columns, 1), rng, _ratio, resamples=RESAMPLES)

    @property
    def saved(self) -> PairedDifference:
        """Steps from scratch less those with pretraining, on the same tasks."""
        rng = numpy_generator(0, "bootstrap saved")
        return paired_difference(
            self.steps("scratch"), self.steps("pretrained"), rng, resamples=RESAMPLES
        )


def claims(comparison: Comparison) -> dict[str, bool]:
    """Return what is claimed, each with whether the numbers bear it out."""
    count = comparison.settings.new_tasks
    return {
        f"Pretraining on other tasks' experts cuts the steps until {count} new tasks are solved, by the whole "
        "paired interval.": comparison.saved.low > 0,
    }


def _ratio(scores: Array) -> Array:
    """Return the first column's mean over the second's, for scores (..., seeds, 2)."""
    means = scores.mean(-2)
    ratios: Array = means[..., 0] / means[..., 1]
    return ratios
