"""Which task each sample of a batch belongs to, and what is known of the tasks in advance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.errors import UsageError

__all__ = ["TaskInput", "TaskSpec", "require_context", "require_index"]


@dataclass(frozen=True, eq=False)
class TaskInput:
    """The task of each sample: its number, its context vector, or both.

    Attributes:
        index: (batch,) int64, from 0 to tasks - 1.
        context: (batch, context), of the network's floating type.
    """

    index: Tensor | None = None
    context: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """The tasks that a network is built for.

    Raises:
        UsageError: no task at all, or a negative size.
    """

    tasks: int
    """How many tasks there are."""
    context: int = 0
    """Length of a task's context vector; 0 if there is none."""

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise UsageError(f"tasks is {self.tasks}; a network needs at least 1 task")
        if self.context < 0:
            raise UsageError(f"context is {self.context}; a length cannot be negative")

    def check(self, task: TaskInput) -> None:
        """Check the values of `task`, not its shapes; this waits for the device that they are on.

        Raises:
            UsageError: an index that is no task's, or a context that is not finite; the message
                names the sample.
        """
        if task.index is not None and task.index.ndim == 1:
            outside = (task.index < 0) | (task.index >= self.tasks)
            if outside.any():
                place = int(outside.nonzero()[0, 0])
                raise UsageError(
                    f"task.index[{place}] is {int(task.index[place])}; the network has tasks 0 to "
                    f"{self.tasks - 1}"
                )
        if task.context is not None and task.context.ndim == 2:
            bad = ~torch.isfinite(task.context).all(-1)
            if bad.any():
                place = int(bad.nonzero()[0, 0])
                raise UsageError(
                    f"task.context[{place}] is {task.context[place].tolist()}; a context must be "
                    "finite, look at what the task family gives for this task"
                )


def require_index(task: TaskInput, user: str) -> Tensor:
    """Return the task numbers (batch,), which `user` cannot do without.

    Raises:
        UsageError: there are none, or they are not a vector of int64.
    """
    if task.index is None:
        raise UsageError(f"task.index is missing; {user} needs the number of each sample's task")
    if task.index.dtype != torch.int64 or task.index.ndim != 1:
        raise UsageError(
            f"task.index is {task.index.dtype} of shape {tuple(task.index.shape)}; it must be "
            "int64 of shape (batch,)"
        )
    return task.index


def require_context(task: TaskInput, size: int, user: str) -> Tensor:
    """Return the context vectors (batch, size), which `user` cannot do without.

    Raises:
        UsageError: there are none, or they have another shape.
    """
    if task.context is None:
        raise UsageError(f"task.context is missing; {user} needs the context of each sample's task")
    if task.context.ndim != 2 or task.context.shape[1] != size:
        raise UsageError(
            f"task.context has shape {tuple(task.context.shape)}; it must be (batch, {size})"
        )
    return task.context
