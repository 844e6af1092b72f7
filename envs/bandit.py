"""Bernoulli bandits: pull one of k arms, whose chances of paying 1 are the task.

Duan et al. 2016 (RL^2, arXiv:1611.02779, section 3.1): each arm's chance is uniform in [0, 1], and
an episode of `horizon` pulls is one trial with one bandit. There is nothing to observe: the
observation is a constant 0. What a learner may know of the past is the matter of its wrapper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.envs.batched import BatchedFamily
from mtrl.envs.dynamics import TensorParams
from mtrl.envs.family import FamilySpec
from mtrl.envs.parameters import ParameterSpace, Range
from mtrl.envs.task import Task, params_of
from mtrl.errors import UsageError

__all__ = ["Bandit", "bandit"]


@dataclass(frozen=True, kw_only=True)
class Bandit(BatchedFamily):
    """The family. Task parameter: `means`, the arms' chances of paying 1.

    Args:
        arms: how many there are.
        horizon: pulls in an episode.
    """

    arms: int = 5
    horizon: int = 100
    name: ClassVar[str] = "bandit"
    units: ClassVar[Mapping[str, str]] = {"means": "chance of paying 1, by arm"}
    step_noise: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for field, least in (("arms", 2), ("horizon", 1)):
            if getattr(self, field) < least:
                raise UsageError(
                    f"{field} of 'bandit' is {getattr(self, field)}; it must be at least {least}"
                )

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """A constant 0."""
        return gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    @cached_property
    def action_space(self) -> gym.spaces.Discrete:
        """The arm to pull."""
        return gym.spaces.Discrete(self.arms)

    @cached_property
    def parameters(self) -> ParameterSpace:
        """Independent uniform chances."""
        ranges = {"means": Range(0.0, 1.0, size=self.arms)}
        return ParameterSpace(self.name, ranges, strict=True)

    def reset(self, params: TensorParams, noise: Tensor) -> Tensor:
        """Return the only state."""
        return torch.zeros_like(params["means"][:, :1])

    def step(
        self, params: TensorParams, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pay 1 with the chance of the arm that is pulled."""
        mean = params["means"].gather(1, action[:, None].long())[:, 0]
        pays = noise[:, 0] < mean
        return state, pays.to(mean.dtype), torch.zeros_like(pays)

    def observe(self, params: TensorParams, state: Tensor) -> Tensor:
        """Return 0."""
        return state

    def optimal_returns(self, tasks: Sequence[Task]) -> NDArray[np.float64]:
        """Return each task's exact expected return of always pulling the best arm."""
        return np.asarray(self.horizon * params_of(tasks)["means"].max(axis=1))

    def uniform_returns(self, tasks: Sequence[Task]) -> NDArray[np.float64]:
        """Return each task's exact expected return of pulling arms at random."""
        return np.asarray(self.horizon * params_of(tasks)["means"].mean(axis=1))

    def regret(self, tasks: Sequence[Task], actions: NDArray[Any]) -> NDArray[np.float64]:
        """Return each task's exact expected regret of pulling `actions`, shaped (tasks, ..., pulls).

        The regret of a pull is the best chance minus the chance of the arm pulled, whatever it
        happened to pay; the last axis is summed.

        Raises:
            UsageError: the first axis is not that of the tasks.
        """
        means, pulled = params_of(tasks)["means"], np.asarray(actions, np.int64)
        if pulled.ndim < 2 or len(pulled) != len(means):
            raise UsageError(
                f"actions has shape {pulled.shape}; give ({len(means)}, ..., pulls), tasks first"
            )
        rows = pulled.reshape(len(means), -1)
        gap = means.max(axis=1, keepdims=True) - np.take_along_axis(means, rows, axis=1)
        return np.asarray(gap.reshape(pulled.shape).sum(axis=-1))


bandit = FamilySpec(
    name="bandit",
    factory=Bandit,
    presets={
        "5-arms": {},
        "10-arms": {"arms": 10},
        "50-arms": {"arms": 50},
        "5-arms-10-pulls": {"horizon": 10},
        "5-arms-500-pulls": {"horizon": 500},
        "50-arms-500-pulls": {"arms": 50, "horizon": 500},
    },
    summary="find and pull the best of several arms that pay 0 or 1",
)
