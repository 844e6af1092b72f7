"""Networks and policies as pure functions of a parameter dictionary.

Parameters come in two forms, told apart by rank: *shared* (one copy for all tasks) and *per task* (the same
tensors with a leading task axis). Every function takes both, so that adaptation, rollouts and evaluation
run all tasks in one batched call.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["MLP", "Activation", "Gaussian", "GaussianPolicy", "Initializer", "Params"]

Params = dict[str, Tensor]
Activation = Literal["relu", "tanh"]
Initializer = Literal["fan-in", "xavier"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}
_MIN_LOG_STD = math.log(1e-6)
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


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
    """

    sizes: tuple[int, ...]
    activation: Activation = "relu"
    initializer: Initializer = "fan-in"

    def initial(self, generator: torch.Generator) -> Params:
        """Draw shared float32 parameters from `generator`, on its device."""
        params: Params = {}
        for i, (inputs, outputs) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            if self.initializer == "xavier":
                bound = math.sqrt(6 / (inputs + outputs))
                bias = torch.zeros(outputs, device=generator.device)
            else:
                bound = 1 / math.sqrt(inputs)
                bias = _uniform((outputs,), bound, generator)
            params[f"layers.{i}.weight"] = _uniform((outputs, inputs), bound, generator)
            params[f"layers.{i}.bias"] = bias
        return params

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        """Map `inputs` (tasks, batch, features), or (batch, features) if shared, to outputs of the same rank."""
        activation = _ACTIVATIONS[self.activation]
        last = len(self.sizes) - 2
        hidden = inputs
        for i in range(last + 1):
            weight, bias = params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]
            if weight.ndim == 2:
                hidden = torch.nn.functional.linear(hidden, weight, bias)
            else:
                hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.transpose(1, 2))
            if i < last:
                hidden = activation(hidden)
        return hidden


class Gaussian(NamedTuple):
    """A diagonal Gaussian over actions: `mean` (..., actions), `log_std` broadcastable to it."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal `noise`, shaped like the mean, into actions."""
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log density of `actions`, shaped like the mean without its last axis."""
        scaled = (actions - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * scaled.square() - self.log_std - _LOG_SQRT_2PI).sum(-1)

    def kl(self, other: "Gaussian") -> Tensor:
        """Return KL(self || other), shaped like the mean without its last axis."""
        ratio = torch.exp(2 * (self.log_std - other.log_std))
        shift = ((self.mean - other.mean) * torch.exp(-other.log_std)).square()
        return (other.log_std - self.log_std + 0.5 * (ratio + shift - 1)).sum(-1)

    def fisher(self, tangent: "Gaussian", weights: Tensor) -> "Gaussian":
        """Multiply `tangent` by the Fisher information summed over samples with `weights` (..., samples).

        The information of one sample is 1/std**2 for its mean and 2 for log_std, which all samples share.
        """
        mean = tangent.mean * torch.exp(-2 * self.log_std) * weights.unsqueeze(-1)
        return Gaussian(mean, 2 * tangent.log_std * weights.sum(-1, keepdim=True).unsqueeze(-1))


@dataclass(frozen=True)
class GaussianPolicy:
    """A Gaussian policy: an MLP gives the mean, `log_std` is a free parameter of its own.

    Args:
        observation_size: features of an observation.
        action_size: dimensions of an action.
        hidden: units of the hidden layers.
        activation: of the hidden layers.
        initial_std: standard deviation of every action dimension at the start.
    """

    observation_size: int
    action_size: int
    hidden: Sequence[int] = (100, 100)
    activation: Activation = "relu"
    initializer: Initializer = "xavier"
    initial_std: float = 1.0

    @property
    def network(self) -> MLP:
        """The network of the mean."""
        sizes = (self.observation_size, *self.hidden, self.action_size)
        return MLP(sizes, self.activation, self.initializer)

    def initial(self, generator: torch.Generator) -> Params:
        """Draw shared parameters: the network's, and `log_std` (actions,)."""
        log_std = torch.full((self.action_size,), math.log(self.initial_std))
        return {**self.network.initial(generator), "log_std": log_std.to(generator.device)}

    def __call__(self, params: Params, observations: Tensor) -> Gaussian:
        """Return the action distribution at `observations` (tasks, batch, features)."""
        log_std = params["log_std"].clamp(min=_MIN_LOG_STD)
        return Gaussian(self.network(params, observations), log_std.unsqueeze(-2))
