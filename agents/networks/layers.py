"""Affine maps whose parameters are drawn from a passed generator."""

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from mtrl.activations import tanh

__all__ = ["ACTIVATIONS", "Activation", "Affine", "Initializer", "Stack", "blocks"]

Activation = Literal["relu", "tanh", "elu"]
Initializer = Literal["fan-in", "orthogonal"]
"""`fan-in`: U(-b, b) with b = 1/sqrt(inputs), torch's default. `orthogonal`: weights with
orthonormal rows or columns times sqrt(2), biases zero, as Stable-Baselines3 starts PPO."""


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": tanh,
    "elu": nn.functional.elu,
}


def _weight(
    shape: tuple[int, ...], initializer: Initializer, scale: float, generator: torch.Generator
) -> Tensor:
    drawn = torch.empty(shape, device=generator.device)
    if initializer == "orthogonal":
        for matrix in drawn:
            nn.init.orthogonal_(matrix, math.sqrt(2) * scale, generator=generator)
        return drawn
    bound = scale / math.sqrt(shape[-1])
    return drawn.uniform_(-bound, bound, generator=generator)


_FEW, _NARROW = 24, 128
"""Outputs of all groups together up to which all are computed and one group's picked: in any order of
samples, and in one that would have to be sorted. Such a layer moves more memory than it multiplies, and
sorting samples into blocks moves yet more (`scripts/benchmark_heads.py`)."""

_TURNS = 4
"""The fewest turns that make an order of turns worth looking for."""


