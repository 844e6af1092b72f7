"""Whole episodes of many tasks at once, as tensors.

Layout: every tensor starts with the axes (tasks, episodes, time). An episode that ends early is followed by
steps with `mask` 0, which no return, loss or statistic may count.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mtrl.nets import Gaussian, Params

__all__ = ["EpisodeBatch", "Policy", "Rollout", "collect"]


class EpisodeBatch(Protocol):
    """An environment that runs one episode in every slot; `mtrl.envs.batched.BatchedEnv` is one."""

    @property
    def horizon(self) -> int:
        """Steps of an episode that nothing ends."""

    def reset(self, seeds: Tensor) -> Tensor:
        """Start an episode in every slot from int64 `seeds` (slots,); return observations."""

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Step every slot; return observations, rewards, terminated and truncated, each (slots, ...)."""


class Policy(Protocol):
    """A stochastic policy as a function of its parameters."""

    @property
    def action_size(self) -> int:
        """Dimensions of an action."""

    def initial(self, generator: torch.Generator) -> Params:
        """Draw shared parameters."""

    def __call__(self, params: Params, observations: Tensor) -> Gaussian:
        """Return the distribution of actions at observations (tasks, batch, features)."""


@dataclass(frozen=True)
class Rollout:
    """Episodes of several tasks.

    Attributes:
        observations: (tasks, episodes, time, features), before each action.
        actions: (tasks, episodes, time, actions), as sampled; the environment clips them itself.
        rewards: (tasks, episodes, time), 0 after the end.
        mask: (tasks, episodes, time), 1 up to and including the last step of the episode, then 0.
        terminated: (tasks, episodes, time), 1 at the step by which the task itself ended the episode; an
            episode without one ran into the horizon.
        final_observations: (tasks, episodes, features), after the last step.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor
    terminated: Tensor
    final_observations: Tensor

    @property
    def returns(self) -> Tensor:
        """Undiscounted return of each episode (tasks, episodes)."""
        return self.rewards.sum(-1)

    @property
    def steps(self) -> Tensor:
        """Environment steps taken, all tasks together."""
        return self.mask.sum()

    def flat(self, value: Tensor) -> Tensor:
        """Merge the episode and time axes of `value`: (tasks, samples, ...)."""
        return value.flatten(1, 2)


@torch.no_grad()
def collect(
    env: EpisodeBatch,
    policy: Policy,
    params: Params,
    *,
    shape: tuple[int, int],
    generator: torch.Generator,
) -> Rollout:
    """Run one episode in every slot of `env` with `policy`.

    Args:
        env: a batch with tasks * episodes slots, ordered by task.
        policy: gives the action distribution.
        params: shared parameters or one set per task.
        shape: (tasks, episodes).
        generator: for the actions' noise and the episodes' seeds.
    """
    tasks, episodes = shape
    slots, device = tasks * episodes, generator.device
    seeds = torch.randint(2**62, (slots,), generator=generator, device=device)
    noise = torch.randn(
        (env.horizon, tasks, episodes, policy.action_size), generator=generator, device=device
    )
    observation = env.reset(seeds)
    running = torch.ones(slots, device=device)
    history: dict[str, list[Tensor]] = {key: [] for key in ("obs", "act", "rew", "mask", "term")}
    for step in range(env.horizon):
        history["obs"].append(observation)
        action = policy(params, observation.view(tasks, episodes, -1)).sample(noise[step])
        observation, reward, terminated, _ = env.step(action.view(slots, -1))
        ended = terminated.to(running.dtype)
        history["act"].append(action.view(slots, -1))
        history["rew"].append(reward.to(running.dtype).masked_fill(running == 0, 0.0))
        history["mask"].append(running)
        history["term"].append(ended * running)
        running = running * (1 - ended)

    def stacked(key: str) -> Tensor:
        rows = torch.stack(history[key], dim=1)
        return rows.view(tasks, episodes, env.horizon, *rows.shape[2:])

    return Rollout(
        observations=stacked("obs"),
        actions=stacked("act"),
        rewards=stacked("rew"),
        mask=stacked("mask"),
        terminated=stacked("term"),
        final_observations=observation.view(tasks, episodes, -1),
    )
