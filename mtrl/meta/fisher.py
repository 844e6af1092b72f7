"""Adapted policies and what the outer update needs of them: the gradient, and products with the Fisher matrix.

The Fisher information of the adapted policies by the meta-parameters is J^T F J (Gauss-Newton), where F is that of
the action distributions and J their derivative by the meta-parameters, known by its products only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mtrl.meta.jacobian import Jacobian
from mtrl.meta.linearized import LinearizedAdaptation
from mtrl.meta.maml import MetaLearner
from mtrl.meta.objectives import PolicyBatch, surrogate
from mtrl.meta.parameters import MetaParams
from mtrl.nets import Params
from mtrl.policies import Distribution, Policy

__all__ = ["AdaptationDerivative", "AdaptedPolicies", "StepSizeDerivative"]


class StepSizeDerivative:
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


@dataclass(frozen=True)
class AdaptationDerivative:
    """The derivative of some tasks' adapted parameters by the meta-parameters.

    Attributes:
        meta: the meta-parameters.
        step_sizes: the derivative of the inner steps' step sizes at `meta`.
        adaptation: the inner steps of the tasks from `meta`.
    """

    meta: MetaParams
    step_sizes: StepSizeDerivative
    adaptation: LinearizedAdaptation

    def push(self, vector: Tensor) -> Params:
        """Return the change of the adapted parameters for a change `vector` of the meta-parameters."""
        change = self.meta.like(vector)
        # What a learner sets at the start of every task, such as a context, does not change with them.
        params = {
            name: change.params[name] if name in change.params else torch.zeros_like(value[0])
            for name, value in self.adaptation.adapted.items()
        }
        return self.adaptation.push(params, self.step_sizes.push(change.step_sizes))

    def pull(self, cotangent: Params) -> Tensor:
        """Return the gradient of sum(cotangent * adapted) by the meta-parameters, one vector."""
        params, step_sizes = self.adaptation.pull(cotangent)
        learned = {name: params[name] for name in self.meta.params}
        return MetaParams(learned, self.step_sizes.pull(step_sizes)).flat()


class AdaptedPolicies:
    """The adapted policies of some tasks on the samples that they took.

    Args:
        policy: gives the action distributions.
        derivative: the adapted parameters, and how they depend on the meta-parameters.
        query: samples of the adapted policies.
    """

    def __init__(
        self, policy: Policy, derivative: AdaptationDerivative, query: PolicyBatch
    ) -> None:
        self.derivative = derivative
        self._query = query
        self._leaves = _leaves(derivative.adaptation.adapted)
        with torch.enable_grad():
            self._distribution = policy(self._leaves, query.observations)
        self.fixed: Distribution = self._distribution.like(
            value.detach() for value in self._distribution
        )

    def outer_gradient(self) -> tuple[Tensor, Tensor]:
        """Return the sum of the tasks' outer losses and its gradient by the meta-parameters."""
        with torch.enable_grad():
            loss = surrogate(self._distribution, self._query).sum()
        pulled = torch.autograd.grad(
            loss, list(self._leaves.values()), retain_graph=True, materialize_grads=True
        )
        return loss.detach(), self.derivative.pull(dict(zip(self._leaves, pulled, strict=True)))

    def fisher_product(self, vector: Tensor) -> Tensor:
        """Multiply the sum of the tasks' Fisher informations with a change of the meta-parameters.

        At the point where the samples were taken this is the Hessian of the KL divergence.
        """
        change = self.fixed.like(self._jacobian.push(list(self.derivative.push(vector).values())))
        pulled = self._jacobian.pull(list(self.fixed.fisher(change, self._query.valid)))
        return self.derivative.pull(dict(zip(self._leaves, pulled, strict=True)))

    @cached_property
    def _jacobian(self) -> Jacobian:
        return Jacobian(list(self._distribution), list(self._leaves.values()))


def _leaves(params: Params) -> Params:
    return {name: value.detach().requires_grad_() for name, value in params.items()}