class Affine(nn.Module):
    """Maps x -> W_g x + b_g, one for each of `groups`, kept as one weight and one bias.

    Attributes:
        weight: (groups, outputs, inputs).
        bias: (groups, outputs).

    Args:
        shape: groups, outputs and inputs.
        initializer: how parameters are drawn.
        scale: factor on all drawn parameters.
        generator: what they are drawn from, and on whose device they lie.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        initializer: Initializer = "fan-in",
        scale: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.groups, self.outputs, self.inputs = shape
        self.weight = nn.Parameter(_weight(shape, initializer, scale, generator))
        bias = torch.zeros(shape[:2], device=generator.device)
        if initializer == "fan-in":
            bound = scale / math.sqrt(self.inputs)
            bias.uniform_(-bound, bound, generator=generator)
        self.bias = nn.Parameter(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (groups, batch, inputs), a batch for each group, to (groups, batch, outputs)."""
        return torch.baddbmm(self.bias.unsqueeze(1), inputs, self.weight.transpose(1, 2))

    def of_one(self, inputs: Tensor) -> Tensor:
        """Map one batch (batch, inputs) by all groups to (batch, groups, outputs)."""
        flat = nn.functional.linear(inputs, self.weight.flatten(0, 1), self.bias.flatten())
        return flat.view(-1, self.groups, self.outputs)

    def chosen(self, inputs: Tensor, index: Tensor) -> Tensor:
        """Map each sample (batch, inputs) by the group that `index` (batch,) names.

        At most twice the arithmetic of one group on the batch, however many groups there are and however
        unequal their shares; but where the groups have few outputs together all are computed and one is
        picked, which is faster. Groups that take turns, as in minibatches of equal shares, need no
        sorting.
        """
        outputs = self.groups * self.outputs
        period = period_of(index) if outputs > _FEW else None
        if period:
            return self.in_turns(inputs, index, period)
        if outputs <= _NARROW:
            return self.picked(inputs, index)
        return self.in_blocks(inputs, index)

    def in_turns(self, inputs: Tensor, index: Tensor, period: int) -> Tensor:
        """Do what `chosen` does where sample i + `period` has the group of sample i."""
        turns = -(-len(index) // period)
        full = nn.functional.pad(inputs, (0, 0, 0, turns * period - len(index)))
        owners = index[:period]
        weight = nn.functional.embedding(owners, self.weight.flatten(1))
        weight = weight.view(period, self.outputs, self.inputs).transpose(1, 2)
        bias = nn.functional.embedding(owners, self.bias).unsqueeze(1)
        made = torch.baddbmm(bias, full.view(turns, period, -1).transpose(0, 1), weight)
        return made.transpose(0, 1).reshape(turns * period, -1)[: len(index)]

    def picked(self, inputs: Tensor, index: Tensor) -> Tensor:
        """Do what `chosen` does by computing all groups for every sample."""
        place = index.view(-1, 1, 1).expand(-1, 1, self.outputs)
        return self.of_one(inputs).gather(1, place).squeeze(1)

    def in_blocks(self, inputs: Tensor, index: Tensor) -> Tensor:
        """Do what `chosen` does by one batched product of blocks (see `blocks`)."""
        slots, owners, length = blocks(index, self.groups)
        # embedding, because its gradient on a GPU does not depend on the order of atomic additions.
        weight = nn.functional.embedding(owners, self.weight.flatten(1))
        bias = nn.functional.embedding(owners, self.bias)
        room = inputs.new_zeros(len(owners) * length, self.inputs)
        filled = room.index_copy(0, slots, inputs).view(len(owners), length, self.inputs)
        weight = weight.view(-1, self.outputs, self.inputs).transpose(1, 2)
        made = torch.baddbmm(bias.unsqueeze(1), filled, weight)
        return made.flatten(0, 1).index_select(0, slots)


def period_of(index: Tensor) -> int | None:
    """Return p such that sample i + p has the group of sample i and that there are 4 turns or more.

    None if there is no such p, and on accelerators, which would have to be waited for.

    Args:
        index: (batch,) int64, the group of each sample.
    """
    if index.device.type != "cpu" or len(index) < _TURNS:
        return None
    numbers = index.numpy()
    again = (numbers[1 : len(numbers) // _TURNS + 1] == numbers[0]).nonzero()[0]
    if not len(again):
        return None
    period = int(again[0]) + 1
    return period if (numbers[period:] == numbers[:-period]).all() else None


def blocks(index: Tensor, groups: int) -> tuple[Tensor, Tensor, int]:
    """Sort samples into blocks of equal length, each of one group only.

    Args:
        index: (batch,) int64, the group of each sample.
        groups: how many there are.

    Returns:
        The slot of each sample (batch,), slots numbered through all blocks; the group of each block
        (blocks,); and the length of a block. There are fewer than 2 * batch slots, a number
        that depends on nothing else, so that the device need not be waited for.
    """
    batch = len(index)
    length = max(1, -(-batch // groups))
    counts = index.new_zeros(groups).scatter_add(0, index, torch.ones_like(index))
    taken = (counts + length - 1) // length
    last = taken.cumsum(0)
    order = index.argsort(stable=True)
    grouped = index[order]
    place = torch.arange(batch, device=index.device) - (counts.cumsum(0) - counts)[grouped]
    slots = torch.empty_like(index).scatter(0, order, (last - taken)[grouped] * length + place)
    # The most that groups can take: all full but for one sample in each of their last blocks.
    number = min(batch, (batch + groups * (length - 1)) // length)
    # A block's owner is the number of groups that end at it or before.
    ends = index.new_zeros(number + 1).scatter_add(0, last, torch.ones_like(last))
    owners = ends.cumsum(0)[:number]
    return slots, owners.clamp(max=groups - 1), length


class Stack(nn.Module):
    """`groups` multi-layer perceptrons side by side, each with parameters of its own.

    Args:
        groups: how many.
        sizes: units per layer, input and output included.
        activation: of every layer, the last too if `activate_last`.
        activate_last: whether the last layer has an activation.
        initializer: how parameters are drawn.
        generator: what they are drawn from.
    """

    def __init__(
        self,
        groups: int,
        sizes: tuple[int, ...],
        *,
        activation: Activation,
        activate_last: bool = False,
        initializer: Initializer,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[activation]
        self._activate_last = activate_last
        self.layers = nn.ModuleList(
            Affine((groups, outputs, inputs), initializer=initializer, generator=generator)
            for inputs, outputs in itertools.pairwise(sizes)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map one batch (batch, inputs) by every group to (groups, batch, outputs)."""
        hidden = inputs
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Affine)
            hidden = layer.of_one(hidden).transpose(0, 1) if i == 0 else layer(hidden)
            if i < len(self.layers) - 1 or self._activate_last:
                hidden = self._activation(hidden)
        return hidden
