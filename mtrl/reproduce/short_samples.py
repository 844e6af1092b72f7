"""The two examples of Schlesinger and Vodolazskiy 2017: a state, a model, and a short sample.

In both, the object shows a signal s that is normal with variance 1 and mean -1 in the first state
and +1 in the second, and the loss is 1 for the wrong state. What else is observed, which holds what
is known of the model, is taken from finitely many values, the cells. Given the cell, every Bayesian
strategy is a threshold: "first" where s is below it. So s itself is never rounded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr

__all__ = ["SIGNAL_CELLS", "ShortSample", "ThresholdProblem", "unknown_mean", "unknown_share"]

Array = NDArray[np.float64]

SIGNAL_CELLS: Mapping[int, tuple[int, int]] = MappingProxyType(
    {1: (32, 16), 2: (32, 16), 5: (12, 8), 10: (8, 6), 20: (6, 4), 50: (4, 3)}
)
"""Of the second example: sample size to cells of each signal, at full and at half resolution.

A sample is the count of each cell, of which there are (n + cells - 1)! / (n! (cells - 1)!)."""


@dataclass(frozen=True, kw_only=True)
class ThresholdProblem:
    """Two states, a normal signal, and cells; a strategy is a threshold for each cell (cells,).

    Attributes:
        first: (models, cells), probability of the first state together with the cell.
        second: (models, cells), probability of the second state together with the cell.
        best_risks: (models,), the probability of error of who knows the model, and the cells'
            values before they were rounded.
    """

    first: Array
    second: Array
    best_risks: Array

    def respond(self, weights: Array) -> NDArray[Any]:
        """Return half the log ratio of the weighted states, where both are equally likely."""
        with np.errstate(divide="ignore", invalid="ignore"):
            thresholds = np.log(_weigh(weights, self.first) / _weigh(weights, self.second)) / 2
        # A cell that no weighted model reaches is never met: any threshold will do.
        return np.nan_to_num(thresholds, nan=0.0, posinf=np.inf, neginf=-np.inf)

    def risks(self, strategy: NDArray[Any]) -> Array:
        """Return the probability of a wrong decision at each model (models,)."""
        risks: Array = self.first @ ndtr(-strategy - 1) + self.second @ ndtr(strategy - 1)
        return risks


@dataclass(frozen=True, kw_only=True)
class ShortSample:
    """An example at one sample size.

    Attributes:
        models: (models,), the values of the unknown parameter.
        problem: its cells hold the learning sample.
        log_likelihoods: (models, cells), of the learning sample up to a constant.
    """

    models: Array
    problem: ThresholdProblem
    log_likelihoods: Array


def unknown_mean(samples: int, *, coarse: bool = False) -> ShortSample:
    """Return the first example: the second state's mean in a second signal is unknown.

    Equally likely states give signals N((2, 0), I) and N((0, theta), I), theta in [-6, 6]; the
    sample is of the second state, with variance 16. Its mean is sufficient, and s = 1 - x1.
    The second signal and the sample's mean lie on lattices of half a standard deviation, with
    probabilities as the densities; for a normal density this sum is 1 to about 1e-10.

    Args:
        samples: size of the learning sample.
        coarse: half as many models, and lattices of twice the width.
    """
    width = 1.0 if coarse else 0.5
    models = np.linspace(-6, 6, 25 if coarse else 49)
    deviation = 4 / math.sqrt(samples)
    signals = _lattice(12, width)
    means = deviation * _lattice(6 / deviation + 6, width)
    mean_mass = width * _density((means - models[:, None]) / deviation)
    distances = (means - models[:, None]) ** 2

    def cells(signal_mass: Array) -> Array:
        """Return (models, signals * means), the probability of both for half of all objects."""
        return (signal_mass[:, :, None] * mean_mass[:, None] / 2).reshape(len(models), -1)

    return ShortSample(
        models=models,
        problem=ThresholdProblem(
            first=cells(width * _density(np.broadcast_to(signals, (len(models), len(signals))))),
            second=cells(width * _density(signals - models[:, None])),
            best_risks=ndtr(-np.sqrt(4 + models**2) / 2),
        ),
        log_likelihoods=np.tile(-distances / (2 * deviation**2), len(signals)),
    )


def unknown_share(samples: int, *, coarse: bool = False) -> ShortSample:
    """Return the second example, after Robbins 1951: the share of the first state is unknown.

    The first state has probability theta in [0, 1]; the sample is of unlabelled signals of other
    objects, each rounded to one of `SIGNAL_CELLS` that are equally likely at theta = 1/2.

    Args:
        samples: size of the learning sample, one of `SIGNAL_CELLS`.
        coarse: half as many models, and fewer cells.
    """
    models = np.linspace(0, 1, 21 if coarse else 41)
    cells = SIGNAL_CELLS[samples][coarse]
    shares = models[:, None]
    likelihoods = shares * _cell_masses(cells, -1) + (1 - shares) * _cell_masses(cells, 1)
    counts = _counts(samples, cells)
    log_likelihoods = np.log(likelihoods) @ counts.T
    orders = gammaln(samples + 1) - gammaln(counts + 1).sum(1)
    probabilities = np.exp(orders + log_likelihoods)
    alone = ThresholdProblem(first=shares, second=1 - shares, best_risks=np.zeros(len(models)))
    best = [
        alone.risks(alone.respond(unit))[index] for index, unit in enumerate(np.eye(len(models)))
    ]
    return ShortSample(
        models=models,
        problem=ThresholdProblem(
            first=shares * probabilities,
            second=(1 - shares) * probabilities,
            best_risks=np.array(best),
        ),
        log_likelihoods=log_likelihoods,
    )


def _weigh(weights: Array, masses: Array) -> Array:
    """Return the weighted sum over models (cells,)."""
    total: Array = weights @ masses if weights.ndim == 1 else (weights * masses).sum(0)
    return total


def _lattice(reach: float, width: float) -> Array:
    """Return the multiples of `width` that cover [-reach, reach]."""
    half = math.ceil(reach / width)
    return width * np.arange(-half, half + 1, dtype=np.float64)


def _density(values: Array) -> Array:
    density: Array = np.exp(-(values**2) / 2) / math.sqrt(2 * math.pi)
    return density


def _cell_masses(cells: int, mean: float) -> Array:
    """Return the probability of each cell of a signal (cells,)."""
    grid = np.linspace(-6, 6, 10_001)
    both = (ndtr(grid + 1) + ndtr(grid - 1)) / 2
    edges = np.interp(np.arange(1, cells) / cells, both, grid)
    masses: Array = np.diff(ndtr(np.concatenate([[-np.inf], edges - mean, [np.inf]])))
    return masses


def _counts(samples: int, cells: int) -> Array:
    """Return all ways to put the samples into cells (ways, cells): stars between bars."""
    bars = np.array(list(combinations(range(samples + cells - 1), cells - 1)), dtype=np.float64)
    ends = np.full((len(bars), 1), 1.0)
    return np.diff(np.hstack([-ends, bars, ends * (samples + cells - 1)])) - 1
