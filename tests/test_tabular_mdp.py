"""Facts about random Markov decision processes: their distribution, dynamics and exact values."""

import itertools

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from mtrl.envs.batched import BatchedEnv
from mtrl.envs.tabular_mdp import TabularMDP
from mtrl.envs.task import Task
from mtrl.errors import UsageError


def _tasks(family: TabularMDP, n: int) -> list[Task]:
    return family.sample(n, np.random.default_rng(0), "train")


def test_tasks_follow_the_papers_distribution() -> None:
    family = TabularMDP()
    rewards, transitions = family.tables(_tasks(family, 100))
    assert rewards.shape == (100, 10, 5)
    assert transitions.shape == (100, 10, 5, 10)
    assert stats.kstest(rewards.ravel(), "norm", (1.0, 1.0)).pvalue > 1e-3
    # A coordinate of a flat Dirichlet distribution over ten outcomes is Beta(1, 9).
    assert stats.kstest(transitions[..., 3].ravel(), "beta", (1.0, 9.0)).pvalue > 1e-3
    assert_allclose(transitions.sum(-1), 1.0, rtol=1e-12)


def test_steps_follow_the_tables() -> None:
    family, n = TabularMDP(states=3, actions=2, horizon=2), 40_000
    task = _tasks(family, 1)[0]
    rewards, transitions = family.tables([task])
    env = BatchedEnv(family, family.tensors([task] * n))
    assert_array_equal(env.observe().numpy(), np.tile(np.float32([1, 0, 0]), (n, 1)))
    state = np.zeros(n, int)
    for action in (1, 0):
        obs, reward, terminated, _ = env.step(torch.full((n,), action))
        following = obs.numpy().argmax(1)
        assert_array_equal(obs.numpy().sum(1), np.ones(n))
        assert not terminated.any()
        for start in np.unique(state):
            here = state == start
            counts = np.bincount(following[here], minlength=3)
            expected = transitions[0, start, action] * here.sum()
            assert stats.chisquare(counts, expected).pvalue > 1e-3
            noise = reward.numpy()[here] - rewards[0, start, action]
            assert stats.kstest(noise, "norm").pvalue > 1e-3
        state = following


def test_optimal_values_equal_those_of_the_best_of_all_policies() -> None:
    """Every deterministic policy of a small problem, enumerated."""
    family = TabularMDP(states=2, actions=2, horizon=2)
    tasks = _tasks(family, 5)
    best = np.full((5, 2), -np.inf)
    for choice in itertools.product(range(2), repeat=4):
        policy = np.eye(2)[np.array(choice).reshape(2, 2)]  # (horizon, states, actions)
        best = np.maximum(best, family.policy_values(tasks, policy)[:, 0])
    # 1e-12: a few sums of float64.
    assert_allclose(family.optimal_values(tasks)[:, 0], best, rtol=1e-12)


def test_values_by_hand() -> None:
    family = TabularMDP(states=2, actions=2, horizon=2, reward_std=0.0)
    # Action 0 stays and pays 0; action 1 swaps and pays 1 in state 0, 5 in state 1.
    task = Task(
        family="tabular-mdp",
        params={"rewards": (0, 1, 0, 5), "transitions": (1, 0, 0, 1, 0, 1, 1, 0)},
    )
    assert_array_equal(family.optimal_values([task])[0], [[6, 6], [1, 5], [0, 0]])
    # At random: half of (1 + 0) now, then an equal chance of both states.
    assert_allclose(family.uniform_returns([task]), [0.5 + 0.5 * (0.5 + 2.5)])
    env = BatchedEnv(family, family.tensors([task]))
    swap = torch.ones(1, dtype=torch.int64)
    assert [env.step(swap)[1].item() for _ in range(2)] == [1.0, 5.0]


def test_simulated_returns_average_to_the_values() -> None:
    family, n = TabularMDP(), 4000
    task = _tasks(family, 1)[0]
    rewards, transitions = family.tables([task])
    values = family.optimal_values([task])
    later = np.einsum("san,tn->tsa", transitions[0], values[0, 1:])
    greedy = torch.from_numpy((rewards[0] + later).argmax(-1))  # (horizon, states)
    env = BatchedEnv(family, family.tensors([task] * n))
    obs, best = env.observe(), torch.zeros(n)
    for step in range(10):
        obs, reward, *_ = env.step(greedy[step][obs.argmax(1)])
        best += reward
    error = best.std().item() / n**0.5
    assert abs(best.mean().item() - family.optimal_returns([task])[0]) < 4 * error
    # Negative control: the values of acting at random are far from it.
    assert best.mean().item() - family.uniform_returns([task])[0] > 20 * error


def test_impossible_problems_are_refused() -> None:
    with pytest.raises(UsageError, match="states of 'tabular-mdp' is 0"):
        TabularMDP(states=0)
    with pytest.raises(UsageError, match="reward_std of 'tabular-mdp' is -1"):
        TabularMDP(reward_std=-1)
    family = TabularMDP(states=2, actions=1)
    lopsided = {"rewards": (0, 0), "transitions": (0.5, 0.6, 1, 0)}
    with pytest.raises(UsageError, match="transitions is .*outside"):
        family.make(Task(family="tabular-mdp", params=lopsided))
