"""Networks as pure functions of a parameter dictionary.

Parameters come in two forms, told apart by rank: *shared* (one copy for all tasks) and *per task* (the same
tensors with a leading task axis). Every function takes both, so that adaptation, rollouts and evaluation
run all tasks in one batched call.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mtrl.activations import tanh
from mtrl.errors import UsageError

__all__ = [
    "CONTEXT",
    "MLP",
    "Activation",
    "ConvNet",
    "Initializer",
    "Network",
    "Params",
    "output_layer",
]

Params = dict[str, Tensor]
Activation = Literal["relu", "tanh"]
Initializer = Literal["fan-in", "xavier"]

CONTEXT = "context"
"""Name of the context parameters, which a network with context inputs reads beside its own."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": tanh}

# From so many images on, the layout with channels last is faster on a CPU: 1.6 times at 75 images of 84x84. With
# fewer, second derivatives of batch normalisation make it slower, and those are asked for on few images.
MANY_IMAGES = 16


class Network(Protocol):
    """Maps parameters, shared or per task, and inputs (tasks, batch, ...) to outputs (tasks, batch, size)."""

    @property
    def context(self) -> int:
        """Inputs that come from the parameter `context`."""

    def initial(self, generator: torch.Generator) -> Params:
        """Draw shared float32 parameters from `generator`, on its device."""

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        """Return the outputs."""


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    unit = torch.rand(shape, generator=generator, device=generator.device)
    return (2 * unit - 1) * bound


@dataclass(frozen=True)
class MLP:
    """A multi-layer perceptron whose parameters are passed in.

    Parameters are named `layers.<i>.weight` (outputs, inputs) and `layers.<i>.bias` (outputs,).

    Args:
        sizes: units per layer, input and output included.
        activation: applied after every layer but the last.
        initializer: `fan-in` draws weights and biases from U(-b, b) with b = 1/sqrt(inputs), torch's own
            default; `xavier` draws weights from Glorot's uniform and sets biases to zero.
        output_scale: factor on the drawn parameters of the last layer.
        context: further inputs of the first layer that come from the parameter `context`, (context,) or
            (tasks, context), which is the task's and not drawn here (CAVIA: Zintgraf et al. 2019).
    """

    sizes: tuple[int, ...]
    activation: Activation = "relu"
    initializer: Initializer = "fan-in"
    output_scale: float = 1.0
    context: int = 0

    def initial(self, generator: torch.Generator) -> Params:
        """Draw shared float32 parameters from `generator`, on its device."""
        params: Params = {}
        for i, (inputs, outputs) in enumerate(zip(self._inputs, self.sizes[1:], strict=True)):
            if self.initializer == "xavier":
                bound = math.sqrt(6 / (inputs + outputs))
                bias = torch.zeros(outputs, device=generator.device)
            else:
                bound = 1 / math.sqrt(inputs)
                bias = _uniform((outputs,), bound, generator)
            scale = self.output_scale if i == len(self.sizes) - 2 else 1.0
            params[f"layers.{i}.weight"] = scale * _uniform((outputs, inputs), bound, generator)
            params[f"layers.{i}.bias"] = scale * bias
        return params

    @property
    def _inputs(self) -> tuple[int, ...]:
        """Inputs of each layer."""
        return (self.sizes[0] + self.context, *self.sizes[1:-1])

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        """Map `inputs` (tasks, batch, features), or (batch, features) if shared, to outputs of the same rank."""
        activation = _ACTIVATIONS[self.activation]
        last = len(self.sizes) - 2
        hidden = _beside(inputs, params[CONTEXT]) if self.context else inputs
        for i in range(last + 1):
            weight, bias = params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]
            if weight.ndim == 2:
                hidden = functional.linear(hidden, weight, bias)
            else:
                hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.transpose(1, 2))
            if i < last:
                hidden = activation(hidden)
        return hidden


def _beside(inputs: Tensor, context: Tensor) -> Tensor:
    """Append the context (..., size) to every row of `inputs` (..., batch, features)."""
    rows = context.unsqueeze(-2).expand(*inputs.shape[:-1], -1)
    return torch.cat([inputs, rows], -1)


