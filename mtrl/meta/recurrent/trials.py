"""Trials of many tasks at once: several episodes of one task, one after the other, with one memory.

Layout: tensors start with the axes (time, trials), so that a step's entries lie together. Time runs
through all the episodes of a trial. A trial whose episodes ended early is shorter than others; its steps
come first, and are followed by steps with `mask` 0, which nothing may count.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.meta.recurrent.policy import RecurrentPolicy
from mtrl.nets import Params
from mtrl.rollouts import CHECK_EVERY, EpisodeBatch, episode_steps

__all__ = ["Memory", "TrialCollector", "Trials"]


@dataclass(frozen=True)
class Trials:
    """What happened in the trials of a batch, one per task.

    Attributes:
        inputs: (time, trials, input_size), of the policy.
        actions: (time, trials, ...), as sampled.
        log_probs: (time, trials), of the actions under the policy that took them.
        values: (time, trials), in the policy's unit.
        rewards: (time, trials), 0 after the end.
        mask: (time, trials), 1 for the steps of the trial, then 0.
        episode_returns: (trials, episodes), undiscounted.
    """

    inputs: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    mask: Tensor
    episode_returns: Tensor

    @property
    def steps(self) -> Tensor:
        """Environment steps taken, all trials together."""
        return self.mask.sum()


class Memory:
    """What a policy carries from step to step in every slot: its state, and what the step before was."""

    def __init__(self, policy: RecurrentPolicy, slots: int, like: Tensor) -> None:
        self.state = policy.begin(slots, like)
        self.previous = policy.before_all(slots, like)

    def keep(self, running: Tensor, state: Tensor, previous: Tensor) -> None:
        """Take a step's outcome in the slots that are `running`; those that wait keep theirs."""
        rows = running.unsqueeze(1)
        self.state = torch.where(rows, state, self.state)
        self.previous = torch.where(rows, previous, self.previous)

    def end_episode(self) -> None:
        """Note that the episode is over in every slot, also where it was cut off."""
        self.previous[:, -1] = 1.0


class TrialCollector:
    """Runs trials with a recurrent policy, in buffers that it keeps: what it returns is its own.

    The trials of one call hold until the next.

    Args:
        policy: whose parameters each call is given.
        trials: how many at a time.
        episodes: of a trial.
        device: where the tensors are.
        dtype: of the numbers.
    """

    def __init__(
        self,
        policy: RecurrentPolicy,
        trials: int,
        episodes: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._policy = policy
        self._trials, self._episodes = trials, episodes
        self._like = torch.empty(0, device=device, dtype=dtype)
        self._buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def collect(
        self,
        env: EpisodeBatch,
        params: Params,
        generator: torch.Generator,
        max_episode_steps: int | None = None,
    ) -> Trials:
        """Run a trial in every slot of `env`.

        Args:
            env: a batch of as many slots as trials, each with a task of its own.
            params: of the policy.
            generator: for the actions' noise and the episodes' seeds.
            max_episode_steps: cut episodes off here, if the environment does not do so before.

        Raises:
            UsageError: episodes may go on for too long, and nothing cuts them off.
        """
        horizon = episode_steps(env.horizon, max_episode_steps)
        self._allocate(horizon * self._episodes)
        memory = Memory(self._policy, self._trials, self._like)
        time, returns = 0, []
        for _ in range(self._episodes):
            seeds = torch.randint(
                2**62, (self._trials,), generator=generator, device=generator.device
            )
            noise = self._policy.noise((horizon, self._trials), generator)
            observations, start = env.reset(seeds), time
            time = self._run_episode(env, params, memory, (observations, noise), start)
            returns.append(self._buffers["rewards"][start:time].sum(0))
        return self._trials_of(params, time, torch.stack(returns, 1))

    def _run_episode(
        self,
        env: EpisodeBatch,
        params: Params,
        memory: Memory,
        begin: tuple[Tensor, Tensor],
        time: int,
    ) -> int:
        """Run an episode in every slot from `begin`, (observations, noise); return the time after it."""
        policy, buffers = self._policy, self._buffers
        observations, noise = begin
        running = torch.ones(self._trials, device=self._like.device, dtype=torch.bool)
        for step in range(len(noise)):
            if step and step % CHECK_EVERY == 0 and not running.any():
                break
            inputs, states = buffers["inputs"][time], buffers["states"][time]
            inputs[:, : policy.observation_size] = observations
            inputs[:, policy.observation_size :] = memory.previous
            policy.advance(params, inputs, memory.state, states)
            actions = policy.distribution(params, states).sample(noise[step].to(states.dtype))
            observations, rewards, terminated, truncated = env.step(actions)
            rewards = rewards.to(states.dtype).masked_fill(~running, 0.0)
            for name, value in (("actions", actions), ("rewards", rewards), ("mask", running)):
                buffers[name][time] = value
            done = terminated | truncated
            memory.keep(running, states, policy.previous(actions, rewards, done))
            running, time = running & ~done, time + 1
        memory.end_episode()
        return time

    def _allocate(self, time: int) -> None:
        if "rewards" in self._buffers and len(self._buffers["rewards"]) == time:
            return
        policy, shape = self._policy, (time, self._trials)
        new = self._like.new_zeros
        self._buffers = {
            "inputs": new(*shape, policy.input_size),
            "states": new(*shape, policy.units),
            "actions": new(shape, dtype=torch.int64)
            if policy.choices
            else new(*shape, policy.action_size),
            "rewards": new(shape),
            "mask": new(shape),
        }

    def _trials_of(self, params: Params, time: int, returns: Tensor) -> Trials:
        kept = {name: buffer[:time] for name, buffer in self._buffers.items()}
        states = kept.pop("states")
        # All at once after the loop: only sampling needs a step's distribution in that step.
        kept["log_probs"] = self._policy.distribution(params, states).log_prob(kept["actions"])
        kept["values"] = self._policy.values(params, states)
        if self._episodes > 1:
            kept = _packed(kept)
        return Trials(**kept, episode_returns=returns)


def _packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move the steps of every trial to its front, in their order, and cut what no trial uses."""
    mask = tensors["mask"]
    longest = int(mask.sum(0).max())
    if longest == len(mask):
        return tensors
    order = (mask == 0).to(torch.uint8).argsort(dim=0, stable=True)[:longest]

    def moved(values: Tensor) -> Tensor:
        index = order.view(*order.shape, *[1] * (values.ndim - 2))
        return values.gather(0, index.expand(longest, *values.shape[1:]))

    return {name: moved(values) for name, values in tensors.items()}
