"""Tasks whose numbers are easy to follow, for tests of multi-task environments."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mtrl.envs.batched import BatchedFamily, TensorParams
from mtrl.envs.parameters import ParameterSpace, Range
from mtrl.envs.task import Task

NEVER = 1000.0


@dataclass(frozen=True, kw_only=True)
class Counting(BatchedFamily):
    """Observes the step and a number of the episode; action 1 earns `scale`, action 0 minus half of it.

    Episodes end after `lasts` steps. The observation is NaN from step `breaks` on, the reward
    infinite in step `sours`.
    """

    horizon: int = 6
    name: ClassVar[str] = "counting"
    reset_noise: ClassVar[int] = 1

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        return gym.spaces.Box(-100, 100, (2,), np.float32)

    @cached_property
    def action_space(self) -> gym.spaces.Discrete:
        return gym.spaces.Discrete(2)

    @cached_property
    def parameters(self) -> ParameterSpace:
        ranges = {"scale": Range(-100, 100)}
        ranges |= {name: Range(0, NEVER) for name in ("lasts", "breaks", "sours")}
        return ParameterSpace(self.name, ranges)

    def reset(self, params: TensorParams, noise: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(noise), noise], dim=-1)

    def step(
        self, params: TensorParams, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps = state[:, 0] + 1
        reward = params["scale"] * (1.5 * action - 0.5)
        reward = torch.where(steps == params["sours"], torch.inf, reward)
        return torch.stack([steps, state[:, 1]], -1), reward, steps >= params["lasts"]

    def observe(self, params: TensorParams, state: Tensor) -> Tensor:
        broken = (state[:, 0] >= params["breaks"])[:, None]
        return torch.where(broken, torch.nan, state)


def task(scale: float = 1.0, **params: float) -> Task:
    usual = {"lasts": NEVER, "breaks": NEVER, "sours": NEVER}
    return Task(family="counting", params={"scale": scale, **usual, **params})


class Stubborn(gym.Env[Any, Any]):
    """Plays one task of three steps and takes no other; reports success for action 1.

    Where it is `broken`, its second observation is NaN.
    """

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, played: Task, *, broken: bool = False, tells: bool = True) -> None:
        self._task, self._broken = played, broken
        self._info = {"task_id": played.id} if tells else {}

    def _look(self) -> Any:
        wrong = self._broken and self._steps == 2
        return np.full(2, np.nan if wrong else 0.5, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._look(), dict(self._info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        info = {**self._info, "is_success": bool(action)}
        return self._look(), 0.1, self._steps == 3, False, info
