"""What to decide where a short sample leaves the model unknown: the exact finite solver.

An object shows signals and hides a state; both have a joint probability that depends on an unknown
model out of a finite set; a learning sample depends on the model too. A strategy maps signals and
sample to a decision, possibly at random, and has a risk, the expected loss, at every model. Its
deviation at a model is that risk less the best that any strategy reaches at that model. Three
strategies are compared: maximum likelihood picks the model that makes the sample likeliest and is
then optimal for it; minimax has the smallest maximum risk, and minimax deviation the smallest
maximum deviation.

Of tasks in place of models: risk is minus the return, deviation is regret.

Source: Schlesinger and Vodolazskiy 2017 (arXiv:1707.04849).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from mtrl.errors import MtrlError

__all__ = [
    "Problem",
    "Solution",
    "TableProblem",
    "maximum_likelihood",
    "minimax",
    "minimax_deviation",
    "smallest_maximum",
]

Array = NDArray[np.float64]
Strategy = NDArray[Any]
"""Of one problem, in a form that its own methods understand."""


class Problem(Protocol):
    """Models, and deterministic strategies whose risks at all of them are known."""

    @property
    def best_risks(self) -> Array:
        """Return the smallest risk that any strategy has at each model (models,)."""

    def respond(self, weights: Array) -> Strategy:
        """Return the Bayesian strategy, which has the smallest weighted sum of risks.

        Args:
            weights: (models,), or (models, observations) where they depend on what is observed; not
                negative, and not necessarily of sum 1.
        """

    def risks(self, strategy: Strategy) -> Array:
        """Return the risk of a strategy at each model (models,)."""


@dataclass(frozen=True)
class TableProblem:
    """A problem of finitely many observations; a strategy is a decision for each (observations,).

    Attributes:
        losses: (models, observations, decisions), the expected loss of a decision where an
            observation is made, times the observation's probability.
    """

    losses: Array

    @classmethod
    def with_sample(cls, joint: Array, likelihoods: Array, loss: Array) -> "TableProblem":
        """Return the problem where an observation is a pair of signal and learning sample.

        The pair (x, z) has the index x * samples + z.

        Args:
            joint: (models, signals, states), probabilities p(x, y; model).
            likelihoods: (models, samples), probabilities p(z; model).
            loss: (states, decisions).
        """
        pairs = np.einsum("mxd,mz->mxzd", joint @ loss, likelihoods)
        return cls(pairs.reshape(len(joint), -1, loss.shape[1]))

    @property
    def best_risks(self) -> Array:
        """Return the risk at each model of deciding as if it were known (models,)."""
        best: Array = self.losses.min(-1).sum(-1)
        return best

    def respond(self, weights: Array) -> Strategy:
        """Return for each observation the decision of the smallest weighted loss."""
        spread = weights.reshape(len(weights), -1, 1)
        decisions: Strategy = (spread * self.losses).sum(0).argmin(-1)
        return decisions

    def risks(self, strategy: Strategy) -> Array:
        """Return the risk of the decisions at each model (models,)."""
        risks: Array = self.losses[:, np.arange(len(strategy)), strategy].sum(-1)
        return risks


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A random choice among deterministic strategies, and the weights that prove it optimal.

    Attributes:
        value: the maximum over models that was minimised.
        lower_bound: what no strategy can have as maximum, as `weights` show.
        weights: (models,), of sum 1: the least favourable prior. The strategy that is Bayesian for
            it has `lower_bound` as its weighted mean.
        strategies: those that are chosen from.
        mixture: (strategies,), their probabilities.
        risks: (models,), of the random choice.
    """

    value: float
    lower_bound: float
    weights: Array
    strategies: tuple[Strategy, ...]
    mixture: Array
    risks: Array

    @property
    def gap(self) -> float:
        """How far the value may be from the smallest possible one: the duality gap."""
        return self.value - self.lower_bound


def maximum_likelihood(problem: Problem, likelihoods: Array) -> Strategy:
    """Return the strategy that is optimal for the likeliest model; the first one of equals.

    Args:
        problem: whose strategy.
        likelihoods: (models, observations) of the learning sample that is part of the observation,
            or their logarithms.
    """
    likeliest = likelihoods.argmax(0)
    return problem.respond(np.eye(len(likelihoods))[:, likeliest])


