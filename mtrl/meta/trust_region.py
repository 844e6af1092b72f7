"""TRPO on (parameters, step sizes): the outer update of gradient-based meta-reinforcement learning.

Finn et al. 2017 update the initialisation so; Li et al. 2017 the initialisation and the step sizes together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mtrl.meta.inner import adapt, expand_to_tasks
from mtrl.meta.jacobian import Jacobian
from mtrl.meta.linearized import LinearizedAdaptation, linearize_adaptation
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

    def linearize(
        self,
        meta: MetaParams,
        supports: Sequence[PolicyBatch],
        curvature_supports: Sequence[PolicyBatch] | None = None,
    ) -> LinearizedAdaptation:
        """Take the same steps and keep what products with their derivative need."""
        return linearize_adaptation(
            expand_to_tasks(meta.params, supports[0].weights.shape[0]),
            self.learner.step_sizes(meta.step_sizes, meta.params, len(supports)),
            policy_loss(self.policy, self.objective),
            supports,
            first_order=self.learner.first_order,
            curvature_supports=curvature_supports,
        )


class _StepSizes:
    """The derivative of the step sizes of each inner step by the learned ones."""

    def __init__(self, learner: MetaLearner, meta: MetaParams, steps: int) -> None:
        self._learned = _leaves(meta.step_sizes)
        with torch.enable_grad():
            self._expanded = learner.step_sizes(self._learned, meta.params, steps)
        values = [value for alpha in self._expanded for value in alpha.values()]
        self._jacobian = Jacobian(values, list(self._learned.values())) if self._learned else None

    def push(self, change: Params) -> Sequence[Params]:
        """Return the change of the step sizes for a change of the learned ones."""
        if self._jacobian is None:
            return [
                {name: torch.zeros_like(value) for name, value in alpha.items()}
                for alpha in self._expanded
            ]
        values = iter(self._jacobian.push(list(change.values())))
        return [{name: next(values) for name in alpha} for alpha in self._expanded]

    def pull(self, cotangents: Sequence[Params]) -> Params:
        """Return the gradient by the learned step sizes for gradients by those of the inner steps."""
        if self._jacobian is None:
            return {}
        values = [value for alpha in cotangents for value in alpha.values()]
        return dict(zip(self._learned, self._jacobian.pull(values), strict=True))


class _Derivative:
    """The derivative of adapted parameters by meta-parameters, at one point and one meta-batch."""

    def __init__(
        self,
        how: GradientAdaptation,
        meta: MetaParams,
        supports: Sequence[PolicyBatch],
        curvature_supports: Sequence[PolicyBatch] | None = None,
    ) -> None:
        self._meta = meta
        self._step_sizes = _StepSizes(how.learner, meta, len(supports))
        self._adaptation = how.linearize(meta, supports, curvature_supports)
        self.adapted = self._adaptation.adapted

    def push(self, vector: Tensor) -> Params:
        """Return the change of the adapted parameters for a change `vector` of the meta-parameters."""
        change = self._meta.like(vector)
        return self._adaptation.push(change.params, self._step_sizes.push(change.step_sizes))

    def pull(self, cotangent: Params) -> Tensor:
        """Return the gradient of sum(cotangent * adapted) by the meta-parameters, one vector."""
        params, step_sizes = self._adaptation.pull(cotangent)
        return MetaParams(params, self._step_sizes.pull(step_sizes)).flat()


def _leaves(params: Params) -> Params:
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def _detached(distribution: Distribution) -> Distribution:
    return distribution.like(value.detach() for value in distribution)


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


def _fisher_product(
    how: GradientAdaptation,
    meta: MetaParams,
    supports: Sequence[PolicyBatch],
    query: PolicyBatch,
    stride: int = 1,
) -> Callable[[Tensor], Tensor]:
    """Return the product with the mean Fisher information of the adapted policies (Gauss-Newton).

    At the point where the samples were taken this is the Hessian of the mean KL. With a `stride`, policies and
    inner Hessians are averaged over one in so many samples; adaptation itself uses all of the supports.
    """
    tasks = query.valid.shape[0]
    thin = [batch.every(stride) for batch in supports] if stride > 1 else []
    chunks = [
        _chunk_fisher_product(how, meta, chunk, len(thin))
        for chunk in _task_chunks([query.every(stride), *thin, *supports])
    ]
    return lambda vector: torch.stack([chunk(vector) for chunk in chunks]).sum(0) / tasks


def _chunk_fisher_product(
    how: GradientAdaptation, meta: MetaParams, batches: Sequence[PolicyBatch], thinned: int
) -> Callable[[Tensor], Tensor]:
    """Return the product with the sum of the tasks' Fisher informations.

    Args:
        how, meta: as for `_fisher_product`.
        batches: the query, then `thinned` supports for the curvature alone, then the supports.
        thinned: how many; with none the supports serve for both.
    """
    query, *rest = batches
    derivative = _Derivative(how, meta, rest[thinned:], rest[:thinned] or None)
    leaves = _leaves(derivative.adapted)
    with torch.enable_grad():
        distribution = how.policy(leaves, query.observations)
    jacobian = Jacobian(list(distribution), list(leaves.values()))
    fixed = _detached(distribution)

    def product(vector: Tensor) -> Tensor:
        change = fixed.like(jacobian.push(list(derivative.push(vector).values())))
        pulled = jacobian.pull(list(fixed.fisher(change, query.valid)))
        return derivative.pull(dict(zip(leaves, pulled, strict=True)))

    return product


def _outer_gradient(
    how: GradientAdaptation, meta: MetaParams, *batches: PolicyBatch
) -> tuple[Tensor, Tensor, Distribution]:
    """Return the sum of the tasks' outer losses, its gradient, and the adapted policies on the query."""
    *supports, query = batches
    derivative = _Derivative(how, meta, supports)
    leaves = _leaves(derivative.adapted)
    with torch.enable_grad():
        distribution = how.policy(leaves, query.observations)
        loss = surrogate(distribution, query).sum()
    pulled = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    gradient = derivative.pull(dict(zip(leaves, pulled, strict=True)))
    return loss.detach(), gradient, _detached(distribution)


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
    chunks = list(_task_chunks([*supports, query]))
    losses, gradients, old = zip(*(_outer_gradient(how, meta, *c) for c in chunks), strict=True)

    @torch.no_grad()
    def evaluate(vector: Tensor) -> tuple[Tensor, Tensor]:
        candidate, total = meta.like(vector), vector.new_zeros(2)
        for (*support, taken), before in zip(chunks, old, strict=True):
            after = how.policy(how.adapt(candidate, support), taken.observations)
            kl = (before.kl(after) * taken.valid).sum()
            total += torch.stack([surrogate(after, taken).sum(), kl])
        return total[0] / tasks, total[1] / tasks

    thin = round(1 / settings.curvature_fraction)
    fisher = _fisher_product(how, meta, supports, query, thin)
    start = (torch.stack(losses).sum() / tasks, torch.stack(gradients).sum(0) / tasks)
    step = trust_region_step(meta.flat(), start, fisher, evaluate, settings)
    return meta.like(step.point), step
