"""A family for tests: a random walk with a random start, discrete actions and early ends."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mtrl.envs.batched import BatchedFamily, TensorParams
from mtrl.envs.noise import gaussians
from mtrl.envs.parameters import ParameterSpace, Range


@dataclass(frozen=True, kw_only=True)
class NoisyWalk(BatchedFamily):
    """The state is (position, momentum); the walk ends beyond `limit`."""

    horizon: int = 12
    name: ClassVar[str] = "noisy-walk"
    reset_noise: ClassVar[int] = 1
    step_noise: ClassVar[int] = 2

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        return gym.spaces.Box(-1e3, 1e3, (3,), np.float32)

    @cached_property
    def action_space(self) -> gym.spaces.Discrete:
        return gym.spaces.Discrete(3, start=-1)

    @cached_property
    def parameters(self) -> ParameterSpace:
        ranges = {"drift": Range(-0.1, 0.1, size=1), "limit": Range(1.0, 2.0)}
        return ParameterSpace(self.name, ranges)

    def reset(self, params: TensorParams, noise: Tensor) -> Tensor:
        return torch.cat([noise - 0.5, torch.zeros_like(noise)], dim=-1)

    def step(
        self, params: TensorParams, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        kick = 0.1 * action[:, None] + 0.2 * gaussians(noise)[:, :1] + params["drift"]
        momentum = 0.5 * state[:, 1:] + kick
        position = state[:, :1] + momentum
        reward = position[:, 0] - 1.0
        return (
            torch.cat([position, momentum], -1),
            reward,
            position[:, 0].abs() > params["limit"],
        )

    def observe(self, params: TensorParams, state: Tensor) -> Tensor:
        return torch.cat([state, state[:, :1] * params["limit"][:, None]], dim=-1)
