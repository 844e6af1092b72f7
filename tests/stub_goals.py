"""Goals that are reached or missed by design: an environment whose success rates are known."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mtrl.envs.task import Task

__all__ = ["Goals", "first_to_finish"]


@dataclass(frozen=True)
class Goals:
    """A family of goals: a reached one pays 1 and ends the episode at a step of its own, a missed one runs on.

    Tasks have `chance`, of an episode's success, and `steps`, at which success comes. As much of a `TaskFamily` as
    evaluation asks for.
    """

    horizon: int = 500
    name: str = "goals"
    splits_overlap: bool = True

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        return gym.spaces.Box(-1, 1, (1,), np.float32)

    @cached_property
    def action_space(self) -> gym.spaces.Box:
        return gym.spaces.Box(-1, 1, (1,), np.float32)

    def task(self, chance: float, steps: int) -> Task:
        params = {"chance": chance, "steps": float(steps)}
        return Task(family=self.name, params=params, split="test")

    def batch(self, tasks: list[Task], *, repeats: int = 1, device: Any = "cpu") -> "_Slots":
        columns = [[float(t.params[name]) for t in tasks] for name in ("chance", "steps")]  # type: ignore[arg-type]
        chance, steps = (torch.tensor(each).repeat_interleave(repeats) for each in columns)
        return _Slots(chance, steps, self.horizon)


class _Slots:
    def __init__(self, chance: Tensor, steps: Tensor, horizon: int) -> None:
        self.horizon, self._chance, self._steps = horizon, chance, steps

    def reset(self, seeds: Tensor) -> Tensor:
        self._now = 0
        drawn = np.array([np.random.default_rng(int(seed)).random() for seed in seeds])
        self._succeeds = torch.from_numpy(drawn) < self._chance
        return torch.zeros(len(seeds), 1)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self._now += 1
        reached = self._succeeds & (self._now == self._steps)
        observations = torch.zeros(len(reached), 1)
        late = torch.full_like(reached, self._now >= self.horizon)
        return observations, reached.float(), reached, late & ~reached


def first_to_finish(success_steps: list[int | None], horizon: int, count: int) -> float:
    """Return the success rate that counting the first `count` episodes to finish reports.

    Each goal has a slot that starts its next episode at once, as in Meta-World 3.1.1's evaluation of one task name.

    Args:
        success_steps: for each goal, after how many steps it is reached; None for never.
        horizon: steps of a missed episode.
        count: episodes that are counted.
    """
    finished: list[bool] = []
    now = 0
    while len(finished) < count:
        now += 1
        for steps in success_steps:
            length = horizon if steps is None else steps
            if now % length == 0:
                finished.append(steps is not None)
    return float(np.mean(finished[:count]))
