"""Activations of hidden layers, made fast where torch's are slow."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["tanh"]


class _TanhBySigmoid(torch.autograd.Function):
    """tanh(x) = 2 sigmoid(2 x) - 1, to 1e-7 of absolute error in float32; differentiable twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.mul(2).sigmoid_().mul_(2).sub_(1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradients[0], y)  # type: ignore[no-any-return]


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent.

    On a CPU in float32 torch's own takes several times as long as its sigmoid and was a quarter of a
    meta-iteration on navigation.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return _TanhBySigmoid.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    return torch.tanh(x)
