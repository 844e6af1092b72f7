"""Gaussian mixtures with full covariances, fitted by expectation maximisation.

Defaults are those of scikit-learn's `GaussianMixture`, which the authors of ALP-GMM use; it begins
with k-means, this with the seeds of k-means++ (Arthur and Vassilvitskii 2007).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from mtrl.envs.curricula.protocol import Array

__all__ = ["Mixture", "akaike", "fit_mixture", "log_densities"]

_RIDGE = 1e-6
"""Added to variances, so that a component of equal rows keeps a density."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Weights (k,), means (k, d) and covariances (k, d, d)."""

    weights: Array
    means: Array
    covariances: Array


def log_densities(mixture: Mixture, rows: Array) -> Array:
    """Return log(weight * normal density) of each row under each component (n, k)."""
    factors = np.linalg.cholesky(mixture.covariances)
    centred = (rows[:, None] - mixture.means).transpose(1, 2, 0)
    squares = (np.linalg.solve(factors, centred) ** 2).sum(axis=1).T
    log_roots = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    constant = rows.shape[1] / 2 * math.log(2 * math.pi)
    logs: Array = np.log(mixture.weights) - squares / 2 - log_roots - constant
    return logs


def _maximized(rows: Array, shares: Array) -> Mixture:
    """Return the mixture that is likeliest given each component's shares of the rows (n, k)."""
    # A component that lost all rows must not divide by 0.
    counts = shares.sum(axis=0) + 10 * np.finfo(np.float64).eps
    means = shares.T @ rows / counts[:, None]
    centred = rows[:, None] - means
    scatter = np.einsum("nk,nki,nkj->kij", shares, centred, centred)
    covariances = scatter / counts[:, None, None] + _RIDGE * np.eye(rows.shape[1])
    return Mixture(weights=counts / counts.sum(), means=means, covariances=covariances)


def _seeded(rows: Array, components: int, rng: np.random.Generator) -> Array:
    """Return shares (n, k): 1 for the nearest of k rows that k-means++ picks, else 0."""
    seeds = [rows[rng.integers(len(rows))]]
    for _ in range(components - 1):
        squares = ((rows[:, None] - np.array(seeds)) ** 2).sum(axis=2).min(axis=1)
        total = squares.sum()
        seeds.append(rows[rng.choice(len(rows), p=squares / total if total > 0 else None)])
    squares = ((rows[:, None] - np.array(seeds)) ** 2).sum(axis=2)
    shares: Array = np.eye(components)[squares.argmin(axis=1)]
    return shares


def fit_mixture(
    rows: Array,
    components: int,
    rng: np.random.Generator,
    *,
    rounds: int = 100,
    tolerance: float = 1e-3,
) -> Mixture:
    """Return a mixture fitted to `rows` (n, d).

    Args:
        rows: at least as many as components.
        components: k.
        rng: chooses where to begin.
        rounds: of expectation and maximisation, at most.
        tolerance: change of the mean log-likelihood that ends them.
    """
    mixture, before = _maximized(rows, _seeded(rows, components, rng)), -math.inf
    for _ in range(rounds):
        logs = log_densities(mixture, rows)
        totals = logsumexp(logs, axis=1)
        mixture = _maximized(rows, np.exp(logs - totals[:, None]))
        if abs(totals.mean() - before) < tolerance:
            break
        before = totals.mean()
    return mixture


def akaike(mixture: Mixture, rows: Array) -> float:
    """Return 2 * free parameters - 2 * log-likelihood of `rows` (n, d); lower is better."""
    components, width = mixture.means.shape
    free = components - 1 + components * (width + width * (width + 1) // 2)
    return float(2 * free - 2 * logsumexp(log_densities(mixture, rows), axis=1).sum())
