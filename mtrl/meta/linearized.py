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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtrl.meta.inner import Batch, TaskLoss, expand_to_tasks, task_gradients
from mtrl.nets import Params

__all__ = ["LinearizedAdaptation", "concatenate", "linearize_adaptation"]


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

    def on_tasks(self, change: Callable[[Tensor], Tensor]) -> "_Stage":
        """Return the step with `change` made to all that has a task axis, without curvature."""
        leaves = {name: change(value.detach()) for name, value in self.leaves.items()}
        gradients = {name: change(value) for name, value in self.gradients.items()}
        return _Stage(leaves, gradients, gradients, self.step_sizes)


@dataclass(frozen=True)
class LinearizedAdaptation:
    """Adaptation at one point: its result and products with its derivative.

    Attributes:
        adapted: the adapted parameters, each (tasks, ...), without a graph.
        stages: one per inner step.
    """

    adapted: Params
    stages: tuple[_Stage, ...]

    def of_tasks(self, first: int, last: int) -> "LinearizedAdaptation":
        """Return the adaptation of a range of the tasks, without curvature."""
        stages = (stage.on_tasks(lambda value: value[first:last]) for stage in self.stages)
        adapted = {name: value[first:last] for name, value in self.adapted.items()}
        return LinearizedAdaptation(adapted, tuple(stages))

    def without_curvature(self) -> "LinearizedAdaptation":
        """Return the same adaptation as if the gradients were constants; no graph is kept."""
        return self.of_tasks(0, next(iter(self.adapted.values())).shape[0])

    def with_curvature(
        self, loss: TaskLoss[Batch], supports: Sequence[Batch]
    ) -> "LinearizedAdaptation":
        """Return the same adaptation with the Hessians of other support sets.

        Hessians cost most; smaller supports make them cheaper, and adaptation itself and the derivative by
        the step sizes stay what they were.
        """
        stages = []
        for stage, support in zip(self.stages, supports, strict=True):
            leaves = {name: value.detach().requires_grad_() for name, value in stage.leaves.items()}
            with torch.enable_grad():
                curvature = task_gradients(
                    leaves, tuple(leaves), loss, support, differentiable=True
                )
            stages.append(replace(stage, leaves=leaves, curvature=curvature))
        return replace(self, stages=tuple(stages))

    def tensors(self) -> list[Tensor]:
        """Return the values of `adapted`, then those of each stage's leaves and gradients."""
        found = list(self.adapted.values())
        for stage in self.stages:
            found += [*stage.leaves.values(), *(stage.gradients[name] for name in stage.leaves)]
        return found

    @classmethod
    def of_tensors(
        cls, names: Sequence[str], step_sizes: Sequence[Params], tensors: Sequence[Tensor]
    ) -> "LinearizedAdaptation":
        """Return what gave `tensors`, without curvature; `names` are those of all parameters."""
        groups = (
            tensors[first : first + len(names)] for first in range(0, len(tensors), len(names))
        )
        adapted, *parts = (dict(zip(names, group, strict=True)) for group in groups)
        stages = []
        for leaves, gradients, alpha in zip(parts[::2], parts[1::2], step_sizes, strict=True):
            fixed = {name: value.detach() for name, value in alpha.items()}
            stages.append(_Stage(leaves, gradients, gradients, fixed))
        return cls(adapted, tuple(stages))

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


def concatenate(parts: Sequence[LinearizedAdaptation]) -> LinearizedAdaptation:
    """Return the adaptation of the tasks of all `parts`, made with the same step sizes; without curvature."""

    def joined(each: Sequence[Params]) -> Params:
        return {name: torch.cat([part[name].detach() for part in each]) for name in each[0]}

    stages = []
    for same_step in zip(*(part.stages for part in parts), strict=True):
        gradients = joined([stage.gradients for stage in same_step])
        leaves = joined([stage.leaves for stage in same_step])
        stages.append(_Stage(leaves, gradients, gradients, same_step[0].step_sizes))
    return LinearizedAdaptation(joined([part.adapted for part in parts]), tuple(stages))


def linearize_adaptation(
    params: Params,
    step_sizes: Sequence[Params],
    loss: TaskLoss[Batch],
    supports: Sequence[Batch],
    *,
    first_order: bool = False,
) -> LinearizedAdaptation:
    """Adapt as `mtrl.meta.inner.adapt` does and keep what products with the derivative need.

    Args:
        params: per-task parameters, each (tasks, ...).
        step_sizes, loss, supports, first_order: as for `adapt`.
    """
    params = {name: value.detach() for name, value in params.items()}
    stages: list[_Stage] = []
    for alpha, support in zip(step_sizes, supports, strict=True):
        alpha = {name: value.detach() for name, value in alpha.items()}
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        with torch.enable_grad():
            curvature = task_gradients(
                leaves, tuple(leaves), loss, support, differentiable=not first_order
            )
        gradients = {name: value.detach() for name, value in curvature.items()}
        stages.append(_Stage(leaves, gradients, curvature, alpha))
        stepped = {name: params[name] - alpha[name] * gradients[name] for name in alpha}
        params = {**params, **stepped}
    return LinearizedAdaptation(params, tuple(stages))
