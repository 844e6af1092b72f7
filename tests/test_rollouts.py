"""Rollouts against a plain loop over Gymnasium episodes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from noisy_walk import NoisyWalk
from tiny_regression import generator
from torch import Tensor
from torch.testing import assert_close

from mtrl import rollouts
from mtrl.envs.batched import BatchedEnv, BatchedFamily
from mtrl.envs.cartpole import NO_LIMIT, CartPole
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.meta.inner import expand_to_tasks
from mtrl.nets import Params
from mtrl.policies import CategoricalPolicy, Gaussian, GaussianPolicy
from mtrl.rollouts import Rollout, collect, episode_steps

EPISODES = 4
GOALS = [(0.2, 0.1), (-0.3, 0.2), (0.45, -0.45)]
NAVIGATION = Navigation2D(horizon=7, terminate_at_goal=True)
TASKS = [Task(family="navigation2d", params={"goal": goal, "start": (0.0, 0.0)}) for goal in GOALS]


@dataclass(frozen=True)
class Homing:
    """Heads for each task's goal with some noise, so that some episodes reach it and some do not."""

    def initial(self, generator: torch.Generator) -> Params:
        return {"goal": torch.tensor(GOALS), "log_std": torch.full((2,), -2.0)}

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn((*shape, 2), generator=generator)

    def __call__(self, params: Params, observations: Tensor) -> Gaussian:
        mean = (params["goal"].unsqueeze(1) - observations) / 0.1
        return Gaussian(mean.clamp(-1, 1), params["log_std"])


@dataclass(frozen=True)
class Episode:
    """One episode as Gymnasium plays it."""

    observations: list[np.ndarray]
    rewards: list[float]
    terminated: bool
    truncated: bool


def batch(family: BatchedFamily, tasks: list[Task]) -> BatchedEnv:
    return BatchedEnv(family, family.tensors(tasks, repeats=EPISODES))


def play(family: BatchedFamily, task: Task, seed: int, actions: Tensor) -> Episode:
    env = family.make(task)
    observation, _ = env.reset(seed=seed)
    observations, rewards = [observation], []
    for action in actions.numpy():
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            return Episode(observations, rewards, terminated, truncated)
    raise AssertionError("the episode goes on beyond its horizon")


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    policy = Homing()
    params = policy.initial(generator())
    return collect(
        batch(NAVIGATION, TASKS),
        policy,
        params,
        shape=(len(TASKS), EPISODES),
        generator=generator(1),
    )


def test_the_rollout_is_what_gymnasium_plays(rollout: Rollout) -> None:
    ends = []
    for i, task in enumerate(TASKS):
        for j in range(EPISODES):
            # Navigation is deterministic, so that the actions alone decide.
            episode = play(NAVIGATION, task, seed=0, actions=rollout.actions[i, j])
            length = len(episode.rewards)
            ends.append((episode.terminated, length))
            observations = torch.from_numpy(np.stack(episode.observations))
            assert_close(rollout.observations[i, j, :length], observations[:-1], rtol=0, atol=0)
            assert_close(rollout.final_observations[i, j], observations[-1], rtol=0, atol=0)
            rewards = torch.tensor(episode.rewards)
            assert_close(rollout.rewards[i, j, :length], rewards, rtol=0, atol=0)
            assert_close(rollout.returns[i, j], rewards.sum(), rtol=1e-6, atol=0)
            mask = (torch.arange(NAVIGATION.horizon) < length).float()
            assert_close(rollout.mask[i, j], mask, rtol=0, atol=0)
            last = (torch.arange(NAVIGATION.horizon) == length - 1).float()
            assert_close(rollout.terminated[i, j], last * episode.terminated, rtol=0, atol=0)
            assert_close(rollout.rewards[i, j] * (1 - mask), torch.zeros(7), rtol=0, atol=0)
    # The comparison covers terminated episodes of different lengths, and truncated ones.
    assert len({length for terminated, length in ends if terminated}) > 2
    assert (False, NAVIGATION.horizon) in ends
    assert int(rollout.steps) == sum(length for _, length in ends)


