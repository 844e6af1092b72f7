"""The derivative of adaptation as two matrix-free products, for trust-region updates of meta-parameters.

Adaptation maps shared parameters and step sizes to one set of parameters per task. Natural-gradient steps
multiply its Jacobian and the Jacobian's transpose with vectors many times at one point. Differentiating
through `adapt` twice would need third derivatives of the inner loss; but each inner step is
theta' = theta - alpha * g(theta), so that both products need only products with the Hessian H of the loss:

    forward   d theta' = d theta - alpha * (H d theta) - d alpha * g
    backward  d theta  = u - H (alpha * u),   d alpha = -u * g

with alpha = 0 for the parameters that the inner loop freezes, on which g depends all the same.

The graph of g is built once per inner step and reused by every product.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from mtrl.meta.inner import Batch, TaskLoss, expand_to_tasks, task_gradients
from mtrl.nets import Params

__all__ = ["LinearizedAdaptation", "linearize_adaptation"]


@dataclass(frozen=True)
class _Stage:
    """One inner step.

    Attributes:
        leaves: the parameters before the step, those that it freezes included.
        gradients: their task gradients, without a graph.
        curvature: task gradients to differentiate again, with a graph unless the learner is of first order.
        step_sizes: of the parameters that move.
    """

    leaves: Params
    gradients: Params
    curvature: Params
    step_sizes: Params

    def hessian_product(self, vector: Params, rows: Iterable[str]) -> Params:
        """Multiply each task's Hessian of the inner loss (symmetric) with its slice of `vector`.

        Args:
            vector: entries by parameter; zero for those without one.
            rows: the parameters for which the product is returned.
        """
        # The gradient of a parameter that the loss does not use, or is linear in, is a constant.
        curved = [name for name in vector if self.curvature[name].requires_grad]
        inputs = {name: self.leaves[name] for name in rows}
        if not curved:
            return {name: torch.zeros_like(value) for name, value in inputs.items()}
        products = torch.autograd.grad(
            [self.curvature[name] for name in curved],
            list(inputs.values()),
            [vector[name] for name in curved],
            retain_graph=True,
            materialize_grads=True,
        )
        return dict(zip(inputs, products, strict=True))


@dataclass(frozen=True)
class LinearizedAdaptation:
    """Adaptation at one point: its result and products with its derivative.

    Attributes:
        adapted: the adapted parameters, each (tasks, ...), without a graph.
        stages: one per inner step.
    """

    adapted: Params
    stages: tuple[_Stage, ...]

    def push(self, params: Params, step_sizes: Sequence[Params]) -> Params:
        """Return the change of `adapted`, each (tasks, ...), for a small change of the inputs.

        Args:
            params: change of the shared parameters.
            step_sizes: for each inner step, change of the step sizes.
        """
        tasks = next(iter(self.adapted.values())).shape[0]
        tangent = expand_to_tasks(params, tasks)
        for stage, d_alpha in zip(self.stages, step_sizes, strict=True):
            curved = stage.hessian_product(tangent, stage.step_sizes)
            moved = {
                name: tangent[name] - alpha * curved[name] - d_alpha[name] * stage.gradients[name]
                for name, alpha in stage.step_sizes.items()
            }
            tangent = {**tangent, **moved}
        return tangent

    def pull(self, cotangent: Params) -> tuple[Params, list[Params]]:
        """Return the gradient of sum(cotangent * adapted) for shared parameters and step sizes.

        Args:
            cotangent: one value per entry of `adapted`, each (tasks, ...).

        Returns:
            The gradient for the shared parameters, and for each inner step that for the step sizes, summed
            over tasks and shaped as the step sizes are.
        """
        d_step_sizes: list[Params] = []
        for stage in reversed(self.stages):
            d_step_sizes.append(
                {
                    name: -(cotangent[name] * stage.gradients[name]).sum(0).sum_to_size(alpha.shape)
                    for name, alpha in stage.step_sizes.items()
                }
            )
            scaled = {name: alpha * cotangent[name] for name, alpha in stage.step_sizes.items()}
            curved = stage.hessian_product(scaled, cotangent)
            cotangent = {name: value - curved[name] for name, value in cotangent.items()}
        shared = {name: value.sum(0) for name, value in cotangent.items()}
        return shared, d_step_sizes[::-1]


def linearize_adaptation(
    params: Params,
    step_sizes: Sequence[Params],
    loss: TaskLoss[Batch],
    supports: Sequence[Batch],
    *,
    first_order: bool = False,
    curvature_supports: Sequence[Batch] | None = None,
) -> LinearizedAdaptation:
    """Adapt as `mtrl.meta.inner.adapt` does and keep what products with the derivative need.

    Args:
        params: per-task parameters, each (tasks, ...).
        step_sizes, loss, supports, first_order: as for `adapt`.
        curvature_supports: smaller support sets to take the Hessians from, which cost most; adaptation itself
            and the derivative by the step sizes still use all of `supports`.
    """
    params = {name: value.detach() for name, value in params.items()}
    stages: list[_Stage] = []
    for step, (alpha, support) in enumerate(zip(step_sizes, supports, strict=True)):
        alpha = {name: value.detach() for name, value in alpha.items()}
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}

        def gradients_on(data: Batch, differentiable: bool, leaves: Params = leaves) -> Params:
            with torch.enable_grad():
                return task_gradients(
                    leaves, tuple(leaves), loss, data, differentiable=differentiable
                )

        if curvature_supports is None or first_order:
            curvature = gradients_on(support, not first_order)
            gradients = {name: value.detach() for name, value in curvature.items()}
        else:
            curvature = gradients_on(curvature_supports[step], True)
            gradients = gradients_on(support, False)
        stages.append(_Stage(leaves, gradients, curvature, alpha))
        stepped = {name: params[name] - alpha[name] * gradients[name] for name in alpha}
        params = {**params, **stepped}
    return LinearizedAdaptation(params, tuple(stages))
