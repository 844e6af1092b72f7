"""Actions as policies give them, turned into those of an environment.

A policy's real numbers are in units of the action space: -1 and 1 stand for its bounds, what lies
outside is clipped, and a dimension without bounds is left as it is (rllab's `normalize`, under
which MAML's policies act). Its choices are counted from 0.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mtrl.errors import UsageError
from mtrl.rollouts import EpisodeBatch

__all__ = ["ScaledActions", "to_space"]


def to_space(space: gym.Space[Any], device: torch.device | str) -> Callable[[Tensor], Tensor]:
    """Return the function from a policy's actions to those of `space`, slots first.

    Raises:
        UsageError: a space that is neither a vector of real numbers nor a finite number of choices.
    """
    if isinstance(space, gym.spaces.Discrete):
        first = int(space.start)
        return lambda choices: choices + first if first else choices
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise UsageError(
            f"actions are {space}; policies give vectors of real numbers (Box) or one choice "
            "(Discrete), so choose another family"
        )
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
    bounds = (space.low, space.high, (low + high) / 2, (high - low) / 2)
    lowest, highest, middle, half = (
        torch.as_tensor(bound, dtype=torch.float32, device=device) for bound in bounds
    )
    return lambda actions: torch.clamp(middle + half * actions, lowest, highest)


class ScaledActions:
    """A batch of environments that takes actions as policies give them.

    Args:
        env: takes actions of `space`.
        space: of one environment's action.
        device: where the actions are.
    """

    def __init__(
        self, env: EpisodeBatch, space: gym.Space[Any], device: torch.device | str
    ) -> None:
        self._env = env
        self._to_space = to_space(space, device)

    @property
    def horizon(self) -> int:
        """Steps of an episode that nothing ends."""
        return self._env.horizon

    def reset(self, seeds: Tensor) -> Tensor:
        """Start an episode in every slot from int64 `seeds` (slots,); return observations."""
        return self._env.reset(seeds)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Step every slot; return observations, rewards, terminated and truncated."""
        return self._env.step(self._to_space(actions))
