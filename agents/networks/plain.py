"""Trunks whose weights all tasks share: a multi-layer perceptron and a convolutional network."""

import itertools
import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mtrl.agents.networks.conditioning import Conditioning, Film, modulated
from mtrl.agents.networks.layers import ACTIVATIONS, Affine
from mtrl.agents.networks.tasks import TaskInput, TaskSpec
from mtrl.agents.networks.trunk import Trunk, TrunkFields, check_units
from mtrl.errors import UsageError

__all__ = ["CNN", "MLP"]


class _Told(nn.Module):
    """Hidden layers of `units` that are told of the task, at layer `entry` or, by FiLM, at all."""

    def __init__(
        self,
        conditioning: Conditioning | None,
        units: tuple[int, ...],
        *,
        entry: int,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._film = isinstance(conditioning, Film)
        self._entry = entry
        self._sizes = [2 * size for size in units]
        self.code: nn.Module | None = None
        if isinstance(conditioning, Film):
            self.code = conditioning.code.build(sum(self._sizes), spec, 0.0, generator)
        elif conditioning is not None:
            # What a standard normal input adds under the fan-in initialiser.
            std = math.sqrt(1 / 3)
            self.code = conditioning.build(units[entry], spec, std, generator)

    def forward(self, task: TaskInput) -> list[Tensor]:
        if self.code is None:
            return []
        code = self.code(task)
        return list(code.split(self._sizes, dim=-1)) if self._film else [code]

    def apply_to(self, hidden: Tensor, layer: int, told: list[Tensor]) -> Tensor:
        if self._film:
            return modulated(hidden, told[layer])
        return hidden + told[0] if told and layer == self._entry else hidden


class _MLPTrunk(Trunk):
    def __init__(
        self,
        config: "MLP",
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> None:
        super().__init__(shape, config.hidden[-1])
        sizes = (math.prod(shape), *config.hidden)
        self._activation = ACTIVATIONS[config.activation]
        self.layers = nn.ModuleList(
            Affine((1, outputs, inputs), initializer=config.initializer, generator=generator)
            for inputs, outputs in itertools.pairwise(sizes)
        )
        self.told = _Told(conditioning, config.hidden, entry=0, spec=spec, generator=generator)

    def encode(self, observations: Tensor, task: TaskInput) -> Tensor:
        told = self.told(task)
        hidden = observations.flatten(1)
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Affine)
            affine = nn.functional.linear(hidden, layer.weight[0], layer.bias[0])
            hidden = self._activation(self.told.apply_to(affine, i, told))
        return hidden


@dataclass(frozen=True, kw_only=True)
class MLP(TrunkFields):
    """A multi-layer perceptron on the flattened observation, the task's code appended to it."""

    hidden: tuple[int, ...] = (256, 256)
    """Units of the layers; the last are the features."""

    def __post_init__(self) -> None:
        check_units(self, "hidden")

    def build(
        self,
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> Trunk:
        """Return the trunk for observations of `shape`."""
        return _MLPTrunk(self, shape, conditioning, spec, generator)


class _CNNTrunk(Trunk):
    def __init__(
        self,
        config: "CNN",
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> None:
        super().__init__(shape, config.units)
        self._activation = ACTIVATIONS[config.activation]
        self._strides = config.strides
        affine = partial(Affine, initializer=config.initializer, generator=generator)
        self.kernels = nn.ModuleList(
            affine((1, outputs, inputs * kernel**2))
            for inputs, outputs, kernel in zip(
                (shape[0], *config.channels), config.channels, config.kernels, strict=False
            )
        )
        self._kernel_sizes = config.kernels
        flat = math.prod(config.sizes(shape)[-1])
        self.last = affine((1, config.units, flat))
        units = (*config.channels, config.units)
        entry = len(config.channels)
        self.told = _Told(conditioning, units, entry=entry, spec=spec, generator=generator)

    def encode(self, observations: Tensor, task: TaskInput) -> Tensor:
        told = self.told(task)
        hidden = observations
        if not observations.is_floating_point():
            hidden = observations.to(self.last.weight.dtype) / 255
        for i, (kernel, size, stride) in enumerate(
            zip(self.kernels, self._kernel_sizes, self._strides, strict=True)
        ):
            assert isinstance(kernel, Affine)
            weight = kernel.weight[0].view(kernel.outputs, -1, size, size)
            affine = nn.functional.conv2d(hidden, weight, kernel.bias[0], stride=stride)
            hidden = self._activation(self.told.apply_to(affine, i, told))
        affine = nn.functional.linear(hidden.flatten(1), self.last.weight[0], self.last.bias[0])
        return self._activation(self.told.apply_to(affine, len(self.kernels), told))


@dataclass(frozen=True, kw_only=True)
class CNN(TrunkFields):
    """Convolutions and one layer on images (channels, height, width), as Mnih et al. 2015 have them.

    Pixels that are integers are divided by 255; floating ones are taken as they are. The task's code
    is appended to the flattened maps; FiLM scales and shifts whole maps.
    """

    channels: tuple[int, ...] = (32, 64, 64)
    """Maps of each convolution."""
    kernels: tuple[int, ...] = (8, 4, 3)
    """Height and width of each convolution's kernel, in pixels."""
    strides: tuple[int, ...] = (4, 2, 1)
    """Pixels between the kernel's places, for each convolution."""
    units: int = 512
    """Units of the last layer: the features."""

    def __post_init__(self) -> None:
        check_units(self, "channels", "kernels", "strides")
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            raise UsageError(
                f"channels {self.channels}, kernels {self.kernels} and strides {self.strides} "
                "differ in length; each convolution has one of each"
            )
        if self.units < 1:
            raise UsageError(f"units must be at least 1, got {self.units}")

    def sizes(self, shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Return (maps, height, width) after each convolution of an image.

        Raises:
            UsageError: `shape` is not an image's, or the image is too small.
        """
        if len(shape) != 3:
            raise UsageError(
                f"the observation's shape is {shape}; the trunk cnn needs images of shape "
                "(channels, height, width), use mlp for vectors"
            )
        found = []
        _, height, width = shape
        for maps, kernel, stride in zip(self.channels, self.kernels, self.strides, strict=True):
            if min(height, width) < kernel:
                raise UsageError(
                    f"kernels are {self.kernels} with strides {self.strides}, too large for an "
                    f"image of shape {shape}: one of {kernel} meets {height} x {width} pixels"
                )
            height, width = ((size - kernel) // stride + 1 for size in (height, width))
            found.append((maps, height, width))
        return found

    def build(
        self,
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> Trunk:
        """Return the trunk for images of `shape` (channels, height, width)."""
        self.sizes(shape)
        return _CNNTrunk(self, shape, conditioning, spec, generator)
