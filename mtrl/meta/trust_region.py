"""TRPO on (parameters, step sizes): the outer update of gradient-based meta-reinforcement learning.

Finn et al. 2017 update the initialisation so; Li et al. 2017 the initialisation and the step sizes together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from mtrl.meta.cavia import check_context
from mtrl.meta.fisher import AdaptationDerivative, AdaptedPolicies, StepSizeDerivative
from mtrl.meta.inner import adapt
from mtrl.meta.linearized import LinearizedAdaptation, concatenate, linearize_adaptation
from mtrl.meta.maml import MetaLearner
from mtrl.meta.objectives import InnerObjective, PolicyBatch, policy_loss, surrogate
from mtrl.meta.outer import TRPO, TrustRegionStep, trust_region_step
from mtrl.meta.parameters import MetaParams
from mtrl.nets import Params
from mtrl.policies import Distribution, Policy

__all__ = [
    "GradientAdaptation",
    "Join",
    "PolicyUpdate",
    "TrustRegionUpdate",
    "loss_and_kl",
    "meta_trust_region_step",
    "task_chunks",
]

# A chunk's arrays then fit a core's cache and are reused; larger ones go back to the system after every
# operation, and faulting their pages in again costs as much as the arithmetic.
SAMPLES_PER_CHUNK = 5000

Join = Callable[[Tensor], Tensor]
"""Makes a mean over a process's own tasks one over those of all processes, the same bits in each."""


def alone(mean: Tensor) -> Tensor:
    """Return the mean as it is: there is one process."""
    return mean


@dataclass(frozen=True)
class GradientAdaptation:
    """How a policy adapts by gradient steps: the policy, the learner and the inner objective."""

    policy: Policy
    learner: MetaLearner
    objective: InnerObjective = "likelihood"

    def __post_init__(self) -> None:
        check_context(self.learner, getattr(self.policy, "context", 0))

    def initial(self, generator: torch.Generator) -> MetaParams:
        """Draw the meta-parameters that training starts from."""
        params = self.policy.initial(generator)
        return MetaParams(params, self.learner.initial_step_sizes(params, generator))

    def adapt(self, meta: MetaParams, supports: Sequence[PolicyBatch]) -> Params:
        """Take one inner step per support batch on every task; the result has no graph.

        Without one they are the shared parameters, which have no task axis.
        """
        if not supports:
            return meta.params
        step_sizes = self.learner.step_sizes(meta.step_sizes, meta.params, len(supports))
        loss = policy_loss(self.policy, self.objective)
        chunks = [
            adapt(
                self.learner.start(meta.params, chunk[0].weights.shape[0]),
                step_sizes,
                loss,
                chunk,
                first_order=True,
            )
            for chunk in task_chunks(supports)
        ]
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def linearize(
        self, meta: MetaParams, supports: Sequence[PolicyBatch], tasks: int
    ) -> LinearizedAdaptation:
        """Take the same steps for `tasks` tasks and keep what products with their derivative need."""
        return linearize_adaptation(
            self.learner.start(meta.params, tasks),
            self.learner.step_sizes(meta.step_sizes, meta.params, len(supports)),
            policy_loss(self.policy, self.objective),
            supports,
            first_order=self.learner.first_order,
        )


def task_chunks(batches: Sequence[PolicyBatch]) -> Iterator[list[PolicyBatch]]:
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
    linearized = how.linearize(meta, supports, query.weights.shape[0])
    derivative = AdaptationDerivative(meta, step_sizes, linearized)
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
    for *chunk, taken in task_chunks(thin):
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
    join: Join = alone,
) -> tuple[MetaParams, TrustRegionStep]:
    """Update meta-parameters so that the adapted policies improve, within a mean KL of `settings.max_kl`.

    Several processes join the gradient, every Fisher product, and loss and KL of every step that the line search
    tries; each then decides the same by itself.

    Args:
        how: policy, learner and inner objective.
        meta: meta-parameters that took the supports.
        supports: one batch per inner step, each of all tasks.
        query: the batch taken after adaptation.
        settings: see `TRPO`.
        join: joins what several processes with a share of the tasks found.
    """
    tasks = query.valid.shape[0]
    stride = round(1 / settings.curvature_fraction)
    step_sizes = StepSizeDerivative(how.learner, meta, len(supports))
    chunks = list(task_chunks([*supports, query]))
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
    mean = join(torch.stack(totals).sum(0) / tasks)

    def fisher(vector: Tensor) -> Tensor:
        return join(torch.stack([some.fisher_product(vector) for some in curved]).sum(0) / tasks)

    def evaluate(vector: Tensor) -> tuple[Tensor, Tensor]:
        return loss_and_kl(how, meta.like(vector), chunks, old, join)

    step = trust_region_step(meta.flat(), (mean[0], mean[1:]), fisher, evaluate, settings)
    return meta.like(step.point), step


@torch.no_grad()
def loss_and_kl(
    how: GradientAdaptation,
    meta: MetaParams,
    chunks: Sequence[Sequence[PolicyBatch]],
    old: Iterable[Distribution],
    join: Join = alone,
) -> tuple[Tensor, Tensor]:
    """Return the means over tasks of the outer loss and of the KL from the `old` policies, of `meta` adapted.

    Args:
        how: policy, learner and inner objective.
        meta: the meta-parameters.
        chunks: for some tasks each, the support of every inner step, then the query.
        old: for each chunk the policies that took the query.
        join: joins what several processes with a share of the tasks found.
    """
    totals = []
    for (*supports, query), before in zip(chunks, old, strict=True):
        after = how.policy(how.adapt(meta, supports), query.observations)
        kl = (before.kl(after) * query.valid).sum()
        totals.append(torch.stack([surrogate(after, query).sum(), kl]))
    means = torch.stack(totals).sum(0) / sum(len(query.valid) for *_, query in chunks)
    loss, kl = join(means)
    return loss, kl


class PolicyUpdate(Protocol):
    """An outer update of meta-reinforcement learning, with what it keeps between meta-iterations."""

    def step(
        self, supports: Sequence[PolicyBatch], query: PolicyBatch, progress: float
    ) -> tuple[MetaParams, dict[str, float | Tensor]]:
        """Update once, at `progress` from 0 to 1; return the new meta-parameters and scalars by tag."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed run needs to continue."""


class TrustRegionUpdate:
    """TRPO as a `PolicyUpdate`.

    Args:
        how: policy, learner and inner objective.
        meta: the meta-parameters to start from.
        settings: see `TRPO`.
        join: joins what several processes with a share of the tasks found.
    """

    def __init__(
        self, how: GradientAdaptation, meta: MetaParams, settings: TRPO, join: Join = alone
    ) -> None:
        self._how = how
        self._meta = meta
        self._settings = settings
        self._join = join

    def step(
        self, supports: Sequence[PolicyBatch], query: PolicyBatch, progress: float
    ) -> tuple[MetaParams, dict[str, float | Tensor]]:
        """Take one step in the trust region that the settings have at `progress`."""
        self._meta, step = meta_trust_region_step(
            self._how, self._meta, supports, query, self._settings.at(progress), self._join
        )
        return self._meta, {
            "outer/kl": step.kl,
            "outer/improvement": step.improvement,
            "outer/step_fraction": step.fraction,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: no update depends on those before."""
        return {}
