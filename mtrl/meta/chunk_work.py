"""What an outer update computes of a chunk of tasks by the policies adapted to them; compiled if asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from mtrl.meta.compiled import CompiledByShape, PreparedByShape, TensorFunction
from mtrl.meta.fisher import AdaptationDerivative, AdaptedPolicies, StepSizeDerivative
from mtrl.meta.linearized import LinearizedAdaptation
from mtrl.meta.objectives import PolicyBatch, policy_loss, surrogate
from mtrl.meta.parameters import MetaParams
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.policies import Distribution

__all__ = ["ChunkWork", "OuterGradient", "adapted_policies"]

Chunk = Sequence[PolicyBatch]
"""Of some tasks the support of every inner step, then the query."""


def adapted_policies(
    how: GradientAdaptation, meta: MetaParams, chunk: Chunk, step_sizes: StepSizeDerivative
) -> AdaptedPolicies:
    """Return the policies adapted on the supports of `chunk`, on the query that they took."""
    *supports, query = chunk
    linearized = how.linearize(meta, supports, query.weights.shape[0])
    derivative = AdaptationDerivative(meta, step_sizes, linearized)
    return AdaptedPolicies(how.policy, derivative, query)


@dataclass(frozen=True)
class OuterGradient:
    """What the outer loss says of a chunk.

    Attributes:
        total: sum of the tasks' outer losses, then its gradient by the meta-parameters, one vector.
        old: the action distributions of the adapted policies on the query.
        adaptation: the inner steps, without curvature.
    """

    total: Tensor
    old: Distribution
    adaptation: LinearizedAdaptation


@dataclass(frozen=True)
class _Form:
    """How the arguments of a function of tensors are to be read: named meta-parameters, batches, and the rest."""

    names: tuple[str, ...]
    batches: int

    def read(
        self, tensors: Sequence[Tensor]
    ) -> tuple[MetaParams, list[PolicyBatch], Sequence[Tensor]]:
        """Return meta-parameters, batches and what is left."""
        first, size = len(self.names), len(fields(PolicyBatch))
        meta = MetaParams.from_named(dict(zip(self.names, tensors[:first], strict=True)))
        last = first + size * self.batches
        chunk = [PolicyBatch(*tensors[at : at + size]) for at in range(first, last, size)]
        return meta, chunk, tensors[last:]


class ChunkWork:
    """The work that is the same for every chunk.

    Args:
        how: policy, learner and inner objective.
        compiled: trace and compile it for each shape that occurs.
    """

    def __init__(self, how: GradientAdaptation, *, compiled: bool = False) -> None:
        self.how = how
        self._compiles = compiled
        self._compiled: dict[tuple[str, _Form], CompiledByShape] = {}
        self._prepared: dict[_Form, PreparedByShape] = {}

    def outer_gradient(self, meta: MetaParams, chunk: Chunk) -> OuterGradient:
        """Return loss and gradient of the policies adapted from `meta`, and what they are."""
        how, steps = self.how, len(chunk) - 1
        total, *rest = self._carry_out(self._outer_gradient_of, meta, chunk)
        parts = len(how.learner.start(meta.params, 1)) * (1 + 2 * steps)
        adaptation = self._adaptation(meta, steps, rest[:parts])
        # Any observation tells which kind of distribution the policy gives.
        first = {name: value[:1] for name, value in adaptation.adapted.items()}
        kind = how.policy(first, chunk[-1].observations[:1, :1])
        return OuterGradient(total, kind.like(rest[parts:]), adaptation)

    def loss_and_kl(self, meta: MetaParams, chunk: Chunk, old: Distribution) -> Tensor:
        """Return the sums over tasks of the outer loss and of the KL from `old`, of `meta` adapted: (2,)."""
        (found,) = self._carry_out(self._loss_and_kl_of, meta, chunk, *old)
        return found

    def fisher_product(
        self, meta: MetaParams, chunk: Chunk, adaptation: LinearizedAdaptation
    ) -> Callable[[Tensor], Tensor]:
        """Return the product with the sum of the tasks' Fisher informations, on the samples of `chunk`.

        Args:
            meta: where the adaptation started.
            chunk: samples that may be thinned; inner Hessians are averaged over its supports.
            adaptation: that of all samples, whose adapted parameters and derivative by the step sizes are kept.
        """
        form = self._form(meta, chunk)
        tensors = [*self._arguments(meta, chunk), *adaptation.tensors()]
        if not self._compiles:
            return self._thinned(form, tensors).fisher_product
        function = partial(self._fisher_product_of, form)
        made = self._prepared.setdefault(form, PreparedByShape(function))
        product = made(meta.flat(), *tensors)
        return lambda vector: product(vector)[0]

    def _fisher_product_of(self, form: _Form, vector: Tensor, *tensors: Tensor) -> list[Tensor]:
        return [self._thinned(form, tensors).fisher_product(vector)]

    def _thinned(self, form: _Form, tensors: Sequence[Tensor]) -> AdaptedPolicies:
        meta, (*supports, query), rest = form.read(tensors)
        how = self.how
        derivative = StepSizeDerivative(how.learner, meta, len(supports))
        adaptation = self._adaptation(meta, len(supports), rest)
        if not how.learner.first_order:
            loss = policy_loss(how.policy, how.objective)
            adaptation = adaptation.with_curvature(loss, supports)
        return AdaptedPolicies(
            how.policy, AdaptationDerivative(meta, derivative, adaptation), query
        )

    def _adaptation(
        self, meta: MetaParams, steps: int, tensors: Sequence[Tensor]
    ) -> LinearizedAdaptation:
        """Return the adaptation that gave `tensors`."""
        names = list(self.how.learner.start(meta.params, 1))
        step_sizes = self.how.learner.step_sizes(meta.step_sizes, meta.params, steps)
        return LinearizedAdaptation.of_tensors(names, step_sizes, tensors)

    def _carry_out(
        self, work: Callable[..., list[Tensor]], meta: MetaParams, chunk: Chunk, *others: Tensor
    ) -> Sequence[Tensor]:
        form = self._form(meta, chunk)
        function: TensorFunction = partial(work, form)
        if self._compiles:
            key = work.__name__, form
            function = self._compiled.setdefault(key, CompiledByShape(function))
        return function(*self._arguments(meta, chunk), *others)

    @staticmethod
    def _form(meta: MetaParams, chunk: Chunk) -> _Form:
        return _Form(tuple(meta.named()), len(chunk))

    @staticmethod
    def _arguments(meta: MetaParams, chunk: Chunk) -> list[Tensor]:
        batches = [getattr(batch, each.name) for batch in chunk for each in fields(batch)]
        return [*meta.named().values(), *batches]

    def _outer_gradient_of(self, form: _Form, *tensors: Tensor) -> list[Tensor]:
        meta, chunk, _ = form.read(tensors)
        step_sizes = StepSizeDerivative(self.how.learner, meta, len(chunk) - 1)
        policies = adapted_policies(self.how, meta, chunk, step_sizes)
        loss, gradient = policies.outer_gradient()
        adaptation = policies.derivative.adaptation.without_curvature()
        return [torch.cat([loss.view(1), gradient]), *adaptation.tensors(), *policies.fixed]

    @torch.no_grad()
    def _loss_and_kl_of(self, form: _Form, *tensors: Tensor) -> list[Tensor]:
        meta, (*supports, query), old = form.read(tensors)
        after = self.how.policy(self.how.adapt(meta, supports), query.observations)
        kl = (after.like(old).kl(after) * query.valid).sum()
        return [torch.stack([surrogate(after, query).sum(), kl])]
