"""Exponentiated gradient: how an adversary's weights move to what has the largest loss.

Source: Freund and Schapire 1999.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

__all__ = ["exponentiated_gradient"]

Array = NDArray[np.float64]


def exponentiated_gradient(log_weights: Array, losses: Array, step_size: float) -> Array:
    """Return log(tau exp(step_size * loss) / sum), one step of the adversary up its losses.

    Args:
        log_weights: (tasks,), logarithms, which stay finite where a weight would round to 0.
        losses: (tasks,).
        step_size: in 1 / unit of the losses.
    """
    raised = log_weights + step_size * losses
    stepped: Array = raised - logsumexp(raised)
    return stepped
