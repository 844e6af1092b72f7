"""The inner loop: gradient steps on every task of a batch at once, differentiable from end to end.

Each task has its own copy of the parameters along a leading axis. A task's loss reads its own slice only, so
the gradient of the *sum* of losses holds every task's gradient unscaled: an inner step is the same whatever
the number of tasks beside it, and no loop over tasks is needed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mtrl.nets import Params

__all__ = ["Batch", "TaskLoss", "adapt", "expand_to_tasks", "per_task", "task_gradients"]

Batch = TypeVar("Batch")
TaskLoss = Callable[[Params, Batch], Tensor]
"""A loss for all tasks: parameters and data with a leading task axis give losses (tasks,)."""


def per_task(loss: Callable[[Params, Any], Tensor]) -> TaskLoss[Any]:
    """Turn a scalar loss of one task's parameters and data into a loss over a task axis."""
    return torch.func.vmap(loss, randomness="different")


def expand_to_tasks(params: Params, tasks: int) -> Params:
    """Give shared parameters a leading axis of `tasks` views; nothing is copied."""
    return {name: value.expand(tasks, *value.shape) for name, value in params.items()}


def task_gradients(
    params: Params,
    names: Iterable[str],
    loss: TaskLoss[Batch],
    support: Batch,
    *,
    differentiable: bool,
) -> Params:
    """Return each task's gradient of its own loss for the parameters in `names`.

    A parameter that the loss does not use gets zeros.

    Args:
        params: per-task parameters, each (tasks, ...); those in `names` require grad.
        names: the parameters to differentiate.
        loss: maps per-task parameters and data to losses (tasks,).
        support: the tasks' data.
        differentiable: keep the graph, so that the gradients can be differentiated again.

    Raises:
        ValueError: the loss does not return one value per task.
    """
    losses = loss(params, support)
    tasks = next(iter(params.values())).shape[0]
    if losses.shape != (tasks,):
        raise ValueError(
            f"the loss must return one value per task, shape ({tasks},), but returned "
            f"{tuple(losses.shape)}: average over everything but the task axis"
        )
    wanted = [params[name] for name in names]
    gradients = torch.autograd.grad(
        losses.sum(), wanted, create_graph=differentiable, allow_unused=True
    )
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for name, value, gradient in zip(names, wanted, gradients, strict=True)
    }


def adapt(
    params: Params,
    step_sizes: Sequence[Params],
    loss: TaskLoss[Batch],
    supports: Sequence[Batch],
    *,
    first_order: bool = False,
) -> Params:
    """Take one gradient step per support set on every task: theta' = theta - alpha * grad L(theta).

    Finn et al. 2017, eq. 1; with a step size per parameter, Li et al. 2017, eq. 3. The result is a
    differentiable function of `params` and `step_sizes` where those require grad.

    Args:
        params: per-task parameters, each (tasks, ...); see `expand_to_tasks`.
        step_sizes: for each step, step sizes that broadcast to one task's parameters. A parameter without
            one is frozen: it keeps its value.
        loss: maps per-task parameters and a support set to losses (tasks,).
        supports: one support set per step.
        first_order: take the inner gradient for a constant when the result is differentiated. Step sizes
            still receive their gradient.

    Returns:
        The adapted parameters, each (tasks, ...).
    """
    for alpha, support in zip(step_sizes, supports, strict=True):
        if not alpha:
            continue
        # A frozen parameter counts too: the inner gradient depends on it.
        tracked = any(value.requires_grad for value in params.values())
        start = {
            name: value
            if value.requires_grad or name not in alpha
            else value.detach().requires_grad_()
            for name, value in params.items()
        }
        with torch.enable_grad():
            gradients = task_gradients(
                start, tuple(alpha), loss, support, differentiable=tracked and not first_order
            )
        params = {
            name: value - alpha[name] * gradients[name] if name in alpha else value
            for name, value in params.items()
        }
    return params
