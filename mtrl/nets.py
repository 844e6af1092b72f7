"""Networks as pure functions of a parameter dictionary.

Parameters come in two forms, told apart by rank: *shared* (one copy for all tasks) and *per task* (the same
tensors with a leading task axis). Every function takes both, so that adaptation, rollouts and evaluation
run all tasks in one batched call.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mtrl.activations import tanh
from mtrl.errors import UsageError

__all__ = ["CONTEXT", "MLP", "Activation", "Initializer", "Params", "output_layer"]

Params = dict[str, Tensor]
Activation = Literal["relu", "tanh"]
Initializer = Literal["fan-in", "xavier"]

CONTEXT = "context"
"""Name of the context parameters, which a network with context inputs reads beside its own."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": tanh}


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
                hidden = torch.nn.functional.linear(hidden, weight, bias)
            else:
                hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.transpose(1, 2))
            if i < last:
                hidden = activation(hidden)
        return hidden


def _beside(inputs: Tensor, context: Tensor) -> Tensor:
    """Append the context (..., size) to every row of `inputs` (..., batch, features)."""
    rows = context.unsqueeze(-2).expand(*inputs.shape[:-1], -1)
    return torch.cat([inputs, rows], -1)


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
