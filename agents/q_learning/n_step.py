"""n-step returns of many sampled steps at once.

Sources: Sutton and Barto 2018, section 7.1; Hester et al. 2017 (arXiv:1704.03732) for the forward view
on replayed transitions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NStepReturns", "n_step_returns"]


@dataclass(frozen=True, kw_only=True)
class NStepReturns:
    """What the steps from each start add up to.

    Attributes:
        returns: (batch,), float32: the sum of gamma^k r_k over the steps that belong to it.
        lengths: (batch,), how many steps belong to it, from 1 to n.
        discounts: (batch,), float32: gamma^length, which a value after the last step is worth.
    """

    returns: NDArray[np.float32]
    lengths: NDArray[np.int64]
    discounts: NDArray[np.float32]


def n_step_returns(
    rewards: NDArray[np.float32], cuts: NDArray[np.bool_], gamma: float
) -> NStepReturns:
    """Add up discounted rewards until the first cut, its step included.

    Whether a value may be added after the last step is not decided here: it may not after a termination,
    and may after a truncation or after n steps.

    Args:
        rewards: (batch, n), of the start and of what follows it.
        cuts: (batch, n), whether what follows in the row is no continuation: the step terminated, was
            truncated, or is the newest there is.
        gamma: discount of one step.
    """
    n = rewards.shape[1]
    lengths = np.where(cuts.any(1), cuts.argmax(1) + 1, n)
    powers = gamma ** np.arange(n + 1)
    within = np.arange(n) < lengths[:, None]
    returns = (rewards * powers[:n] * within).sum(1)
    return NStepReturns(
        returns=returns.astype(np.float32),
        lengths=lengths,
        discounts=powers[lengths].astype(np.float32),
    )
