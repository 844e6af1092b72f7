"""UPGrad: each task's gradient is projected to where it harms no task, and the results are added.

Source: Quinton and Rey 2024, "Jacobian Descent for Multi-Objective Optimization" (arXiv:2406.16232).
The projection of g_i onto the cone {d: <g_t, d> >= 0 for all t} is g_i + sum_t v_t g_t with
v >= 0 of the smallest length of that vector: a non-negative least-squares problem, which the method of
Lawson and Hanson solves exactly in finitely many steps.

Scale: the paper takes the mean of the projections, here it is their sum. It is the plain sum where no
two tasks conflict, and no projection is longer than its gradient. To first order no task's loss rises.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from mtrl.agents.balancing.balancer import Array, Balancer, unit_gradients

__all__ = ["UPGrad", "projection_weights"]


def projection_weights(gram: Array) -> Array:
    """Return the weights (tasks,) of the sum of all gradients' projections onto the dual cone.

    Args:
        gram: (tasks, tasks), with a positive diagonal; where it is singular, weights are one choice of
            many that combine to the same vector.
    """
    # Lengths do not change the cone. Unit gradients make one tolerance right for all tasks.
    columns, lengths = unit_gradients(gram)
    weights = lengths.copy()
    for task in np.flatnonzero((gram < 0).any(1)):
        added, _ = nnls(columns, -columns[:, task], maxiter=_STEPS_PER_TASK * len(gram))
        weights += lengths[task] * added
    unscaled: Array = weights / lengths
    return unscaled


# Ten times what is usual: nearly parallel gradients enter and leave the active set more often.
_STEPS_PER_TASK = 30


class _UPGrad(Balancer):
    def weigh(self, gram: Array, present: NDArray[np.int64], losses: Array | None) -> Array:
        return projection_weights(gram)


@dataclass(frozen=True, kw_only=True)
class UPGrad:
    """Projects every gradient onto the directions that harm no task; the sum harms none either."""

    def build(self, tasks: int, generator: torch.Generator) -> Balancer:
        """Return the balancer; it draws nothing from `generator`."""
        return _UPGrad(tasks)
