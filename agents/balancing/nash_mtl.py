"""Nash-MTL: the direction on which tasks agree when they bargain over it.

Source: Navon et al. 2022, "Multi-Task Learning as a Bargaining Game" (arXiv:2202.01017), claim 3.1: the
weights alpha > 0 solve G alpha = 1 / alpha. They are where the convex function
alpha G alpha / 2 - sum log alpha is smallest. It is self-concordant, so that Newton's method with steps
1 / (1 + decrement) reaches it from anywhere (Nesterov and Nemirovskii 1994, chapter 2), in place of the
paper's sequence of convex programmes.

Scale: the solution is as long as sqrt(tasks) whatever the gradients. Here it is multiplied by the root
of G's largest eigenvalue: the plain sum is never longer than the result, and equals it where gradients
are the same or are orthogonal and of one length. Gradients of different lengths count the same, so
that weights given to tasks' losses have no effect on the direction.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.agents.balancing.balancer import Array, Balancer, unit_gradients
from mtrl.config import check_at_least

__all__ = ["NashMTL", "bargaining_solution"]

_TOLERANCE = 1e-12
_ITERATIONS = 100
# Rounding could make a singular matrix indefinite, and leave no solution.
_LEAST_DAMPING = 1e-12


def bargaining_solution(matrix: Array) -> Array:
    """Return alpha > 0 (tasks,) with `matrix` @ alpha = 1 / alpha.

    Args:
        matrix: (tasks, tasks), positive definite.
    """
    alpha = 1 / np.sqrt(matrix.diagonal() * len(matrix))
    for _ in range(_ITERATIONS):
        # In units of alpha: the Hessian is then at least the identity.
        hessian = matrix * np.outer(alpha, alpha) + np.eye(len(alpha))
        slope = alpha * (matrix @ alpha) - 1
        step = -np.linalg.solve(hessian, slope)
        decrement = math.sqrt(max(float(-slope @ step), 0.0))
        alpha = alpha * (1 + step / (1 + decrement if decrement > 0.25 else 1))
        if decrement < _TOLERANCE:
            break
    return alpha


class _NashMTL(Balancer):
    def __init__(self, tasks: int, damping: float) -> None:
        super().__init__(tasks)
        self._damping = damping

    def weigh(self, gram: Array, present: NDArray[np.int64], losses: Array | None) -> Array:
        columns, lengths = unit_gradients(gram)
        damped = columns.T @ columns + max(self._damping, _LEAST_DAMPING) * np.eye(len(gram))
        scale = math.sqrt(np.linalg.eigvalsh(gram)[-1])
        weights: Array = bargaining_solution(damped) * scale / lengths
        return weights


@dataclass(frozen=True, kw_only=True)
class NashMTL:
    """The Nash bargaining solution: the product of tasks' gains is the largest."""

    damping: float = 1e-3
    """Added to the cosine of each gradient with itself. It bounds the weights where gradients nearly
    cancel: without it the step keeps its length up to the point where no direction helps all."""

    def __post_init__(self) -> None:
        check_at_least(self, 0.0, "damping")

    def build(self, tasks: int, generator: torch.Generator) -> Balancer:
        """Return the balancer; it draws nothing from `generator`."""
        return _NashMTL(tasks, self.damping)
