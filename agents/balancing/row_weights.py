"""Weights of tasks' losses, applied where the gradient enters a network."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["weigh_rows"]


class _WeighRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return gradients[0] * rows.view(-1, *[1] * (gradients[0].ndim - 1)), None


def weigh_rows(outputs: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """Return `outputs` unchanged; their gradient is multiplied row by row by the task's weight.

    For a loss that is a sum or mean over rows, that is the gradient of the loss with each row
    multiplied by its task's weight, for everything that the outputs were computed from. Weights get no
    gradient.

    Args:
        outputs: (batch, ...).
        weights: (tasks,), of mean 1 if the learning rate is to keep its meaning.
        index: (batch,) int64, the task of each row.
    """
    weighed: Tensor = _WeighRows.apply(outputs, weights.detach().to(outputs)[index])  # type: ignore[no-untyped-call]
    return weighed
