"""Facts about bandits: what arms pay, and exact regret."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from mtrl.envs.bandit import Bandit
from mtrl.envs.batched import BatchedEnv
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task
from mtrl.errors import UsageError


def _task(*means: float) -> Task:
    return Task(family="bandit", params={"means": means})


def test_an_arm_pays_one_with_its_chance() -> None:
    family, n = Bandit(arms=3, horizon=200), 50
    means = (0.1, 0.5, 0.9)
    env = BatchedEnv(family, family.tensors([_task(*means)] * n))
    for arm, mean in enumerate(means):
        env.reset(torch.arange(n) + 1000 * arm)
        rewards = torch.stack([env.step(torch.full((n,), arm))[1] for _ in range(200)])
        assert set(rewards.unique().tolist()) == {0.0, 1.0}
        paid = int(rewards.sum())
        # A fixed draw; ten thousand pulls tell 0.5 from 0.48 at this level.
        assert stats.binomtest(paid, n * 200, mean).pvalue > 1e-3
        assert stats.binomtest(paid, n * 200, mean - 0.05).pvalue < 1e-3


def test_certain_arms_are_certain() -> None:
    family = Bandit(arms=2)
    env = BatchedEnv(family, family.tensors([_task(0.0, 1.0)] * 1000))
    for arm in (0, 1):
        assert (env.step(torch.full((1000,), arm))[1] == arm).all()


def test_there_is_nothing_to_see_and_no_end_before_the_horizon() -> None:
    env = Bandit(horizon=4).make("train")
    env.reset(seed=0)
    for step in range(1, 5):
        obs, _, terminated, truncated, _ = env.step(0)
        assert_array_equal(obs, np.zeros(1, np.float32))
        assert not terminated
        assert truncated == (step == 4)


def test_regret_by_hand() -> None:
    family = Bandit(arms=2, horizon=3)
    tasks = [_task(0.25, 0.75), _task(0.5, 0.5)]
    pulls = np.array([[0, 0, 1], [0, 1, 0]])
    assert_allclose(family.regret(tasks, pulls), [1.0, 0.0], rtol=1e-15)
    episodes = np.stack([pulls, 1 - pulls], axis=1)
    assert_allclose(family.regret(tasks, episodes), [[1.0, 0.5], [0.0, 0.0]], rtol=1e-15)
    assert_allclose(family.optimal_returns(tasks), [2.25, 1.5], rtol=1e-15)
    assert_allclose(family.uniform_returns(tasks), [1.5, 1.5], rtol=1e-15)
    with pytest.raises(UsageError, match=r"shape \(3,\); give \(2, \.\.\., pulls\)"):
        family.regret(tasks, pulls[0, :3])


def test_regret_is_what_the_return_falls_short_of_on_average() -> None:
    family, n = Bandit(arms=4, horizon=100), 100
    task = family.sample(1, np.random.default_rng(0), "test")[0]
    env = BatchedEnv(family, family.tensors([task] * n))
    actions = np.random.default_rng(0).integers(0, 4, (100, n))
    total = sum(env.step(torch.from_numpy(pulled))[1] for pulled in actions)
    short = family.optimal_returns([task]) - total.numpy()
    expected = family.regret([task], actions.T[None])[0]
    # The standard error of a mean of n sums of 100 draws of variance at most a quarter.
    assert abs((short - expected).mean()) < 4 * 5 / n**0.5


def test_best_of_k_uniform_chances_is_the_closed_form() -> None:
    for arms in (5, 10, 50):
        family = get_family("bandit", f"{arms}-arms")
        assert isinstance(family, Bandit)
        best = family.optimal_returns(family.sample(2000, np.random.default_rng(0), "train"))
        assert abs(best.mean() - 100 * arms / (arms + 1)) < 4 * best.std() / 2000**0.5


def test_impossible_bandits_and_tasks_are_refused() -> None:
    with pytest.raises(UsageError, match="arms of 'bandit' is 1"):
        Bandit(arms=1)
    with pytest.raises(UsageError, match="horizon of 'bandit' is 0"):
        Bandit(horizon=0)
    with pytest.raises(UsageError, match="means is .*outside"):
        Bandit(arms=2).make(_task(0.5, 1.5))
    with pytest.raises(UsageError, match="parameters of sizes"):
        Bandit(arms=3).make(_task(0.5, 0.5))
