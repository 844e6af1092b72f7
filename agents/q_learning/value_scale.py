"""Moving a Q-network's values to another reward without changing which action it prefers."""

import math

import torch
from torch import Tensor, nn

from mtrl.errors import UsageError

__all__ = ["ValueScale", "fit_scale", "transform_values"]

# A slope beyond these would make the gaps between actions vanish or explode, and with them the policy.
SMALLEST, LARGEST = 0.1, 10.0
TOLERANCE = 1e-3

ValueScale = tuple[float, float]
"""Slope and offset: a value q becomes slope * q + offset."""


def fit_scale(
    values: Tensor, next_values: Tensor, rewards: Tensor, discounts: Tensor, *, with_slope: bool
) -> ValueScale:
    """Return the slope and offset with which the values fit other rewards best.

    They are the fixed point of least-squares temporal differences (Bradtke and Barto 1996) with the
    present value and 1 as the only features. The slope is kept positive, between 0.1 and 10.

    Args:
        values: (batch,), Q(s, a).
        next_values: (batch,), of the states that follow.
        rewards: (batch,), the new ones.
        discounts: (batch,), of the next values; 0 after a termination.
        with_slope: whether to fit the slope; else it is 1, and only the level moves.
    """
    values, next_values, rewards, discounts = (
        given.double() for given in (values, next_values, rewards, discounts)
    )
    slope = 1.0
    if with_slope:
        ones = torch.ones_like(values)
        features = torch.stack([values, ones], 1)
        drop = features - discounts[:, None] * torch.stack([next_values, ones], 1)
        matrix = features.T @ drop
        solved = torch.linalg.lstsq(matrix, (features.T @ rewards)[:, None]).solution[0, 0]
        # Where values do not vary there is no slope to find.
        slope = float(solved) if math.isfinite(float(solved)) else 1.0
        slope = min(max(slope, SMALLEST), LARGEST)
    missing = (rewards - slope * (values - discounts * next_values)).mean()
    share = (1 - discounts).mean()
    return slope, float(missing / share) if float(share) > 0 else 0.0


@torch.no_grad()
def transform_values(network: nn.Module, scale: ValueScale, observations: Tensor) -> None:
    """Change a Q-network's last layer so that its values q become slope * q + offset.

    The last layer is the last submodule with a weight and a bias of its own; whether it decides the
    values is then checked on `observations`, (batch, ...).

    Raises:
        UsageError: it does not; the network is left as it was.
    """
    slope, offset = scale
    before = network(observations)
    layer = _last_layer(network)
    kept = [parameter.clone() for parameter in layer]
    weight, bias = layer
    weight.mul_(slope)
    bias.mul_(slope).add_(offset)
    wanted = slope * before + offset
    size = max(1.0, float(wanted.abs().max()))
    if float((network(observations) - wanted).abs().max()) > TOLERANCE * size:
        for parameter, old in zip(layer, kept, strict=True):
            parameter.copy_(old)
        raise UsageError(
            "the values of this Q-network are no affine function of its last layer's bias; set "
            'q_scale of CarryOver to "keep"'
        )


def _last_layer(network: nn.Module) -> tuple[Tensor, Tensor]:
    for module in reversed(list(network.modules())):
        own = dict(module.named_parameters(recurse=False))
        if {"weight", "bias"} <= own.keys():
            return own["weight"], own["bias"]
    raise UsageError(
        'this Q-network has no layer with a weight and a bias; set q_scale of CarryOver to "keep"'
    )
