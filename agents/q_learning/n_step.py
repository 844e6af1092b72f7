"""n-step returns of many sampled steps at once.

Sources: Sutton and Barto 2018, section 7.1; Hester et al. 2017 (arXiv:1704.03732) for the forward view
on replayed transitions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_STEP", "NStepReturns", "n_step_returns", "paths"]

NO_STEP = -1
"""Stands for the place of a step that there is not."""


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


def paths(
    successors: NDArray[np.int64], starts: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Follow steps that lie anywhere from each start on.

    Args:
        successors: (places,), where the step after that of each place lies, or `NO_STEP`.
        starts: (batch,), places.
        n: steps of a path.

    Returns:
        The places on the way, (batch, n), and whether each is the last one, (batch, n). Beyond the last
        they mean nothing.
    """
    places = np.empty((len(starts), n), np.int64)
    cuts = np.empty(places.shape, np.bool_)
    places[:, 0] = starts
    for step in range(n):
        after = successors[places[:, step]]
        cuts[:, step] = after == NO_STEP
        if step + 1 < n:
            places[:, step + 1] = np.where(cuts[:, step], places[:, step], after)
    return places, cuts
