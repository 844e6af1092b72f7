"""The terms of deep Q-learning's losses, as pure functions of tensors.

Sources: Mnih et al. 2015 for the one-step target; van Hasselt et al. 2016 (arXiv:1509.06461) for double
Q-learning; Haarnoja et al. 2017 (arXiv:1702.08165) and Reddy et al. 2019 (arXiv:1905.11108) for the soft
value; Hester et al. 2017 (arXiv:1704.03732) for the large margin.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mtrl.errors import MtrlError

__all__ = [
    "ErrorKind",
    "chosen_values",
    "hard_values",
    "l2_penalty",
    "large_margins",
    "soft_values",
    "targets",
    "values_of_actions",
    "weighted_mean",
]

ErrorKind = Literal["huber", "squared"]


def hard_values(q_values: Tensor) -> Tensor:
    """Return max_a Q(s, a), (batch, 1), of Q-values, (batch, actions)."""
    return q_values.max(1).values.reshape(-1, 1)


def soft_values(q_values: Tensor, temperature: float) -> Tensor:
    """Return temperature * logsumexp(Q / temperature), (batch, 1), of Q-values, (batch, actions).

    It lies above the maximum by at most temperature * log(actions).
    """
    return temperature * (q_values / temperature).logsumexp(1, keepdim=True)


def chosen_values(q_values: Tensor, choosing: Tensor) -> Tensor:
    """Return Q-values, (batch, 1), of the actions that other Q-values, (batch, actions), rank first.

    With the target network's values and the online network's choice, this is double Q-learning.
    """
    return q_values.gather(1, choosing.argmax(1, keepdim=True))


def values_of_actions(q_values: Tensor, actions: Tensor) -> Tensor:
    """Return Q(s, a), (batch, 1), of actions, (batch, 1), among Q-values, (batch, actions)."""
    return q_values.gather(1, actions.long())


def targets(rewards: Tensor, dones: Tensor, discounts: Tensor | float, values: Tensor) -> Tensor:
    """Return r + discount * V, where a termination leaves r alone; all (batch, 1).

    Raises:
        MtrlError: shapes that differ and would be spread against each other.
    """
    if not rewards.shape == dones.shape == values.shape:
        raise MtrlError(
            f"rewards {tuple(rewards.shape)}, dones {tuple(dones.shape)} and values "
            f"{tuple(values.shape)} differ in shape; make all (batch, 1)"
        )
    return rewards + (1 - dones) * discounts * values


def weighted_mean(
    predicted: Tensor, target: Tensor, weights: Tensor | None, kind: ErrorKind
) -> Tensor:
    """Return the mean over the batch of each weight times an error's Huber loss or its square.

    The square is halved, so that both agree on errors below 1. All are (batch, 1).
    """
    if kind == "squared":
        losses = 0.5 * (predicted - target).square()
    elif weights is None:
        return functional.smooth_l1_loss(predicted, target)
    else:
        losses = functional.smooth_l1_loss(predicted, target, reduction="none")
    return losses.mean() if weights is None else (weights * losses).mean()


def large_margins(q_values: Tensor, expert_actions: Tensor, margin: float) -> Tensor:
    """Return max_a [Q(s, a) + margin * (a != a_E)] - Q(s, a_E), (batch, 1); J_E of DQfD, equation 2.

    It is 0 where the expert's action, (batch, 1), leads all others by the margin.
    """
    own = values_of_actions(q_values, expert_actions)
    raised = (q_values + margin).scatter(1, expert_actions.long(), own)
    return hard_values(raised) - own


def l2_penalty(parameters: Iterable[Tensor]) -> Tensor:
    """Return the sum of all squared entries, biases included."""
    return torch.stack([parameter.square().sum() for parameter in parameters]).sum()