def minimax(problem: Problem, *, tolerance: float = 1e-7) -> Solution:
    """Return the strategy of the smallest maximum risk; see `smallest_maximum`."""
    none = np.zeros_like(problem.best_risks)
    return smallest_maximum(problem, none, none + 1, tolerance=tolerance)


def minimax_deviation(problem: Problem, *, tolerance: float = 1e-7) -> Solution:
    """Return the strategy of the smallest maximum deviation; see `smallest_maximum`."""
    best = problem.best_risks
    return smallest_maximum(problem, best, np.ones_like(best), tolerance=tolerance)


def smallest_maximum(
    problem: Problem,
    offsets: Array,
    scales: Array,
    *,
    tolerance: float = 1e-7,
    rounds: int = 2_000,
) -> Solution:
    """Return argmin over strategies of max over models of (risk - offset) / scale.

    Cutting planes (Kelley 1960): a linear program mixes the strategies known so far; its dual is a
    prior over models; the strategy that is Bayesian for this prior either has no smaller weighted
    mean, which proves the mixture optimal, or joins the others. Observations may thus be millions,
    as the linear program is only as large as models times strategies.

    Args:
        problem: with its models and strategies.
        offsets: (models,); zeros for minimax, the best risks for minimax deviation.
        scales: (models,), positive; ones for both, the best risks for the relative risk.
        tolerance: the largest duality gap to stop at; the linear programs are solved to about 1e-9.
        rounds: linear programs at most.

    Raises:
        ValueError: an offset or a scale is not finite, or a scale is not positive.
        MtrlError: the gap is still above the tolerance after all rounds.
    """
    if not (np.isfinite(offsets).all() and np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError(
            f"offsets must be finite and scales positive, got {offsets} and {scales}: a model whose "
            "best risk is 0 has no relative risk"
        )
    # A start from what is optimal for each model alone bounds the first program from all sides.
    strategies = [problem.respond(unit) for unit in np.eye(len(offsets))]
    risks = [problem.risks(strategy) for strategy in strategies]
    lower_bound, best_weights = -np.inf, np.ones(len(offsets)) / len(offsets)
    for _ in range(rounds):
        value, mixture, weights = _mix((np.array(risks) - offsets) / scales)
        strategies.append(problem.respond(weights / scales))
        risks.append(problem.risks(strategies[-1]))
        bound = float(weights @ ((risks[-1] - offsets) / scales))
        if bound > lower_bound:
            lower_bound, best_weights = bound, weights
        if value - lower_bound <= tolerance:
            used = np.flatnonzero(mixture)
            return Solution(
                value=value,
                lower_bound=lower_bound,
                weights=best_weights,
                strategies=tuple(strategies[index] for index in used),
                mixture=mixture[used],
                risks=mixture[used] @ np.array(risks)[used],
            )
    raise MtrlError(
        f"the duality gap is {value - lower_bound:.1e} after {rounds} linear programs, above the "
        f"tolerance of {tolerance:.1e}: raise one of the two"
    )


def _mix(costs: Array) -> tuple[float, Array, Array]:
    """Solve min over mixtures p of max over models of p @ costs, (strategies, models).

    Returns:
        The value, the mixture (strategies,), and the dual weights of the models (models,).
    """
    count, models = costs.shape
    program = linprog(
        np.append(np.zeros(count), 1.0),
        A_ub=np.column_stack([costs.T, -np.ones(models)]),
        b_ub=np.zeros(models),
        A_eq=np.append(np.ones(count), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * count + [(None, None)],
        method="highs",
    )
    if not program.success:
        raise MtrlError(f"the linear program of {count} strategies failed: {program.message}")
    # The solver's answers are feasible to its own tolerance only; these are distributions.
    mixture = _distribution(program.x[:-1])
    weights = _distribution(-program.ineqlin.marginals)
    return float((mixture @ costs).max()), mixture, weights


def _distribution(values: Array) -> Array:
    positive = np.maximum(values, 0.0)
    scaled: Array = positive / positive.sum()
    return scaled
