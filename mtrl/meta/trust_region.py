"""TRPO on (parameters, step sizes): the outer update of gradient-based meta-reinforcement learning.

Finn et al. 2017 update the initialisation so; Li et al. 2017 the initialisation and the step sizes together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.meta.inner import adapt, expand_to_tasks
from mtrl.meta.jacobian import Jacobian
from mtrl.meta.linearized import LinearizedAdaptation, linearize_adaptation
from mtrl.meta.maml import MetaLearner
from mtrl.meta.objectives import InnerObjective, PolicyBatch, policy_loss, surrogate_loss
from mtrl.meta.outer import TRPO, TrustRegionStep, trust_region_step
from mtrl.meta.parameters import MetaParams
from mtrl.nets import Gaussian, Params
from mtrl.rollouts import Policy

__all__ = ["GradientAdaptation", "meta_trust_region_step"]


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
        return adapt(
            expand_to_tasks(meta.params, supports[0].weights.shape[0]),
            self.learner.step_sizes(meta.step_sizes, meta.params, len(supports)),
            policy_loss(self.policy, self.objective),
            supports,
            first_order=True,
        )

    def linearize(self, meta: MetaParams, supports: Sequence[PolicyBatch]) -> LinearizedAdaptation:
        """Take the same steps and keep what products with their derivative need."""
        return linearize_adaptation(
            expand_to_tasks(meta.params, supports[0].weights.shape[0]),
            self.learner.step_sizes(meta.step_sizes, meta.params, len(supports)),
            policy_loss(self.policy, self.objective),
            supports,
            first_order=self.learner.first_order,
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
        self, how: GradientAdaptation, meta: MetaParams, supports: Sequence[PolicyBatch]
    ) -> None:
        self._meta = meta
        self._step_sizes = _StepSizes(how.learner, meta, len(supports))
        self._adaptation = how.linearize(meta, supports)
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


def _fisher_product(
    how: GradientAdaptation,
    meta: MetaParams,
    supports: Sequence[PolicyBatch],
    query: PolicyBatch,
) -> Callable[[Tensor], Tensor]:
    """Return the product with the mean Fisher information of the adapted policies (Gauss-Newton).

    At the point where the samples were taken this is the Hessian of the mean KL.
    """
    derivative = _Derivative(how, meta, supports)
    weights = query.valid / query.valid.shape[0]
    leaves = _leaves(derivative.adapted)
    with torch.enable_grad():
        distribution = how.policy(leaves, query.observations)
    jacobian = Jacobian(distribution, list(leaves.values()))
    fixed = Gaussian(*(value.detach() for value in distribution))

    def product(vector: Tensor) -> Tensor:
        change = Gaussian(*jacobian.push(list(derivative.push(vector).values())))
        pulled = jacobian.pull(fixed.fisher(change, weights))
        return derivative.pull(dict(zip(leaves, pulled, strict=True)))

    return product


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
    derivative = _Derivative(how, meta, supports)
    leaves = _leaves(derivative.adapted)
    with torch.enable_grad():
        loss = surrogate_loss(how.policy, leaves, query).mean()
    pulled = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    gradient = derivative.pull(dict(zip(leaves, pulled, strict=True)))
    with torch.no_grad():
        old = how.policy(derivative.adapted, query.observations)

    @torch.no_grad()
    def evaluate(vector: Tensor) -> tuple[Tensor, Tensor]:
        adapted = how.adapt(meta.like(vector), supports)
        new = how.policy(adapted, query.observations)
        ratio = torch.exp(new.log_prob(query.actions) - query.log_probs)
        surrogate = -(ratio * query.weights).sum(1).mean()
        return surrogate, (old.kl(new) * query.valid).sum(1).mean()

    thin = round(1 / settings.curvature_fraction)
    fisher = _fisher_product(how, meta, [s.every(thin) for s in supports], query.every(thin))
    start = (loss.detach(), gradient)
    step = trust_region_step(meta.flat(), start, fisher, evaluate, settings)
    return meta.like(step.point), step
