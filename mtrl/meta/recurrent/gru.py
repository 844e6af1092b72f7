"""A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) over whole sequences, as a function of tensors.

With x the input's projection and h the state, each cut into the parts of the three gates,

    r = sigmoid(x_r + U_r h)            how much of the state the candidate sees
    z = sigmoid(x_z + U_z h)            how much of the state is kept
    n = tanh(x_n + r * (U_n h + b))     the candidate
    h' = (1 - z) * n + z * h

which are torch's equations. The derivative is written out. All that a gradient is multiplied by on its way
back is known after the forward pass, so that it is computed for all steps at once, and the way back takes
one matrix product and three elementwise operations a step; the weights' gradient is one product over all
steps. Automatic differentiation takes several dozen small operations and two products a step.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["gru_sequence", "gru_step"]


def gru_step(
    projected: Tensor, state: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None
) -> Tensor:
    """Return the next state (batch, units), without a graph.

    Args:
        projected: (batch, 3 * units), the input's projection for r, z and n.
        state: (batch, units).
        weight: (3 * units, units), U.
        bias: (units,), b.
        out: where to write the next state.
    """
    units = state.shape[-1]
    reset_update = projected.new_empty(len(state), 2 * units)
    candidate = torch.empty_like(state)
    recurrent = projected.new_empty(len(state), 3 * units)
    following = torch.empty_like(state) if out is None else out
    into = (reset_update, candidate, recurrent, following)
    _step(projected, state, weight.t(), _padded(bias), into)
    return following


def gru_sequence(projected: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the states after every step, (time, batch, units), from `projected` (time, batch, 3 * units).

    Differentiable once, by every argument but the initial state, which is a constant.
    """
    apply = cast(Callable[..., Tensor], _Sequence.apply)
    return apply(projected, state, weight, bias)


def _padded(bias: Tensor) -> Tensor:
    """Return the bias of U h: only the candidate's part has one."""
    return torch.cat([torch.zeros_like(bias).repeat(2), bias])


def _step(
    projected: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor,
    into: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Write r and z, n, U h + b and the next state `into` tensors; `weight` is (units, 3 * units) here."""
    reset_update, candidate, recurrent, following = into
    double, units = reset_update.shape[-1], state.shape[-1]
    torch.addmm(bias, state, weight, out=recurrent)
    torch.add(projected[:, :double], recurrent[:, :double], out=reset_update).sigmoid_()
    torch.addcmul(
        projected[:, double:], reset_update[:, :units], recurrent[:, double:], out=candidate
    ).tanh_()
    torch.lerp(candidate, state, reset_update[:, units:], out=following)


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        steps, batch, triple = projected.shape
        units, new = triple // 3, projected.new_empty
        # The state before every step and after the last: no copy is needed to look back.
        states, candidate = new(steps + 1, batch, units), new(steps, batch, units)
        reset_update, recurrent = new(steps, batch, 2 * units), new(steps, batch, triple)
        states[0] = state
        transposed, padded = weight.t().contiguous(), _padded(bias)
        for t in range(steps):
            into = (reset_update[t], candidate[t], recurrent[t], states[t + 1])
            _step(projected[t], states[t], transposed, padded, into)
        ctx.save_for_backward(states, weight, reset_update, candidate, recurrent[..., 2 * units :])
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        states, weight, reset_update, candidate, inner = ctx.saved_tensors
        steps, batch, units = grad.shape
        update = reset_update[..., units:]
        # By the next state's gradient: that of the candidate before its tanh, ...
        slope = (1 - update) * (1 - candidate.square())
        # ... and those of U h + b: by way of r, of z, and of the candidate.
        factors = grad.new_empty(steps, batch, 3, units)
        slopes = torch.addcmul(reset_update, reset_update, reset_update, value=-1)
        torch.mul(slope * inner, slopes[..., :units], out=factors[:, :, 0])
        torch.mul(states[:-1] - candidate, slopes[..., units:], out=factors[:, :, 1])
        torch.mul(slope, reset_update[..., :units], out=factors[:, :, 2])
        arriving, carried = torch.empty_like(slope), torch.zeros_like(states[0])
        for t in range(steps - 1, -1, -1):
            torch.add(grad[t], carried, out=arriving[t])
            # In place: a step's factors are not needed again.
            factors[t].mul_(arriving[t].unsqueeze(1))
            carried = torch.addmm(arriving[t] * update[t], factors[t].view(batch, -1), weight)
        flat = factors.view(steps * batch, -1)
        by_weight = flat.t() @ states[:-1].view(steps * batch, units)
        by_bias = flat[:, 2 * units :].sum(0)
        by_projected = flat.view(steps, batch, 3 * units).clone()
        torch.mul(arriving, slope, out=by_projected[..., 2 * units :])
        return by_projected, None, by_weight, by_bias
