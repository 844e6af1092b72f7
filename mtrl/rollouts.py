"""Whole episodes of many tasks at once, as tensors.

Layout: every tensor starts with the axes (tasks, episodes, time). The time axis is as long as the longest
episode; a shorter one is followed by steps with `mask` 0, which no return, loss or statistic may count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from mtrl.errors import UsageError
from mtrl.host_reads import reads_are_free
from mtrl.nets import Params
from mtrl.policies import Distribution, Policy

__all__ = [
    "CHECK_EVERY",
    "Chance",
    "EpisodeBatch",
    "Rollout",
    "collect",
    "draw_chance",
    "episode_steps",
    "play",
]

CHECK_EVERY = 32
"""Steps between two looks at whether any episode goes on."""
_LONGEST = 100_000


class EpisodeBatch(Protocol):
    """An environment that runs one episode in every slot; `mtrl.envs.batched.BatchedEnv` is one."""

    @property
    def horizon(self) -> int:
        """Steps of an episode that nothing ends."""

    def reset(self, seeds: Tensor) -> Tensor:
        """Start an episode in every slot from int64 `seeds` (slots,); return observations."""

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Step every slot; return observations, rewards, terminated and truncated, each (slots, ...)."""


@dataclass(frozen=True)
class Rollout:
    """Episodes of several tasks.

    Attributes:
        observations: (tasks, episodes, time, features), before each action.
        actions: (tasks, episodes, time, ...), as sampled: real numbers (..., actions), or choices.
        log_probs: (tasks, episodes, time), of the actions under the policy that took them.
        rewards: (tasks, episodes, time), 0 after the end.
        mask: (tasks, episodes, time), 1 up to and including the last step of the episode, then 0.
        terminated: (tasks, episodes, time), 1 at the step by which the task itself ended the episode; an
            episode without one ran out of time.
        final_observations: (tasks, episodes, features), after the last step.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
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

    @property
    def longest(self) -> int:
        """Steps of the longest episode; waits for the device."""
        return int(self.mask.sum(-1).max())

    def trimmed(self) -> "Rollout":
        """Cut the time axis after the last step of the longest episode; waits for the device."""
        return self.lasting(self.longest)

    def lasting(self, steps: int) -> "Rollout":
        """Cut the time axis after `steps`, or fill it up to them with steps that do not count."""
        extra = steps - self.mask.shape[-1]
        if extra == 0:
            return self
        names = ("observations", "actions", "log_probs", "rewards", "mask", "terminated")
        return replace(self, **{name: _lasting(getattr(self, name), extra) for name in names})

    def flat(self, value: Tensor) -> Tensor:
        """Merge the episode and time axes of `value`: (tasks, samples, ...)."""
        return value.flatten(1, 2)


def _lasting(values: Tensor, extra: int) -> Tensor:
    if extra < 0:
        return values[:, :, :extra]
    shape = (*values.shape[:2], extra, *values.shape[3:])
    return torch.cat([values, values.new_zeros(shape)], 2)


@dataclass(frozen=True)
class Chance:
    """All that is random about a batch of episodes, beside the tasks.

    Attributes:
        seeds: int64 (tasks, episodes), of the episodes.
        noise: (time, tasks, episodes, ...), of the actions.
    """

    seeds: Tensor
    noise: Tensor

    def of(self, tasks: slice) -> "Chance":
        """Return that of some of the tasks."""
        return Chance(self.seeds[tasks], self.noise[:, tasks])


def draw_chance(policy: Policy, shape: tuple[int, int, int], generator: torch.Generator) -> Chance:
    """Draw what is random about episodes of `shape`: (time, tasks, episodes)."""
    device = generator.device
    seeds = torch.randint(2**62, shape[1:], generator=generator, device=device)
    return Chance(seeds, policy.noise(shape, generator))


def episode_steps(horizon: int, limit: int | None) -> int:
    """Return after how many steps an episode is cut off: the horizon, or `limit` if that is less.

    Raises:
        UsageError: episodes would be too long to be kept as tensors.
    """
    steps = horizon if limit is None else min(horizon, limit)
    if steps > _LONGEST:
        raise UsageError(
            f"an episode may take {steps} steps, too many to keep: "
            f"set max_episode_steps to {_LONGEST} or less"
        )
    return steps


@torch.no_grad()
def collect(
    env: EpisodeBatch,
    policy: Policy,
    params: Params,
    *,
    shape: tuple[int, int],
    generator: torch.Generator,
    max_episode_steps: int | None = None,
) -> Rollout:
    """Run one episode in every slot of `env` with `policy`.

    On a CPU it stops when all have ended; on an accelerator, which it never waits for, it runs to the horizon.

    Args:
        env: a batch with tasks * episodes slots, ordered by task.
        policy: gives the action distribution.
        params: shared parameters or one set per task.
        shape: (tasks, episodes).
        generator: for the actions' noise and the episodes' seeds.
        max_episode_steps: cut episodes off here, if the environment does not do so before.

    Raises:
        UsageError: episodes may go on for too long, and nothing cuts them off.
    """
    horizon = episode_steps(env.horizon, max_episode_steps)
    rollout = play(env, policy, params, draw_chance(policy, (horizon, *shape), generator))
    return rollout.trimmed() if reads_are_free(generator.device) else rollout


@torch.no_grad()
def play(env: EpisodeBatch, policy: Policy, params: Params, chance: Chance) -> Rollout:
    """Run one episode in every slot of `env` with `policy`, as `collect` does with what it drew.

    The time axis may go on behind the longest episode.

    Args:
        env: a batch with tasks * episodes slots, ordered by task.
        policy: gives the action distribution.
        params: shared parameters or one set per task.
        chance: of these tasks and episodes, for at most as many steps as are to be taken.
    """
    tasks, episodes = chance.seeds.shape
    device, looks = chance.seeds.device, reads_are_free(chance.seeds.device)
    observation = env.reset(chance.seeds.flatten())
    running = torch.ones(tasks * episodes, device=device)
    history: dict[str, list[Tensor]] = {key: [] for key in ("obs", "act", "rew", "mask", "term")}
    distributions: list[Distribution] = []
    for step, noise in enumerate(chance.noise):
        if looks and step and step % CHECK_EVERY == 0 and not running.any():
            break
        history["obs"].append(observation)
        distribution = policy(params, observation.view(tasks, episodes, -1))
        distributions.append(distribution)
        action = distribution.sample(noise).flatten(0, 1)
        observation, reward, terminated, truncated = env.step(action)
        history["act"].append(action)
        history["rew"].append(reward.to(running.dtype).masked_fill(running == 0, 0.0))
        history["mask"].append(running)
        history["term"].append(terminated * running)
        running = running.masked_fill(terminated | truncated, 0.0)

    def stacked(key: str) -> Tensor:
        rows = torch.stack(history[key], dim=1)
        return rows.view(tasks, episodes, *rows.shape[1:])

    actions = stacked("act")
    return Rollout(
        observations=stacked("obs"),
        actions=actions,
        log_probs=_log_probs(distributions, actions),
        rewards=stacked("rew"),
        mask=stacked("mask"),
        terminated=stacked("term"),
        final_observations=observation.view(tasks, episodes, -1),
    )


def _log_probs(distributions: Sequence[Distribution], actions: Tensor) -> Tensor:
    """Return those of `actions` (tasks, episodes, time, ...) under the distributions of each time, all at once."""
    parts = zip(*distributions, strict=True)
    # Before the last axis: what tasks or episodes share may lack theirs.
    joined = distributions[0].like(torch.stack(each, -2) for each in parts)
    return joined.log_prob(actions)
