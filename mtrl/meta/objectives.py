"""Policy-gradient losses of the inner and the outer loop, per task, and the data that they read."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from mtrl.errors import UsageError
from mtrl.meta.inner import TaskLoss
from mtrl.nets import Params
from mtrl.policies import Distribution, Policy
from mtrl.returns import (
    discounted_returns,
    fit_linear_baseline,
    generalized_advantages,
    linear_baseline,
    standardize,
)
from mtrl.rollouts import Rollout

__all__ = [
    "AdvantageSettings",
    "InnerObjective",
    "PolicyBatch",
    "policy_batch",
    "policy_loss",
    "surrogate",
    "surrogate_loss",
]

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

InnerObjective = Literal["likelihood", "ratio"]


@dataclass(frozen=True, kw_only=True)
class AdvantageSettings:
    """How rewards become advantages."""

    discount: float = 0.99
    """Discount factor per step."""
    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation; 1 gives returns minus the baseline."""
    standardize: bool = True
    """Centre and scale the advantages of each task."""
    bootstrap_horizon: bool = False
    """Count the baseline's value at the horizon; off where the horizon belongs to the task, as in MAML's."""

    def __post_init__(self) -> None:
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True)
class PolicyBatch:
    """Samples of several tasks, episodes and time merged.

    Attributes:
        observations: (tasks, samples, features).
        actions: (tasks, samples, ...).
        weights: (tasks, samples), advantage divided by the number of valid samples of the task; 0 where the
            mask is 0, so that a sum over samples is a mean over valid ones.
        valid: (tasks, samples), 1 / number of valid samples of the task, or 0.
        log_probs: (tasks, samples), of the actions under the policy that took them.
    """

    observations: Tensor
    actions: Tensor
    weights: Tensor
    valid: Tensor
    log_probs: Tensor

    def every(self, stride: int) -> "PolicyBatch":
        """Keep one of every `stride` samples of each task, weighted up so that sums keep their expectation.

        Which one differs from stride to stride: a fixed place would pick the same time steps of every
        episode where the stride divides the horizon.
        """
        if stride == 1:
            return self
        samples = self.weights.shape[1]
        stride = min(stride, samples)
        first = torch.arange(0, samples - stride + 1, stride, device=self.weights.device)
        # Multiples of the golden ratio spread evenly over the places, without a random stream.
        place = (torch.arange(len(first), device=first.device) * _GOLDEN_RATIO % 1 * stride).long()
        kept = PolicyBatch(
            *(getattr(self, field.name)[:, first + place].contiguous() for field in fields(self))
        )
        # A task whose episodes ended at once may have none of its few samples kept: it then counts nothing.
        share = kept.valid.sum(1, keepdim=True).clamp(min=torch.finfo(kept.valid.dtype).tiny)
        return replace(kept, weights=kept.weights / share, valid=kept.valid / share)


@torch.no_grad()
def policy_batch(rollout: Rollout, settings: AdvantageSettings) -> PolicyBatch:
    """Estimate advantages with a linear feature baseline fitted to each task, and merge the samples.

    Args:
        rollout: the episodes.
        settings: see `AdvantageSettings`.
    """
    mask = rollout.mask
    targets = discounted_returns(rollout.rewards, mask, settings.discount)
    weights = fit_linear_baseline(rollout.observations, targets, mask)
    advantages = generalized_advantages(
        rollout.rewards,
        _values(rollout, weights, settings.bootstrap_horizon),
        rollout.terminated,
        mask,
        settings.discount,
        settings.gae_lambda,
    )
    if settings.standardize:
        advantages = standardize(advantages, mask)
    valid = mask / mask.sum((1, 2), keepdim=True)
    return PolicyBatch(
        observations=rollout.flat(rollout.observations).contiguous(),
        actions=rollout.flat(rollout.actions).contiguous(),
        weights=(advantages * valid).flatten(1),
        valid=valid.flatten(1),
        log_probs=rollout.log_probs.flatten(1),
    )


def _values(rollout: Rollout, weights: Tensor, bootstrap: bool) -> Tensor:
    """Return the baseline before each step and after the last (tasks, episodes, time + 1)."""
    final = rollout.final_observations.unsqueeze(2)
    # An episode that ended early has its final observation from the first step that is not its own.
    running = torch.nn.functional.pad(rollout.mask, (0, 1)).bool()
    observations = torch.cat([rollout.observations, final], 2)
    observations = torch.where(running.unsqueeze(-1), observations, final)
    values = linear_baseline(observations, weights).to(rollout.rewards.dtype)
    return values if bootstrap else values.masked_fill(~running, 0.0)


def policy_loss(policy: Policy, objective: InnerObjective) -> TaskLoss[PolicyBatch]:
    """Return the inner loop's loss: minus the expected advantage, per task (tasks,).

    `likelihood` is REINFORCE's log-likelihood, as in MAML; `ratio` weighs by the probability ratio to the
    sampling policy (Rothfuss et al. 2019, arXiv:1810.06784, eq. 10), which has the same gradient where the
    samples were taken but a Hessian of lower variance.
    """

    def loss(params: Params, batch: PolicyBatch) -> Tensor:
        log_probs = policy(params, batch.observations).log_prob(batch.actions)
        if objective == "ratio":
            log_probs = torch.exp(log_probs - batch.log_probs)
        return -(log_probs * batch.weights).sum(1)

    return loss


def surrogate(policy: Distribution, batch: PolicyBatch) -> Tensor:
    """Return the outer loss per task (tasks,) of action distributions at the batch's observations."""
    ratio = torch.exp(policy.log_prob(batch.actions) - batch.log_probs)
    return -(ratio * batch.weights).sum(1)


def surrogate_loss(policy: Policy, params: Params, batch: PolicyBatch) -> Tensor:
    """Return the outer loss per task (tasks,): minus the importance-weighted expected advantage."""
    return surrogate(policy(params, batch.observations), batch)