def test_the_actions_are_the_policys_at_the_observations(rollout: Rollout) -> None:
    policy = Homing()
    # collect draws the seeds first and then all noise, (time, tasks, episodes, actions).
    draws = generator(1)
    torch.randint(2**62, (len(TASKS) * EPISODES,), generator=draws)
    noise = torch.randn((NAVIGATION.horizon, len(TASKS), EPISODES, 2), generator=draws)
    for t in range(NAVIGATION.horizon):
        distribution = policy(policy.initial(draws), rollout.observations[:, :, t])
        assert_close(rollout.actions[:, :, t], distribution.sample(noise[t]), rtol=0, atol=1e-6)


def test_log_probs_are_those_of_the_policy_that_acted(rollout: Rollout) -> None:
    policy = Homing()
    distribution = policy(policy.initial(generator()), rollout.flat(rollout.observations))
    normal = torch.distributions.Normal(distribution.mean, distribution.log_std.exp())
    expected = normal.log_prob(rollout.flat(rollout.actions)).sum(-1)
    assert_close(rollout.flat(rollout.log_probs), expected, rtol=0, atol=1e-4)
    assert rollout.log_probs.std() > 0.5


def test_flat_keeps_tasks_apart(rollout: Rollout) -> None:
    flat = rollout.flat(rollout.observations)
    assert flat.shape == (len(TASKS), EPISODES * NAVIGATION.horizon, 2)
    assert_close(flat[1, 7:14], rollout.observations[1, 1], rtol=0, atol=0)


def walk(seed: int, params: Params | None = None) -> Rollout:
    family = NoisyWalk()
    tasks = family.sample(2, np.random.default_rng(0), "train")
    policy = GaussianPolicy(3, 1, hidden=(4,))
    return collect(
        Discretised(batch(family, tasks)),
        policy,
        params or policy.initial(generator()),
        shape=(2, EPISODES),
        generator=generator(seed),
    )


class Discretised:
    """The sign of one continuous action, for an environment with actions -1, 0, 1."""

    def __init__(self, env: BatchedEnv) -> None:
        self.env, self.horizon = env, env.horizon

    def reset(self, seeds: Tensor) -> Tensor:
        return self.env.reset(seeds)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.env.step(actions[:, 0].sign())


def test_a_stochastic_environment_follows_the_generator_too() -> None:
    first, again, other = walk(1), walk(1), walk(2)
    for name in ("observations", "actions", "rewards", "mask", "terminated"):
        assert_close(getattr(first, name), getattr(again, name), rtol=0, atol=0)
    assert (first.observations[:, :, 0, 0] - other.observations[:, :, 0, 0]).abs().min() > 0
    # Episodes of one task begin apart from each other: each has a seed of its own.
    assert len(torch.unique(first.observations[:, :, 0, 0])) == 2 * EPISODES


def test_shared_parameters_act_as_their_copies_for_each_task() -> None:
    params = GaussianPolicy(3, 1, hidden=(4,)).initial(generator())
    shared, separate = walk(1, params), walk(1, expand_to_tasks(params, 2))
    # Batched and plain products may round differently in single precision.
    assert_close(shared.actions, separate.actions, rtol=0, atol=1e-5)


class Exploding:
    """All but the first slot end at the third step, and report nothing finite afterwards."""

    horizon = 5

    def reset(self, seeds: Tensor) -> Tensor:
        self.time = 0
        return torch.zeros(len(seeds), 2)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.time += 1
        slots = len(actions)
        over = (torch.arange(slots) > 0) & (self.time >= 3)
        reward = torch.ones(slots)
        if self.time > 3:
            reward[1:] = torch.nan
        return torch.zeros(slots, 2), reward, over, torch.zeros(slots, dtype=torch.bool)


