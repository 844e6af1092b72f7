"""ProMP (Rothfuss, Lee, Clavera, Asfour, Abbeel 2019, arXiv:1810.06784): an outer update of clipped steps.

Where TRPO takes one step of bounded KL divergence, proximal meta-policy search takes several of Adam on the same
samples. It maximises (eq. 12)

    J(theta) = J_clip(theta') - eta * KL(pi_old || pi_theta)

where theta' is theta adapted to the samples of pi_old, and J_clip is PPO's clipped surrogate on those of the adapted
policy. The penalty holds back the policies before adaptation; with several inner steps it is the mean over the
policies that took the samples of each, as in the authors' code. After the first step theta is not what took the
samples of the inner loop any more, so that its objective has to be the probability ratio.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.config import check_at_least, check_positive
from mtrl.meta.chunk_work import ChunkWork
from mtrl.meta.inner import adapt
from mtrl.meta.objectives import PolicyBatch, policy_loss
from mtrl.meta.outer import AdamUpdate
from mtrl.meta.parameters import MetaParams, flatten
from mtrl.meta.policy_adaptation import GradientAdaptation, task_chunks
from mtrl.meta.trust_region import Join, alone, loss_and_kl
from mtrl.nets import Params
from mtrl.policies import Distribution

__all__ = ["PROMP", "ProximalUpdate", "policies_along", "proximal_losses"]


@dataclass(frozen=True, kw_only=True)
class PROMP:
    """Settings of the clipped update; the defaults are those of the authors' code."""

    learning_rate: float = 1e-3
    """Of Adam."""
    steps: int = 5
    """Steps of Adam per meta-iteration, all on the same samples."""
    clip: float = 0.3
    """The probability ratio counts between 1 - clip and 1 + clip."""
    kl_penalty: float = 5e-4
    """Weight of the KL divergence of the policies before adaptation."""

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "steps", "clip")
        check_at_least(self, 0, "kl_penalty")


def policies_along(
    how: GradientAdaptation,
    meta: MetaParams,
    supports: Sequence[PolicyBatch],
    query: PolicyBatch,
) -> Iterator[Distribution]:
    """Return the policies before each inner step and after the last, on the batches that they took."""
    loss = policy_loss(how.policy, how.objective)
    params: Params = how.learner.start(meta.params, query.weights.shape[0])
    step_sizes = how.learner.step_sizes(meta.step_sizes, meta.params, len(supports))
    for alpha, support in zip(step_sizes, supports, strict=True):
        yield how.policy(params, support.observations)
        params = adapt(params, [alpha], loss, [support], first_order=how.learner.first_order)
    yield how.policy(params, query.observations)


def proximal_losses(
    policies: Sequence[Distribution],
    before: Sequence[Distribution],
    batches: Sequence[PolicyBatch],
    settings: PROMP,
) -> Tensor:
    """Return minus the objective of each task, (tasks,).

    Args:
        policies: before each inner step and after the last, on the observations of `batches`.
        before: the policies that took the batches.
        batches: the support of each inner step, then the query.
        settings: see `PROMP`.
    """
    query = batches[-1]
    ratio = torch.exp(policies[-1].log_prob(query.actions) - query.log_probs)
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    gain = torch.minimum(ratio * query.weights, clipped * query.weights).sum(1)
    kls = [
        (old.kl(new) * support.valid).sum(1)
        for old, new, support in zip(before[:-1], policies[:-1], batches[:-1], strict=True)
    ]
    # Without inner steps there is no policy before them to hold back.
    return settings.kl_penalty * torch.stack(kls).mean(0) - gain if kls else -gain


class ProximalUpdate:
    """The outer update of meta-parameters, which it modifies in place; a `PolicyUpdate`.

    Args:
        how: policy, learner and inner objective.
        meta: the meta-parameters.
        settings: see `PROMP`.
        saved: tensors of an earlier update to continue with.
        join: joins what several processes with a share of the tasks found: the gradient of every step of Adam, and
            loss and KL before the first and after the last.
    """

    def __init__(
        self,
        how: GradientAdaptation,
        meta: MetaParams,
        settings: PROMP,
        saved: Mapping[str, Tensor],
        join: Join = alone,
    ) -> None:
        self._how = how
        self._meta = meta
        self._settings = settings
        self._join = join
        self._work = ChunkWork(how)
        self._adam = AdamUpdate(meta)
        self._adam.load_tensors(dict(saved))

    def step(
        self, supports: Sequence[PolicyBatch], query: PolicyBatch, progress: float
    ) -> tuple[MetaParams, dict[str, float | Tensor]]:
        """Take the steps of one meta-iteration; return the meta-parameters and what to log."""
        chunks = list(task_chunks([*supports, query]))
        with torch.no_grad():
            old = [
                list(policies_along(self._how, self._meta, supports, query))
                for *supports, query in chunks
            ]
        adapted = [policies[-1] for policies in old]
        loss, _ = loss_and_kl(self._work, self._meta, chunks, adapted, self._join)
        for _ in range(self._settings.steps):
            self._adam.step(self._gradient(chunks, old), self._settings.learning_rate)
        after, kl = loss_and_kl(self._work, self._meta, chunks, adapted, self._join)
        return self._meta, {"outer/kl": kl, "outer/improvement": loss - after}

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimiser's state, which a resumed run continues with."""
        return self._adam.tensors()

    def _gradient(
        self,
        chunks: Sequence[Sequence[PolicyBatch]],
        old: Sequence[Sequence[Distribution]],
    ) -> Tensor:
        """Return the gradient of the tasks' mean loss, in the order of `MetaParams.flat`."""
        names, values = zip(*self._meta.named().items(), strict=True)
        total = torch.zeros_like(self._meta.flat())
        for batches, before in zip(chunks, old, strict=True):
            leaves = [value.detach().requires_grad_() for value in values]
            current = MetaParams.from_named(dict(zip(names, leaves, strict=True)))
            *supports, query = batches
            with torch.enable_grad():
                policies = list(policies_along(self._how, current, supports, query))
                loss = proximal_losses(policies, before, batches, self._settings).sum()
            pulled = torch.autograd.grad(loss, leaves, materialize_grads=True)
            total += flatten(dict(zip(names, pulled, strict=True)))
        tasks = sum(len(batches[-1].weights) for batches in chunks)
        return self._join(total / tasks)
