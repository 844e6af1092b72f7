"""The recurrent policy of RL² as pure functions of a parameter dictionary.

Its input at every step is the observation and what the step before was: action, reward, and whether it
ended an episode (Duan et al. 2016, section 2.2). All that it learns about a task is in its state.
"""

import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from mtrl.errors import UsageError
from mtrl.meta.recurrent.gru import gru_sequence, gru_step
from mtrl.nets import Params
from mtrl.policies import Categorical, Distribution, Gaussian

__all__ = ["RecurrentPolicy", "recurrent_policy"]


@dataclass(frozen=True)
class RecurrentPolicy:
    """A GRU with two linear heads: of the distribution of actions, and of the value.

    Args:
        observation_size: features of an observation.
        action_size: how many choices there are, or dimensions of an action.
        choices: whether an action is a choice.
        units: of the state.
        initial_std: standard deviation of real-valued actions at the start; learned from then on.
        min_std: least standard deviation of real-valued actions.
    """

    observation_size: int
    action_size: int
    choices: bool
    units: int = 64
    initial_std: float = 1.0
    min_std: float = 1e-6

    @property
    def input_size(self) -> int:
        """Features of an input: observation, action, reward and end of the step before."""
        return self.observation_size + self.action_size + 2

    def initial(self, generator: torch.Generator) -> Params:
        """Draw parameters; the state's weights are orthogonal, the heads small."""
        units, inputs, device = self.units, self.input_size, generator.device
        bound = 1 / math.sqrt(units)
        square = torch.empty(3, units, units, device=device)
        for gate in square:
            torch.nn.init.orthogonal_(gate, generator=generator)

        def uniform(*shape: int, limit: float = bound) -> Tensor:
            return (2 * torch.rand(shape, generator=generator, device=device) - 1) * limit

        params = {
            "gru.input.weight": uniform(3 * units, inputs),
            "gru.input.bias": torch.zeros(3 * units, device=device),
            "gru.state.weight": square.flatten(0, 1),
            "gru.state.bias": torch.zeros(units, device=device),
            # A policy that starts without a preference tries everything.
            "policy.weight": uniform(self.action_size, units, limit=0.01 * bound),
            "policy.bias": torch.zeros(self.action_size, device=device),
            "value.weight": uniform(1, units, limit=0.01 * bound),
            "value.bias": torch.zeros(1, device=device),
        }
        if not self.choices:
            log_std = math.log(self.initial_std)
            params["log_std"] = torch.full((self.action_size,), log_std, device=device)
        return params

    def begin(self, batch: int, like: Tensor) -> Tensor:
        """Return the states (batch, units) at the beginning of trials, with the type of `like`."""
        return like.new_zeros(batch, self.units)

    def before_all(self, batch: int, like: Tensor) -> Tensor:
        """Return what stands for the step before the first of a trial: zeros (batch, action_size + 2)."""
        return like.new_zeros(batch, self.action_size + 2)

    def previous(self, actions: Tensor, rewards: Tensor, done: Tensor) -> Tensor:
        """Return what the next input says of this step, (batch, action_size + 2).

        Args:
            actions: (batch, ...), choices or real numbers; the latter are cut off at the bounds -1 and 1.
            rewards: (batch,), which decide the type.
            done: (batch,), whether the step ended an episode.
        """
        row = rewards.new_zeros(len(rewards), self.action_size + 2)
        if self.choices:
            row.scatter_(1, actions.unsqueeze(1), 1.0)
        else:
            row[:, : self.action_size] = actions.clamp(-1.0, 1.0)
        row[:, -2] = rewards
        row[:, -1] = done
        return row

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw the noise of `shape` many actions: uniform for choices, else normal (*shape, actions)."""
        device = generator.device
        if self.choices:
            return torch.rand(shape, generator=generator, device=device)
        return torch.randn((*shape, self.action_size), generator=generator, device=device)

    def advance(
        self, params: Params, inputs: Tensor, state: Tensor, out: Tensor | None = None
    ) -> Tensor:
        """Return the states (batch, units) after `inputs` (batch, input_size), without a graph."""
        weight, bias = params["gru.state.weight"], params["gru.state.bias"]
        return gru_step(self._projected(params, inputs), state, weight, bias, out)

    def states(self, params: Params, inputs: Tensor, state: Tensor) -> Tensor:
        """Return the states after every step of `inputs` (time, batch, input_size), differentiably."""
        weight, bias = params["gru.state.weight"], params["gru.state.bias"]
        return gru_sequence(self._projected(params, inputs), state, weight, bias)

    def distribution(self, params: Params, states: Tensor) -> Distribution:
        """Return the distributions of actions at `states` (..., units)."""
        outputs = torch.nn.functional.linear(states, params["policy.weight"], params["policy.bias"])
        if self.choices:
            return Categorical(outputs)
        return Gaussian(outputs, params["log_std"].clamp(min=math.log(self.min_std)))

    def values(self, params: Params, states: Tensor) -> Tensor:
        """Return the values (...) at `states` (..., units), in the unit that training counts them in."""
        values = torch.nn.functional.linear(states, params["value.weight"], params["value.bias"])
        return values.squeeze(-1)

    def _projected(self, params: Params, inputs: Tensor) -> Tensor:
        return torch.nn.functional.linear(
            inputs, params["gru.input.weight"], params["gru.input.bias"]
        )


def recurrent_policy(
    observations: gym.Space[Any],
    actions: gym.Space[Any],
    units: int,
    initial_std: float,
    min_std: float,
) -> RecurrentPolicy:
    """Return the policy for an environment's spaces.

    Raises:
        UsageError: observations are no vector, or actions neither a vector nor a choice.
    """
    shape = observations.shape if isinstance(observations, gym.spaces.Box) else None
    if shape is None or len(shape) != 1:
        raise UsageError(
            f"observations are {observations}; a recurrent policy takes vectors of real numbers, so "
            "choose another family, or write `flatten = true` in the family's file"
        )
    choices = isinstance(actions, gym.spaces.Discrete)
    if isinstance(actions, gym.spaces.Discrete):
        size = int(actions.n)
    elif isinstance(actions, gym.spaces.Box) and len(actions.shape) == 1:
        (size,) = actions.shape
    else:
        raise UsageError(
            f"actions are {actions}; policies give vectors of real numbers (Box) or one choice "
            "(Discrete), so choose another family"
        )
    return RecurrentPolicy(shape[0], size, choices, units, initial_std, min_std)