def test_what_an_environment_pays_after_the_end_does_not_count() -> None:
    policy = GaussianPolicy(2, 1, hidden=(3,))
    params = policy.initial(generator())
    rollout = collect(Exploding(), policy, params, shape=(1, 4), generator=generator())
    assert_close(rollout.returns, torch.tensor([[5.0, 3.0, 3.0, 3.0]]), rtol=0, atol=0)
    mask = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).repeat(1, 4, 1)
    mask[0, 0] = 1.0
    assert_close(rollout.mask, mask, rtol=0, atol=0)
    ends = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).repeat(1, 4, 1)
    ends[0, 0] = 0.0
    assert_close(rollout.terminated, ends, rtol=0, atol=0)


# Ends


def balance(max_episode_steps: int | None = None, **options: Any) -> Rollout:
    """Random pushes: the poles fall within some 60 steps of 500."""
    family = CartPole(**options)
    task = family.sample(1, np.random.default_rng(0), "train")
    policy = CategoricalPolicy(4, 2, hidden=(4,))
    return collect(
        batch(family, task),
        policy,
        policy.initial(generator()),
        shape=(1, EPISODES),
        generator=generator(1),
        max_episode_steps=max_episode_steps,
    )


def test_steps_end_with_the_longest_episode_however_often_that_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    step = BatchedEnv.step

    def counted(env: BatchedEnv, action: Tensor) -> Any:
        asked.append(1)
        return step(env, action)

    monkeypatch.setattr(BatchedEnv, "step", counted)
    made, steps = [], []
    for every in (1, rollouts.CHECK_EVERY, 1000):
        asked.clear()
        monkeypatch.setattr(rollouts, "CHECK_EVERY", every)
        made.append(balance())
        steps.append(len(asked))
    longest = int(made[0].returns.max())
    assert steps == [longest, 32 * -(-longest // 32), 500]
    for rollout in made:
        assert rollout.mask.shape == (1, EPISODES, longest)
        for name in ("observations", "actions", "rewards", "mask", "terminated"):
            assert_close(getattr(rollout, name), getattr(made[0], name), rtol=0, atol=0)
        assert_close(rollout.final_observations, made[0].final_observations, rtol=0, atol=0)
    assert made[0].actions.dtype == torch.int64


def test_a_tasks_own_step_limit_ends_its_episodes_without_terminating_them() -> None:
    rollout = balance(ranges={"step_limit": 5}, split_rule="shared")
    assert rollout.mask.shape == (1, EPISODES, 5)
    slots = CartPole(ranges={"step_limit": (3, 8)})
    tasks = [slots.task(step_limit=limit) for limit in (3, 8)]
    policy = CategoricalPolicy(4, 2, hidden=(4,))
    mixed = collect(
        batch(slots, tasks),
        policy,
        policy.initial(generator()),
        shape=(2, EPISODES),
        generator=generator(1),
    )
    lengths = torch.tensor([3.0, 8.0])[:, None].expand(2, EPISODES)
    assert_close(mixed.returns, lengths, rtol=0, atol=0)
    assert_close(mixed.mask.sum(-1), lengths, rtol=0, atol=0)
    assert_close(mixed.terminated, torch.zeros_like(mixed.terminated), rtol=0, atol=0)


def test_episodes_without_an_end_need_a_bound() -> None:
    endless = {"ranges": {"step_limit": NO_LIMIT}, "split_rule": "shared"}
    with pytest.raises(UsageError, match=r"9007199254740992 steps.*set max_episode_steps"):
        balance(**endless)
    cut = balance(7, **endless)
    assert cut.mask.shape == (1, EPISODES, 7)
    usual = balance(7, ranges={}, split_rule="shared")
    assert_close(cut.observations, usual.observations, rtol=0, atol=0)


@pytest.mark.parametrize(("horizon", "limit", "steps"), [(9, None, 9), (9, 4, 4), (9, 20, 9)])
def test_an_episode_has_the_lesser_of_horizon_and_bound(
    horizon: int, limit: int | None, steps: int
) -> None:
    assert episode_steps(horizon, limit) == steps
