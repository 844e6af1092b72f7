"""CAGrad: near the mean gradient, the direction that is best for the task it serves least.

Source: Liu et al. 2021, "Conflict-Averse Gradient Descent for Multi-task Learning" (arXiv:2110.14048),
algorithm 1: d = g_0 + c |g_0| g_w / |g_w|, where g_0 is the mean gradient and g_w the combination by
the weights w of the simplex that make <g_w, g_0> + c |g_0| |g_w| smallest. That convex problem is
solved by an interior-point method, whose distance from the optimum is known.

Scale: d times tasks / (1 + c), so that it is the plain sum where all gradients are the same and, c being
below 1, is never longer. With c = 0 it is always the plain sum.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.agents.balancing.balancer import Array, Balancer, unit_gradients
from mtrl.errors import UsageError

__all__ = ["CAGrad", "least_served"]

# How far above the optimum the weights may be, relative to the largest gradient's square.
_GAP = 1e-8
_BARRIER_FACTOR = 10.0
_NEWTON_STEPS = 100


def least_served(columns: Array, slope: Array, radius: float) -> tuple[Array, float]:
    """Return the w of the simplex with the smallest w @ slope + radius * |columns @ w|, and that length.

    The length is the smallest s of the cone |columns @ w| <= s, and s is what is returned: slightly
    larger, and not 0 where the combination vanishes, so that a quotient by it is the limit wanted. The
    barrier of cone and simplex, -log(s^2 - |columns @ w|^2) - sum log w, is self-concordant and stays
    so when s is solved for, which leaves a smooth problem in w. Newton steps of 1 / (1 + decrement)
    solve it (Nesterov and Nemirovskii 1994, chapter 2), and (tasks + 2) / strength bounds the distance
    from the optimum (Boyd and Vandenberghe 2004, section 11.6): 1e-8.

    Args:
        columns: (size, tasks), gradients of length 1 at most.
        slope: (tasks,).
        radius: above 0.
    """
    w = np.full(len(slope), 1 / len(slope))
    strength = 1.0
    while strength * _GAP < len(slope) + 2:
        strength *= _BARRIER_FACTOR
        for _ in range(_NEWTON_STEPS):
            step, decrement = _newton_step(w, columns, strength * slope, strength * radius)
            w = w * (1 + step / (1 + decrement))
            w = w / w.sum()
            if decrement < 1e-2:
                break
    return w, _cone_length(columns @ w, strength * radius)


def _cone_length(made: Array, radius: float) -> float:
    """Return the s that is best for `made`: the minimum of radius * s - log(s^2 - |made|^2)."""
    return (1 + math.sqrt(1 + radius**2 * float(made @ made))) / radius


def _newton_step(w: Array, columns: Array, slope: Array, radius: float) -> tuple[Array, float]:
    """Return a step that keeps the sum of `w`, in units of `w`, and its Newton decrement."""
    made = columns @ w
    s = _cone_length(made, radius)
    gradient = w * (slope + radius / s * (made @ columns)) - 1
    # The Hessian's part radius / s * C'(I - 2 made made' / (s^2 + square))C as a product R'R, which
    # rounding cannot make indefinite.
    total = s**2 + float(made @ made)
    factor = 2 / total / (1 + math.sqrt(2 * s / radius / total))
    root = math.sqrt(radius / s) * (columns - np.outer(factor * made, made @ columns)) * w
    solved = np.linalg.solve(root.T @ root + np.eye(len(w)), np.stack([gradient, w], 1))
    step = solved[:, 1] * (w @ solved[:, 0]) / (w @ solved[:, 1]) - solved[:, 0]
    return step, math.sqrt(max(float(-gradient @ step), 0.0))


class _CAGrad(Balancer):
    def __init__(self, tasks: int, c: float) -> None:
        super().__init__(tasks)
        self._c = c

    def weigh(self, gram: Array, present: NDArray[np.int64], losses: Array | None) -> Array:
        columns, lengths = unit_gradients(gram)
        columns = columns * (lengths / lengths.max())
        mean = columns.mean(1)
        radius = self._c * float(np.linalg.norm(mean))
        if radius == 0:
            return np.ones(len(gram))
        w, length = least_served(columns, mean @ columns, radius)
        weights: Array = (1 + len(gram) * radius / length * w) / (1 + self._c)
        return weights


@dataclass(frozen=True, kw_only=True)
class CAGrad:
    """Moves from the mean gradient, by a share of its length, towards the tasks that it serves least."""

    c: float = 0.4
    """That share, from 0, which is the plain sum, to below 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.c < 1:
            raise UsageError(f"c must be at least 0 and below 1, got {self.c}")

    def build(self, tasks: int, generator: torch.Generator) -> Balancer:
        """Return the balancer; it draws nothing from `generator`."""
        return _CAGrad(tasks, self.c)
