"""Stochastic policies as pure functions of a parameter dictionary, and the distributions they give.

A policy draws the noise and its distribution turns noise into actions, so that whoever runs episodes need
not know whether actions are real numbers or choices.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mtrl.nets import MLP, Activation, Initializer, Params

__all__ = [
    "Categorical",
    "CategoricalPolicy",
    "Distribution",
    "Gaussian",
    "GaussianPolicy",
    "Policy",
]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Distribution(Protocol):
    """Distributions of actions, one for each of the axes (tasks, samples): a named tuple of tensors.

    Where two meet, they are of the same kind.
    """

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over the tensors that are differentiated by."""

    def like(self, parts: Iterable[Tensor]) -> "Distribution":
        """Return the same kind of distribution made of other tensors."""

    def sample(self, noise: Tensor) -> Tensor:
        """Turn the policy's `noise` into actions."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log probability or density of `actions`."""

    def entropy(self) -> Tensor:
        """Return the entropy, in nats; a density's is the differential one."""

    def kl(self, other: Any) -> Tensor:
        """Return KL(self || other)."""

    def fisher(self, tangent: Any, weights: Tensor) -> "Distribution":
        """Multiply `tangent` by the Fisher information summed over samples with `weights` (..., samples)."""


class Policy(Protocol):
    """A stochastic policy as a function of its parameters."""

    def initial(self, generator: torch.Generator) -> Params:
        """Draw shared parameters."""

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw the noise of `shape` many actions, (*shape, ...), on the generator's device."""

    def __call__(self, params: Params, observations: Tensor) -> Distribution:
        """Return the distribution of actions at observations (tasks, batch, features)."""


class Gaussian(NamedTuple):
    """A diagonal Gaussian over actions: `mean` (..., actions), `log_std` broadcastable to it."""

    mean: Tensor
    log_std: Tensor

    def like(self, parts: Iterable[Tensor]) -> "Gaussian":
        """Return the Gaussian of another mean and log_std."""
        return Gaussian(*parts)

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal `noise`, shaped like the mean, into actions."""
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log density of `actions`, shaped like the mean without its last axis."""
        scaled = (actions - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * scaled.square() - self.log_std - _LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Return the differential entropy, shaped like the mean without its last axis."""
        return (self.log_std + _LOG_SQRT_2PI + 0.5).expand_as(self.mean).sum(-1)

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


class Categorical(NamedTuple):
    """A distribution over choices 0, 1, ...: unnormalised log probabilities `logits` (..., choices)."""

    logits: Tensor

    def like(self, parts: Iterable[Tensor]) -> "Categorical":
        """Return the distribution of other logits."""
        return Categorical(*parts)

    def sample(self, noise: Tensor) -> Tensor:
        """Turn uniform `noise` in [0, 1), shaped like the logits without their last axis, into choices."""
        cumulative = self.logits.softmax(-1).cumsum(-1)
        # Rounding may leave the last sum below 1, and the noise above it.
        last = self.logits.shape[-1] - 1
        return (cumulative <= noise.unsqueeze(-1)).sum(-1).clamp(max=last)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log probability of int64 `actions`, shaped like the logits without their last axis."""
        log_probs = self.logits.log_softmax(-1)
        return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the entropy, shaped like the logits without their last axis."""
        log_probs = self.logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def kl(self, other: "Categorical") -> Tensor:
        """Return KL(self || other), shaped like the logits without their last axis."""
        log_probs = self.logits.log_softmax(-1)
        return (log_probs.exp() * (log_probs - other.logits.log_softmax(-1))).sum(-1)

    def fisher(self, tangent: "Categorical", weights: Tensor) -> "Categorical":
        """Multiply `tangent` by the Fisher information summed over samples with `weights` (..., samples).

        The information of one sample is diag(p) - p p^T for its logits.
        """
        probs = self.logits.softmax(-1)
        moved = probs * tangent.logits
        moved = moved - probs * moved.sum(-1, keepdim=True)
        return Categorical(moved * weights.unsqueeze(-1))


@dataclass(frozen=True)
class GaussianPolicy:
    """A Gaussian policy: an MLP gives the mean, `log_std` is a free parameter of its own.

    Args:
        observation_size: features of an observation.
        action_size: dimensions of an action.
        hidden: units of the hidden layers.
        activation: of the hidden layers.
        initializer: of the network's parameters.
        output_scale: factor on the initial parameters of the mean's last layer.
        initial_std: standard deviation of every action dimension at the start.
        min_std: the least standard deviation that learning and adaptation can reach.
        context: inputs of the network that come from the parameter `context`; see `MLP`.
    """

    observation_size: int
    action_size: int
    hidden: Sequence[int] = (100, 100)
    activation: Activation = "relu"
    initializer: Initializer = "xavier"
    output_scale: float = 1.0
    initial_std: float = 1.0
    min_std: float = 1e-6
    context: int = 0

    @property
    def network(self) -> MLP:
        """The network of the mean."""
        sizes = (self.observation_size, *self.hidden, self.action_size)
        return MLP(
            sizes, self.activation, self.initializer, self.output_scale, context=self.context
        )

    def initial(self, generator: torch.Generator) -> Params:
        """Draw shared parameters: the network's, and `log_std` (actions,)."""
        log_std = torch.full((self.action_size,), math.log(self.initial_std))
        return {**self.network.initial(generator), "log_std": log_std.to(generator.device)}

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw standard normal numbers (*shape, actions)."""
        size = (*shape, self.action_size)
        return torch.randn(size, generator=generator, device=generator.device)

    def __call__(self, params: Params, observations: Tensor) -> Gaussian:
        """Return the action distribution at `observations` (tasks, batch, features)."""
        log_std = params["log_std"].clamp(min=math.log(self.min_std))
        return Gaussian(self.network(params, observations), log_std.unsqueeze(-2))


@dataclass(frozen=True)
class CategoricalPolicy:
    """A policy over a finite number of choices, whose logits an MLP gives.

    Args:
        observation_size: features of an observation.
        choices: how many actions there are.
        hidden: units of the hidden layers.
        activation: of the hidden layers.
        initializer: of the network's parameters.
        output_scale: factor on the initial parameters of the last layer.
        context: inputs of the network that come from the parameter `context`; see `MLP`.
    """

    observation_size: int
    choices: int
    hidden: Sequence[int] = (100, 100)
    activation: Activation = "relu"
    initializer: Initializer = "xavier"
    output_scale: float = 1.0
    context: int = 0

    @property
    def network(self) -> MLP:
        """The network of the logits."""
        sizes = (self.observation_size, *self.hidden, self.choices)
        return MLP(
            sizes, self.activation, self.initializer, self.output_scale, context=self.context
        )

    def initial(self, generator: torch.Generator) -> Params:
        """Draw shared parameters."""
        return self.network.initial(generator)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw numbers uniform in [0, 1), shaped `shape`."""
        return torch.rand(shape, generator=generator, device=generator.device)

    def __call__(self, params: Params, observations: Tensor) -> Categorical:
        """Return the action distribution at `observations` (tasks, batch, features)."""
        return Categorical(self.network(params, observations))
