"""TRPO on (parameters, step sizes): the outer update of gradient-based meta-reinforcement learning.

Finn et al. 2017 update the initialisation so; Li et al. 2017 the initialisation and the step sizes together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from mtrl.meta.fisher import AdaptationDerivative, AdaptedPolicies, StepSizeDerivative
from mtrl.meta.inner import adapt, expand_to_tasks
from mtrl.meta.linearized import LinearizedAdaptation, concatenate, linearize_adaptation
from mtrl.meta.maml import MetaLearner
from mtrl.meta.objectives import InnerObjective, PolicyBatch, policy_loss, surrogate
from mtrl.meta.outer import TRPO, TrustRegionStep, trust_region_step
from mtrl.meta.parameters import MetaParams
from mtrl.nets import Params
from mtrl.policies import Distribution, Policy

__all__ = ["GradientAdaptation", "meta_trust_region_step"]

# A chunk's arrays then fit a core's cache and are reused; larger ones go back to the system after every
# operation, and faulting their pages in again costs as much as the arithmetic.
SAMPLES_PER_CHUNK = 5000


@dataclass(frozen=True)
class GradientAdaptation:
    """How a policy adapts by gradient steps: the policy, the learner and the inner objective."""

    policy: Policy
    learner: MetaLearner
    objective: InnerObjective = "likelihood"

    def initial(self, generator: torch.Generator) -> MetaParams:
        """Draw the meta-parameters that training starts from."""
        params = self.policy.initial(generator)
        return MetaParams(params, self.learner.initial_step_sizes(params, generator))

    def adapt(self, meta: MetaParams, supports: Sequence[PolicyBatch]) -> Params:
        """Take one inner step per support batch on every task; the result has no graph."""
        step_sizes = self.learner.step_sizes(meta.step_sizes, meta.params, len(supports))
        loss = policy_loss(self.policy, self.objective)
        chunks = [
            adapt(
                expand_to_tasks(meta.params, chunk[0].weights.shape[0]),
                step_sizes,
                loss,
                chunk,
                first_order=True,
            )
            for chunk in _task_chunks(supports)
        ]
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in meta.params}

    def linearize(self, meta: MetaParams, supports: Sequence[PolicyBatch]) -> LinearizedAdaptation:
        """Take the same steps and keep what products with their derivative need."""
        return linearize_adaptation(
            expand_to_tasks(meta.params, supports[0].weights.shape[0]),
            self.learner.step_sizes(meta.step_sizes, meta.params, len(supports)),
            policy_loss(self.policy, self.objective),
            supports,
            first_order=self.learner.first_order,
        )


def _task_chunks(batches: Sequence[PolicyBatch]) -> Iterator[list[PolicyBatch]]:
    """Cut batches of the same tasks along the task axis; an accelerator works on all tasks at once."""
    weights = batches[0].weights
    tasks, samples = weights.shape
    size = max(1, SAMPLES_PER_CHUNK // samples) if weights.device.type == "cpu" else tasks
    for start in range(0, tasks, size):
        yield [
            PolicyBatch(*(getattr(batch, f.name)[start : start + size] for f in fields(batch)))
            for batch in batches
        ]


def _adapted_policies(
    how: GradientAdaptation,
    meta: MetaParams,
    supports: Sequence[PolicyBatch],
    query: PolicyBatch,
    step_sizes: StepSizeDerivative,
) -> AdaptedPolicies:
    """Return the policies adapted on `supports`, on the samples that they took."""
    derivative = AdaptationDerivative(meta, step_sizes, how.linearize(meta, supports))
    return AdaptedPolicies(how.policy, derivative, query)


def _thinned(
    how: GradientAdaptation,
    whole: AdaptationDerivative,
    supports: Sequence[PolicyBatch],
    query: PolicyBatch,
    stride: int,
) -> list[AdaptedPolicies]:
    """Return the policies of `whole` on one in so many samples, and inner Hessians averaged over as few.

    The adapted parameters and the derivative by the step sizes stay those of all supports.
    """
    loss = policy_loss(how.policy, how.objective)
    thin = [batch.every(stride) for batch in (*supports, query)]
    policies, first = [], 0
    for *chunk, taken in _task_chunks(thin):
        last = first + taken.weights.shape[0]
        adaptation = whole.adaptation.of_tasks(first, last)
        if not how.learner.first_order:
            adaptation = adaptation.with_curvature(loss, chunk)
        derivative = replace(whole, adaptation=adaptation)
        policies.append(AdaptedPolicies(how.policy, derivative, taken))
        first = last
    return policies


def meta_trust_region_step(
    how: GradientAdaptation,
    meta: MetaParams,
    supports: Sequence[PolicyBatch],
    query: PolicyBatch,
    settings: TRPO,
) -> tuple[MetaParams, TrustRegionStep]:
    """Update meta-parameters so that the adapted policies improve, within a mean KL of `settings.max_kl`.

    Args:
        how: policy, learner and inner objective.
        meta: meta-parameters that took the supports.
        supports: one batch per inner step, each of all tasks.
        query: the batch taken after adaptation.
        settings: see `TRPO`.
    """
    tasks = query.valid.shape[0]
    stride = round(1 / settings.curvature_fraction)
    step_sizes = StepSizeDerivative(how.learner, meta, len(supports))
    chunks = list(_task_chunks([*supports, query]))
    totals, old, curved, parts = [], [], [], []
    for *support, taken in chunks:
        policies = _adapted_policies(how, meta, support, taken, step_sizes)
        totals.append(torch.cat([part.view(-1) for part in policies.outer_gradient()]))
        old.append(policies.fixed)
        if stride == 1:
            curved.append(policies)
        else:  # the graphs of a chunk are not kept beside those of the next
            parts.append(policies.derivative.adaptation.without_curvature())
    if stride > 1:
        whole = AdaptationDerivative(meta, step_sizes, concatenate(parts))
        curved = _thinned(how, whole, supports, query, stride)
    mean = torch.stack(totals).sum(0) / tasks

    def fisher(vector: Tensor) -> Tensor:
        return torch.stack([some.fisher_product(vector) for some in curved]).sum(0) / tasks

    @torch.no_grad()
    def evaluate(vector: Tensor) -> tuple[Tensor, Tensor]:
        total = _loss_and_kl(how, meta.like(vector), chunks, old) / tasks
        return total[0], total[1]

    step = trust_region_step(meta.flat(), (mean[0], mean[1:]), fisher, evaluate, settings)
    return meta.like(step.point), step


def _loss_and_kl(
    how: GradientAdaptation,
    meta: MetaParams,
    chunks: Iterable[Sequence[PolicyBatch]],
    old: Iterable[Distribution],
) -> Tensor:
    """Return the sums over tasks of the outer loss and of the KL from the `old` policies, of `meta` adapted."""
    totals = []
    for (*supports, query), before in zip(chunks, old, strict=True):
        after = how.policy(how.adapt(meta, supports), query.observations)
        kl = (before.kl(after) * query.valid).sum()
        totals.append(torch.stack([surrogate(after, query).sum(), kl]))
    return torch.stack(totals).sum(0)
