"""What the trainings of `mtrl reproduce aqil` come to: the paper's numbers, ours, and its claims.

A training's mean is that of the true return over all of its episodes, exploration included, as the
paper's seems to be; its best is that of its best episode. Intervals are over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mtrl.evaluation.statistics import Interval, interval, stratified_interval
from mtrl.reproduce.aqil_training import Trained
from mtrl.seeding import numpy_generator

__all__ = ["PAPER", "SMOOTHING", "Comparison", "Row", "claims", "rows_of"]

Array = NDArray[np.float64]

PAPER = ((331.63, 1949.39), (593.1, 6082.91), (681.91, 4652.33), (2000.0, 13000.0))
"""Zhang and Agarwal 2020: average and best episode, in the order of the modes; one run each. The last
two numbers are printed as approximate."""
WANTED_RATIO = 3.0
"""Of AQIL's mean to that of reinforcement learning alone; the paper's is 6."""
SMOOTHING = 25
"""Episodes of a moving mean."""
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One mode.

    Attributes:
        mode: its name.
        paper: what the paper prints, average and best.
        returns: (seeds, episodes), true returns of training episodes.
        lengths: (seeds, episodes), in steps.
        test_returns: (seeds, test episodes), of the greedy policy at the end.
        agreement: (seeds,), of that policy with the expert.
        levels: (seeds, 2), the Q-values' level before and after the switch; NaN where there was none.
    """

    mode: str
    paper: tuple[float, float]
    returns: Array
    lengths: Array
    test_returns: Array
    agreement: Array
    levels: Array

    @property
    def means(self) -> Array:
        """Mean return of each training (seeds,)."""
        means: Array = self.returns.mean(1)
        return means

    @property
    def bests(self) -> Array:
        """Return of each training's best episode (seeds,)."""
        bests: Array = self.returns.max(1)
        return bests

    def over_seeds(self, values: Array, quantity: str) -> Interval:
        """Return the mean of `values` (seeds,) with its 95 % interval."""
        rng = numpy_generator(0, f"bootstrap {self.mode} {quantity}")
        return interval(values, rng, resamples=RESAMPLES)

    @property
    def mean(self) -> Interval:
        """Mean return, over seeds."""
        return self.over_seeds(self.means, "mean")

    @property
    def best(self) -> Interval:
        """Best episode, over seeds."""
        return self.over_seeds(self.bests, "best")

    @property
    def test(self) -> Interval:
        """Mean return of the greedy policy, over seeds."""
        return self.over_seeds(self.test_returns.mean(1), "test")

    def cut_off(self, step_limit: int) -> float:
        """Return the share of training episodes that the technical limit cut off."""
        return float((self.lengths >= step_limit).mean())

    @property
    def window(self) -> int:
        """Episodes of the moving mean."""
        episodes: int = self.returns.shape[1]
        return min(SMOOTHING, max(1, episodes // 5))

    def smoothed(self) -> Array:
        """Return the moving mean of the returns (seeds, episodes - window + 1)."""
        kernel = np.full(self.window, 1 / self.window)
        return np.array([np.convolve(one, kernel, "valid") for one in self.returns])

    def reached(self, level: float) -> Array:
        """Return by seed after how many episodes the moving mean is at `level`; NaN for never."""
        there = self.smoothed() >= level
        return np.where(there.any(1), there.argmax(1) + self.window, np.nan)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All modes, and the expert.

    Attributes:
        rows: in the order of the paper's table.
        expert: (episodes,), true returns of the expert under the limit of training.
        expert_test: (episodes,), of the expert under the limit of the test.
    """

    rows: Sequence[Row]
    expert: Array
    expert_test: Array

    @property
    def expert_level(self) -> float:
        """The expert's mean return under the limit of training."""
        return float(self.expert.mean())

    @property
    def ratio(self) -> Interval:
        """AQIL's mean as a multiple of that of reinforcement learning alone."""
        means = np.stack([self.rows[-1].means, self.rows[0].means], axis=1)
        rng = numpy_generator(0, "bootstrap ratio")
        return stratified_interval(means, rng, _ratio, resamples=RESAMPLES)


def rows_of(trained: Mapping[str, Sequence[Trained]]) -> list[Row]:
    """Return a row for each mode; `trained` has what each seed did, in the same order of seeds."""
    return [
        Row(
            mode=mode,
            paper=paper,
            returns=np.stack([one.returns for one in each]),
            lengths=np.stack([one.lengths for one in each]),
            test_returns=np.stack([one.test_returns for one in each]),
            agreement=np.array([one.agreement for one in each]),
            levels=np.array([[one.switch.get(name, np.nan) for name in _LEVELS] for one in each]),
        )
        for (mode, each), paper in zip(trained.items(), PAPER, strict=True)
    ]


_LEVELS = ("q_before", "q_after")


def claims(comparison: Comparison) -> dict[str, bool]:
    """Return what the paper claims, each with whether our numbers bear it out."""
    scratch, short, long, aqil = comparison.rows
    means = [row.mean.estimate for row in (aqil, long, short, scratch)]
    ratio = comparison.ratio
    return {
        f"Mean returns are ordered: {aqil.mode} > {long.mode} > {short.mode} > {scratch.mode}.": all(
            one > other for one, other in pairwise(means)
        ),
        f"The mean return of {aqil.mode} is at least {WANTED_RATIO:g} times that of {scratch.mode} in all of "
        "the ratio's 95 % interval.": ratio.low >= WANTED_RATIO,
    }


def _ratio(scores: Array) -> Array:
    """Return the first column's mean over the second's, for scores (..., seeds, 2)."""
    means = scores.mean(-2)
    ratios: Array = means[..., 0] / means[..., 1]
    return ratios
