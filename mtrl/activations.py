"""Activations of hidden layers, made fast where torch's are slow."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["tanh"]


class _Tanh(torch.autograd.Function):
    """torch.tanh by NumPy; the last bits may differ. Differentiable twice."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        if is_in_torch_dispatch_mode():
            # Whoever traces operations would not see NumPy's, and keep its result as a constant. Compiled, a sigmoid
            # takes less time than torch's tanh.
            return values.mul(2).sigmoid().mul(2).sub(1)
        return torch.from_numpy(np.tanh(values.numpy()))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        made: Tensor = torch.ops.aten.tanh_backward(gradient, *ctx.saved_tensors)
        return made

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None], values: Tensor) -> tuple[Tensor, int | None]:
        return tanh(values), dims[0]


def tanh(values: Tensor) -> Tensor:
    """Return the hyperbolic tangent.

    On a CPU in float32 NumPy's takes a ninth of the time of torch's own, which was a quarter of a meta-iteration on
    navigation.
    """
    if values.device.type != "cpu" or values.dtype != torch.float32:
        return torch.tanh(values)
    if torch.is_inference_mode_enabled() and not is_in_torch_dispatch_mode():
        # What makes the derivative takes longer than the function.
        return torch.from_numpy(np.tanh(values.numpy()))
    made: Tensor = _Tanh.apply(values)  # type: ignore[no-untyped-call]
    return made
