"""Random finite Markov decision processes, whose optimal values are computed exactly.

Duan et al. 2016 (RL^2, arXiv:1611.02779, section 3.2): 10 states and 5 actions; the mean reward of
each state and action is normal with mean 1 and standard deviation 1, a reward is normal around it
with standard deviation 1; each row of transition probabilities is from the flat Dirichlet
distribution. An episode lasts 10 steps and begins in state 0: the states are exchangeable, so that
any other choice gives the same distribution of tasks. The observation is the state, one-hot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.envs.batched import BatchedFamily
from mtrl.envs.distributions import Distribution, FlatDirichlet, Normal
from mtrl.envs.dynamics import TensorParams
from mtrl.envs.family import FamilySpec
from mtrl.envs.noise import gaussians
from mtrl.envs.parameters import ParameterSpace
from mtrl.envs.task import Task, params_of
from mtrl.errors import UsageError

__all__ = ["TabularMDP", "tabular_mdp"]


@dataclass(frozen=True, kw_only=True)
class TabularMDP(BatchedFamily):
    """The family. Task parameters, flattened: `rewards` (states, actions), the mean rewards, and
    `transitions` (states, actions, next states), the probabilities.

    Args:
        states, actions: how many there are.
        horizon: steps in an episode.
        reward_std: standard deviation of a reward around its mean.
    """

    states: int = 10
    actions: int = 5
    horizon: int = 10
    reward_std: float = 1.0
    name: ClassVar[str] = "tabular-mdp"
    units: ClassVar[Mapping[str, str]] = {
        "rewards": "mean reward, by state and action",
        "transitions": "probability, by state, action and next state",
    }
    step_noise: ClassVar[int] = 3

    def __post_init__(self) -> None:
        for field in ("states", "actions", "horizon"):
            if getattr(self, field) < 1:
                raise UsageError(
                    f"{field} of 'tabular-mdp' is {getattr(self, field)}; it must be at least 1"
                )
        if not self.reward_std >= 0:
            raise UsageError(
                f"reward_std of 'tabular-mdp' is {self.reward_std}; it must not be negative"
            )

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """The state, one-hot."""
        return gym.spaces.Box(0.0, 1.0, (self.states,), np.float32)

    @cached_property
    def action_space(self) -> gym.spaces.Discrete:
        """The actions by number."""
        return gym.spaces.Discrete(self.actions)

    @cached_property
    def parameters(self) -> ParameterSpace:
        """Normal mean rewards and flat Dirichlet transitions."""
        pairs = self.states * self.actions
        ranges: dict[str, Distribution] = {
            "rewards": Normal(1.0, 1.0, size=pairs),
            "transitions": FlatDirichlet(pairs, self.states),
        }
        return ParameterSpace(self.name, ranges, strict=True)

    def reset(self, params: TensorParams, noise: Tensor) -> Tensor:
        """Return state 0, shaped (slots, 1)."""
        return torch.zeros_like(params["rewards"][:, :1])

    def step(
        self, params: TensorParams, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pay for the state and the action, then move."""
        pair = state.long() * self.actions + action[:, None].long()
        mean = params["rewards"].gather(1, pair)[:, 0]
        reward = mean + self.reward_std * gaussians(noise[:, 1:])[:, 0]
        outcomes = pair * self.states + torch.arange(self.states, device=state.device)
        cumulative = params["transitions"].gather(1, outcomes).cumsum(dim=1)
        # Rounding may leave the last sum below 1, and the uniform above it.
        following = (cumulative <= noise[:, :1]).sum(1, keepdim=True).clamp(max=self.states - 1)
        never = torch.zeros_like(reward, dtype=torch.bool)
        return following.to(state.dtype), reward, never

    def observe(self, params: TensorParams, state: Tensor) -> Tensor:
        """Return the state one-hot."""
        numbers = torch.arange(self.states, device=state.device, dtype=state.dtype)
        return (state == numbers).to(state.dtype)

    def tables(self, tasks: Sequence[Task]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean rewards (tasks, states, actions) and transition probabilities (tasks, states,
        actions, next states), with rows that sum to 1 in float64."""
        params = params_of(tasks)
        shape = (len(tasks), self.states, self.actions)
        transitions = params["transitions"].reshape(*shape, self.states)
        return params["rewards"].reshape(shape), transitions / transitions.sum(-1, keepdims=True)

    def optimal_values(self, tasks: Sequence[Task]) -> NDArray[np.float64]:
        """Return each task's exact optimal values by backward induction.

        Shaped (tasks, horizon + 1, states): the highest expected undiscounted return from a state
        when so many steps have been made; 0 after the last.
        """
        return self._backward(tasks, None)

    def policy_values(
        self, tasks: Sequence[Task], policy: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return each task's exact values of `policy`, shaped as `optimal_values`.

        Args:
            tasks: the tasks.
            policy: probabilities of actions, that broadcast to (tasks, horizon, states, actions).
        """
        shape = (len(tasks), self.horizon, self.states, self.actions)
        return self._backward(tasks, np.broadcast_to(policy, shape))

    def _backward(
        self, tasks: Sequence[Task], policy: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        rewards, transitions = self.tables(tasks)
        values = np.zeros((len(tasks), self.horizon + 1, self.states))
        for step in reversed(range(self.horizon)):
            action_values = rewards + np.einsum("tsan,tn->tsa", transitions, values[:, step + 1])
            if policy is None:
                values[:, step] = action_values.max(-1)
            else:
                values[:, step] = (policy[:, step] * action_values).sum(-1)
        return values

    def optimal_returns(self, tasks: Sequence[Task]) -> NDArray[np.float64]:
        """Return each task's exact highest expected return of an episode."""
        return self.optimal_values(tasks)[:, 0, 0]

    def uniform_returns(self, tasks: Sequence[Task]) -> NDArray[np.float64]:
        """Return each task's exact expected return of acting at random."""
        return self.policy_values(tasks, np.array(1.0 / self.actions))[:, 0, 0]


tabular_mdp = FamilySpec(
    name="tabular-mdp",
    factory=TabularMDP,
    presets={"rl2": {}},
    summary="earn reward in an unknown Markov decision process of 10 states and 5 actions",
)
