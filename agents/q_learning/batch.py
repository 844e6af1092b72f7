"""A batch of replayed steps, as the losses of deep Q-learning need it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

__all__ = ["ReplayBatch", "Successors"]


@dataclass(frozen=True, kw_only=True)
class Successors:
    """What follows each sampled step, after one or more steps.

    Attributes:
        rewards: (batch, 1), discounted and summed on the way.
        observations: (batch, ...), the last one reached.
        dones: (batch, 1), 1 where it is terminal, so that no value is added; a truncation is 0.
        discounts: (batch, 1), of the value there; None stands for the algorithm's own gamma.
    """

    rewards: Tensor
    observations: Tensor
    dones: Tensor
    discounts: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ReplayBatch:
    """Sampled steps with what follows them after one step and after n.

    It has the names of Stable-Baselines3's own batches, too, so that its algorithms can use it; like its
    `NStepReplayBuffer`, those names are of the n-step return.

    Attributes:
        observations: (batch, ...).
        actions: (batch, 1).
        one_step: what follows after one step.
        n_step: after n steps; the same object if n is 1.
        weights: (batch, 1), of each step's loss; None stands for 1.
        demonstrations: (batch, 1), bool: whether the step is an expert's; None if none is.
        indices: (batch,), by which the buffer knows the steps.
    """

    observations: Tensor
    actions: Tensor
    one_step: Successors
    n_step: Successors
    weights: Tensor | None = None
    demonstrations: Tensor | None = None
    indices: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, samples: "ReplayBatch | ReplayBufferSamples | Any") -> "ReplayBatch":
        """Return `samples` of any of Stable-Baselines3's buffers as a batch."""
        if isinstance(samples, ReplayBatch):
            return samples
        follows = Successors(
            rewards=samples.rewards,
            observations=samples.next_observations,
            dones=samples.dones,
            discounts=samples.discounts,
        )
        return cls(
            observations=samples.observations,
            actions=samples.actions,
            one_step=follows,
            n_step=follows,
        )

    @property
    def next_observations(self) -> Tensor:
        """Those of the n-step return."""
        return self.n_step.observations

    @property
    def rewards(self) -> Tensor:
        """Those of the n-step return."""
        return self.n_step.rewards

    @property
    def dones(self) -> Tensor:
        """Those of the n-step return."""
        return self.n_step.dones

    @property
    def discounts(self) -> Tensor | None:
        """Those of the n-step return."""
        return self.n_step.discounts
