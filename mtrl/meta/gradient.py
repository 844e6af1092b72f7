"""The supervised meta-gradient: the outer loss's derivative by parameters and step sizes, in chunks of tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.meta.chunk_size import default_bound, tasks_at_once
from mtrl.meta.compiled import CompiledByShape, TensorFunction
from mtrl.meta.inner import TaskLoss, adapt
from mtrl.meta.maml import MetaLearner
from mtrl.meta.parameters import MetaParams, flatten

__all__ = ["FewShotTensors", "MetaGradient"]

FewShotTensors = Sequence[Tensor]
"""Support x and y, query x and y, each with a leading task axis."""


def _chunks(data: FewShotTensors, size: int) -> list[FewShotTensors]:
    # Cutting four tensors into one piece each takes a tenth of a small compiled meta-step.
    if data[0].shape[0] <= size:
        return [data]
    return list(zip(*(torch.split(part, size) for part in data), strict=True))


@dataclass(frozen=True)
class _Outcome:
    """Mean outer loss over the tasks, its gradient as one vector in the order of `MetaParams.flat`, and each
    task's own loss (tasks,)."""

    loss: Tensor
    gradient: Tensor
    losses: Tensor


class MetaGradient:
    """Computes meta-gradients of a supervised loss.

    Args:
        learner: gives the step sizes.
        loss: maps per-task parameters and (x, y) to losses (tasks,).
        chunk: tasks worked on at once; the gradient is the same for every chunk size, up to the order of sums. If left
            out it is measured at the first call (see `chunk_size`).
        memory: bytes that a chunk may take where it is measured; what suits the device if left out.
        compiled: trace and compile the computation for each shape that occurs.
    """

    def __init__(
        self,
        learner: MetaLearner,
        loss: TaskLoss[tuple[Tensor, Tensor]],
        *,
        chunk: int | None = None,
        memory: int | None = None,
        compiled: bool = False,
    ) -> None:
        self._learner = learner
        self._loss = loss
        self._memory = memory
        self.chunk = chunk
        """Tasks worked on at once; None until it is measured."""
        self._compiles = compiled
        self._compiled: TensorFunction | None = None

    def __call__(self, meta: MetaParams, data: FewShotTensors) -> _Outcome:
        """Return the mean query loss after adaptation, its gradient, and each task's loss."""
        named, tasks = meta.named(), data[0].shape[0]
        if self.chunk is None:
            self.chunk = self._affordable(named, data)
        chunks = _chunks(data, self.chunk)
        first, total = self._chunk_gradient(named, chunks[0])
        found = [first]
        for chunk in chunks[1:]:
            more, part = self._chunk_gradient(named, chunk)
            found.append(more)
            total += part
        losses = torch.cat(found)
        return _Outcome(losses.mean(), total.div_(tasks), losses)

    def _affordable(self, named: Mapping[str, Tensor], data: FewShotTensors) -> int:
        function = self._function(list(named))
        bound = self._memory or default_bound(data[0].device)

        def gradient(tasks: int) -> None:
            function(*named.values(), *(part[:tasks] for part in data))

        return tasks_at_once(gradient, data[0].shape[0], bound)

    def _chunk_gradient(
        self, named: Mapping[str, Tensor], data: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """Return the losses of the chunk's tasks, and the gradient of their sum as one vector."""
        if not self._compiles:
            return self._function(list(named))(*named.values(), *data)
        if self._compiled is None:
            self._compiled = CompiledByShape(self._function(list(named)))
        return self._compiled(*named.values(), *data)

    def _function(self, names: Sequence[str]) -> TensorFunction:
        def gradient(*arguments: Tensor) -> list[Tensor]:
            with torch.enable_grad():
                leaves = [value.detach().requires_grad_() for value in arguments[: len(names)]]
                current = MetaParams.from_named(dict(zip(names, leaves, strict=True)))
                losses = self._outer_losses(current, arguments[len(names) :])
                slopes = torch.autograd.grad(losses.sum(), leaves, materialize_grads=True)
                return [losses.detach(), flatten(dict(zip(names, slopes, strict=True)))]

        return gradient

    def _outer_losses(self, meta: MetaParams, data: Sequence[Tensor]) -> Tensor:
        support_x, support_y, query_x, query_y = data
        learner, steps = self._learner, self._learner.inner_steps
        adapted = adapt(
            learner.start(meta.params, support_x.shape[0]),
            learner.step_sizes(meta.step_sizes, meta.params, steps),
            self._loss,
            [(support_x, support_y)] * steps,
            first_order=learner.first_order,
        )
        return self._loss(adapted, (query_x, query_y))
