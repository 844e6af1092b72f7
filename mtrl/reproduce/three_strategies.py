"""Three strategies for the same short sample, and what the paper claims of them.

Source: Schlesinger and Vodolazskiy 2017 (arXiv:1707.04849).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mtrl.evaluation.minimax_deviation import maximum_likelihood, minimax, minimax_deviation
from mtrl.reproduce.short_samples import SIGNAL_CELLS, ShortSample, unknown_mean, unknown_share

__all__ = [
    "DEVIATION",
    "EXAMPLES",
    "LIKELIHOOD",
    "MINIMAX",
    "QUICK_SIZES",
    "STRATEGIES",
    "Comparison",
    "Example",
    "claims",
    "compare",
]

Array = NDArray[np.float64]

LIKELIHOOD, MINIMAX, DEVIATION = STRATEGIES = (
    "maximum likelihood",
    "minimax",
    "minimax deviation",
)
QUICK_SIZES = (1, 10)
"""Sample sizes of a quick run; of a full one, those whose risks are drawn."""
TOLERANCE = 1e-5
"""Largest duality gap; hundreds of times below what separates the strategies."""
MINIMAX_RISK = 0.15865525393145707
"""Of both examples: the normal distribution function at -1, an accuracy of 0.84."""
FAR = 1 / 20
"""A maximum deviation below this share of minimax's counts as gone."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One of the two examples.

    Attributes:
        name: in the table.
        parameter: what is unknown, with its range.
        build: (samples, coarse=) to the example at a sample size.
        sizes: of the learning sample, those of the paper first.
        of_paper: how many of them are the paper's.
    """

    name: str
    parameter: str
    build: Callable[..., ShortSample]
    sizes: tuple[int, ...]
    of_paper: int = 4


EXAMPLES = (
    Example(
        name="unknown mean",
        parameter="θ, mean of the second state",
        build=unknown_mean,
        sizes=(1, 2, 3, 10, 30, 100),
    ),
    Example(
        name="unknown share",
        parameter="θ, share of the first state",
        build=unknown_share,
        sizes=tuple(SIGNAL_CELLS),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The three strategies of one example at one sample size.

    Attributes:
        example: name.
        samples: size of the learning sample.
        of_paper: whether the paper shows this size.
        models: (models,).
        best_risks: (models,), of who knows the model.
        risks: strategy to its risk at each model (models,).
        gap: the largest duality gap of the two that are solutions.
        change: strategy to how far its maximum deviation moved from half the resolution; empty
            where that was not tried.
    """

    example: str
    samples: int
    of_paper: bool
    models: Array
    best_risks: Array
    risks: Mapping[str, Array]
    gap: float
    change: Mapping[str, float] = field(default_factory=dict)

    def max_risk(self, strategy: str) -> float:
        """Return the largest probability of error over models."""
        return float(self.risks[strategy].max())

    def max_deviation(self, strategy: str) -> float:
        """Return the largest distance from the best risk over models."""
        return float((self.risks[strategy] - self.best_risks).max())

    @property
    def margin(self) -> float:
        """How far minimax deviation is below the better one of the others."""
        others = min(self.max_deviation(LIKELIHOOD), self.max_deviation(MINIMAX))
        return others - self.max_deviation(DEVIATION)

    @property
    def error(self) -> float:
        """What the margin could be wrong by: twice the largest change, and the duality gap."""
        return 2 * max(map(abs, self.change.values()), default=0.0) + self.gap


def compare(example: Example, samples: int, *, quick: bool = False) -> Comparison:
    """Return the three strategies at one sample size; a quick one at half the resolution only."""
    half = _solve(example, samples, coarse=True)
    if quick:
        return half
    full = _solve(example, samples, coarse=False)
    change = {name: full.max_deviation(name) - half.max_deviation(name) for name in STRATEGIES}
    return replace(full, change=change)


def claims(rows: Sequence[Comparison]) -> dict[str, bool]:
    """Return the paper's claims, each with whether the numbers bear it out."""
    of_paper = [row for row in rows if row.of_paper]
    curves = [[row for row in rows if row.example == example.name] for example in EXAMPLES]
    deviations = [[row.max_deviation(DEVIATION) for row in curve] for curve in curves]
    return {
        "At every sample size of the paper the maximum deviation of minimax deviation is below "
        "those of both others, by more than the numbers may be wrong.": all(
            row.margin > row.error for row in of_paper
        ),
        "It is not above them at any larger size, as far as the numbers tell, and falls with every "
        "increase of the sample.": all(row.margin >= -row.error for row in rows)
        and all((np.diff(values) < 0).all() for values in deviations),
        f"It goes to 0: with the largest sample it is below {FAR:.0%} of minimax's.": all(
            values[-1] < FAR * curve[-1].max_deviation(MINIMAX)
            for values, curve in zip(deviations, curves, strict=True)
        ),
        "Minimax ignores the sample: its risk is 0.16, an accuracy of 0.84, at every model and every "
        "sample size.": all(
            np.abs(row.risks[MINIMAX] - MINIMAX_RISK).max() < TOLERANCE for row in rows
        ),
        "The shortest sample is better ignored than used by maximum likelihood, whose maximum "
        "risk and deviation are above minimax's at n = 1.": all(
            row.max_risk(LIKELIHOOD) > row.max_risk(MINIMAX)
            and row.max_deviation(LIKELIHOOD) > row.max_deviation(MINIMAX)
            for row in rows
            if row.samples == 1
        ),
    }


def _solve(example: Example, samples: int, *, coarse: bool) -> Comparison:
    sample = example.build(samples, coarse=coarse)
    problem = sample.problem
    plug_in = maximum_likelihood(problem, sample.log_likelihoods)
    safe = minimax(problem, tolerance=TOLERANCE)
    nearest = minimax_deviation(problem, tolerance=TOLERANCE)
    return Comparison(
        example=example.name,
        samples=samples,
        of_paper=samples in example.sizes[: example.of_paper],
        models=sample.models,
        best_risks=problem.best_risks,
        risks={
            LIKELIHOOD: problem.risks(plug_in),
            MINIMAX: safe.risks,
            DEVIATION: nearest.risks,
        },
        gap=max(safe.gap, nearest.gap),
    )