@dataclass(frozen=True)
class ConvNet:
    """Convolutions for few-shot images (Vinyals et al. 2016, section 4.1): blocks of a 3x3 convolution, batch
    normalisation, ReLU and 2x2 max pooling, and a linear layer on what they leave.

    Images are normalised by the statistics of the batch that they come in, in training and at test: what is
    predicted for one depends on the others, as in MAML's code. Each task is a batch of its own.

    Parameters are named as the MLP's; a convolution's come with `layers.<i>.scale` and `layers.<i>.shift` of the
    normalisation. Weights and biases are drawn as by `fan-in` there.

    Args:
        shape: channels, height and width of an image.
        outputs: outputs.
        filters: maps of each convolution.
        blocks: how many; each halves height and width.

    Raises:
        UsageError: an image is too small for the blocks.
    """

    shape: tuple[int, int, int] = (3, 84, 84)
    outputs: int = 5
    filters: int = 32
    blocks: int = 4

    def __post_init__(self) -> None:
        if min(self.shape[1:]) >> self.blocks == 0:
            raise UsageError(
                f"shape is {self.shape}, and {self.blocks} blocks need images of at least "
                f"{2**self.blocks} by {2**self.blocks} pixels"
            )

    @property
    def context(self) -> int:
        """None of the inputs is a parameter."""
        return 0

    def initial(self, generator: torch.Generator) -> Params:
        """Draw shared float32 parameters from `generator`, on its device."""
        channels, height, width = self.shape
        params: Params = {}
        for i in range(self.blocks):
            inputs = channels if i == 0 else self.filters
            params |= self._affine(i, (self.filters, inputs, 3, 3), generator)
            params[f"layers.{i}.scale"] = torch.ones(self.filters, device=generator.device)
            params[f"layers.{i}.shift"] = torch.zeros(self.filters, device=generator.device)
        features = self.filters * (height >> self.blocks) * (width >> self.blocks)
        return params | self._affine(self.blocks, (self.outputs, features), generator)

    @staticmethod
    def _affine(layer: int, shape: tuple[int, ...], generator: torch.Generator) -> Params:
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        return {
            f"layers.{layer}.weight": _uniform(shape, bound, generator),
            f"layers.{layer}.bias": _uniform(shape[:1], bound, generator),
        }

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        """Map images (tasks, batch, channels, height, width), or (batch, ...) if shared, to outputs (..., outputs)."""
        if inputs.ndim == 4:
            return self._outputs(params, _laid_out(inputs))
        if params["layers.0.weight"].ndim == 4:
            params = {
                name: value.expand(len(inputs), *value.shape) for name, value in params.items()
            }
        if inputs.device.type != "cpu":
            batched: Tensor = torch.func.vmap(self._outputs)(params, inputs)
            return batched
        # Convolutions of all tasks at once, which are grouped ones, take a CPU more than twice as long.
        each = zip(*(value.unbind() for value in params.values()), strict=True)
        own = (dict(zip(params, values, strict=True)) for values in each)
        images = map(_laid_out, inputs.unbind())
        return torch.stack([self._outputs(*one) for one in zip(own, images, strict=True)])

    def _outputs(self, params: Params, images: Tensor) -> Tensor:
        """Return the outputs (batch, outputs) for one task's images (batch, channels, height, width)."""
        hidden = images
        for i in range(self.blocks):
            weight, bias = params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]
            scale, shift = params[f"layers.{i}.scale"], params[f"layers.{i}.shift"]
            hidden = functional.conv2d(hidden, weight, bias, padding=1)
            hidden = functional.batch_norm(hidden, None, None, scale, shift, training=True)
            # The other way round gives the same from four times as many values.
            hidden = torch.relu(functional.max_pool2d(hidden, 2))
        last = f"layers.{self.blocks}"
        return functional.linear(
            hidden.flatten(1), params[f"{last}.weight"], params[f"{last}.bias"]
        )


def _laid_out(images: Tensor) -> Tensor:
    """Return the images (batch, channels, height, width) in the memory layout that is faster."""
    many = images.device.type == "cpu" and len(images) >= MANY_IMAGES
    return images.contiguous(memory_format=torch.channels_last) if many else images


def output_layer(params: Params) -> list[str]:
    """Return the names of the last layer's parameters.

    Raises:
        UsageError: no parameter is called `layers.<i>.<name>`.
    """
    numbers = {name: int(name.split(".")[1]) for name in params if name.startswith("layers.")}
    if not numbers:
        raise UsageError(
            f"there is no last layer: no parameter of {', '.join(params)} is a layer's"
        )
    last = max(numbers.values())
    return [name for name, number in numbers.items() if number == last]
