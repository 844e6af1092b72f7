"""Gittins indices against closed forms and tables, and what bandit policies earn against known rewards."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.agents.bandits.gittins import (
    CHARGES,
    discounted_indices,
    finite_horizon_indices,
    optimal_reward,
)
from mtrl.agents.bandits.policies import (
    UCB1,
    BanditAgent,
    BanditPolicy,
    Greedy,
    Random,
    Thompson,
    discounted_gittins,
    finite_horizon_gittins,
)
from mtrl.envs.bandit import Bandit
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns
from mtrl.seeding import numpy_generator, torch_generator

# Indices


def test_with_one_pull_left_the_index_is_the_mean() -> None:
    indices = finite_horizon_indices(6)
    for paid, failed in product(range(6), repeat=2):
        if paid + failed < 6:
            mean = (paid + 1) / (paid + failed + 2)
            assert_allclose(indices[1, paid, failed], mean, atol=1e-12)
        else:
            assert np.isnan(indices[1, paid, failed])


def test_with_two_pulls_left_the_index_has_a_closed_form() -> None:
    """p - c + p (p+ - c) = 0, where p+ is the mean after another success: one goes on only after that."""
    indices = finite_horizon_indices(6)
    for paid, failed in product(range(5), repeat=2):
        if paid + failed < 5:
            p, after = (paid + 1) / (paid + failed + 2), (paid + 2) / (paid + failed + 3)
            expected = (p + p * after) / (1 + p)
            # A charge at which failure too is worth going on would change the form: there is none.
            assert expected > (paid + 1) / (paid + failed + 3)
            assert_allclose(indices[2, paid, failed], expected, atol=1e-9)
    assert_allclose(indices[2, 0, 0], 5 / 9, atol=1e-12)


def exact_gain(charge: float, remaining: int, paid: int, failed: int) -> float:
    """Return Q by recursion over single states: another calculation of the same."""
    mean = (paid + 1) / (paid + failed + 2)
    if remaining == 1:
        return mean - charge
    success, failure = (
        max(0.0, exact_gain(charge, remaining - 1, *then))
        for then in ((paid + 1, failed), (paid, failed + 1))
    )
    return mean - charge + mean * success + (1 - mean) * failure


@pytest.mark.parametrize("state", [(7, 0, 0), (5, 1, 1), (6, 0, 2), (4, 3, 1)])
def test_indices_are_the_zeros_that_bisection_finds(state: tuple[int, int, int]) -> None:
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if exact_gain(middle, *state) > 0 else (low, middle)
    found = finite_horizon_indices(8)[state]
    assert abs(found - low) < 1 / (CHARGES - 1)
    assert_allclose(found, low, atol=2e-6)


@pytest.mark.parametrize(
    ("discount", "table"),
    [
        # Gittins, Glazebrook and Weber 2011, table 8.4 on: uniform prior after (payments, failures).
        (0.5, {(0, 0): 0.5590, (1, 0): 0.7060, (0, 1): 0.3758}),
        (0.9, {(0, 0): 0.7029, (1, 0): 0.8001, (0, 1): 0.5001, (1, 1): 0.6346}),
    ],
)
def test_discounted_indices_are_those_of_the_tables(
    discount: float, table: dict[tuple[int, int], float]
) -> None:
    indices = discounted_indices(4, discount, beyond=120)
    for (paid, failed), value in table.items():
        assert_allclose(indices[paid, failed], value, atol=3e-4)


def test_indices_exceed_the_mean_by_what_there_is_to_learn() -> None:
    indices = finite_horizon_indices(20)
    means = (np.arange(21)[:, None] + 1) / (np.add.outer(np.arange(21), np.arange(21)) + 2)
    possible = ~np.isnan(indices[2:])
    assert ((indices[2:] - means)[possible] > 0).all()
    # More pulls left are worth more, and so are more payments.
    longer = ~np.isnan(indices[2:]) & ~np.isnan(indices[1:-1])
    assert (indices[2:][longer] > indices[1:-1][longer]).all()
    assert (np.diff(indices[5, :8, 3]) > 0).all()


def test_bad_horizons_and_discounts_are_refused() -> None:
    with pytest.raises(UsageError, match="pulls is 0"):
        finite_horizon_indices(0)
    with pytest.raises(UsageError, match=r"discount is 1\.0"):
        discounted_indices(3, 1.0)


# The best reward


def test_the_best_reward_of_two_pulls_has_a_closed_form() -> None:
    # After a payment the same arm again, with chance 2/3; after a failure another, with 1/2.
    assert_allclose(optimal_reward(2, 2), 1 / 2 + (2 / 3 + 1 / 2) / 2, rtol=1e-12)
    # A single arm leaves no choice.
    assert_allclose(optimal_reward(1, 7), 3.5, rtol=1e-12)


def test_the_best_reward_is_that_of_recursion_without_merging_records() -> None:
    def best(records: tuple[tuple[int, int], ...], remaining: int) -> float:
        if remaining == 0:
            return 0.0
        values = []
        for arm, (paid, failed) in enumerate(records):
            mean = (paid + 1) / (paid + failed + 2)
            after = [
                best((*records[:arm], then, *records[arm + 1 :]), remaining - 1)
                for then in ((paid + 1, failed), (paid, failed + 1))
            ]
            values.append(mean * (1 + after[0]) + (1 - mean) * after[1])
        return max(values)

    assert_allclose(optimal_reward(3, 4), best(((0, 0),) * 3, 4), rtol=1e-12)


# Rewards


def earned(
    policy: BanditPolicy, arms: int, pulls: int, bandits: int, tasks: list[Task] | None = None
) -> np.ndarray:
    family = Bandit(arms=arms, horizon=pulls)
    if tasks is None:
        tasks = family.sample(bandits, numpy_generator(11, "bandits"), "test")
    protocol = AdaptationProtocol(episodes=1, steps=0, tasks_at_once=len(tasks))
    agent, generator = BanditAgent(policy, arms), torch_generator(11, "pulls")
    return adaptation_returns(agent, family, tasks, protocol, generator)[:, 0]


def assert_mean(values: np.ndarray, expected: float, slack: float = 0.0) -> None:
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - expected) < 4 * error + slack


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Random(), 1.0),
        (Greedy(), 13 / 12),
        # After a payment the same arm with chance P(U < V) = 2/3, V from Beta(2, 1); else with 1/3.
        (Thompson(), 37 / 36),
        (finite_horizon_gittins(2), 13 / 12),
        (UCB1(0.1), 13 / 12),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_two_pulls_of_two_arms_earn_their_closed_form(
    policy: BanditPolicy, expected: float
) -> None:
    assert_mean(earned(policy, 2, 2, 40_000), expected)


@pytest.mark.parametrize(
    ("policy", "pulls", "published"),
    [
        # Duan et al. 2016, table 1, 5 arms; printed to 0.1, over 1,000 bandits of theirs.
        (UCB1(0.1), 10, 6.7),
        (finite_horizon_gittins(10), 10, 6.6),
        (UCB1(0.2), 100, 78.0),
        (finite_horizon_gittins(100), 100, 78.3),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_rewards_are_those_published(policy: BanditPolicy, pulls: int, published: float) -> None:
    spread = {10: 2.2, 100: 16.3}[pulls] / np.sqrt(1000)
    assert_mean(earned(policy, 5, pulls, 4_000), published, slack=3 * spread)


def test_gittins_is_near_the_best_reward_and_not_above() -> None:
    values = earned(finite_horizon_gittins(10), 5, 10, 20_000)
    best = optimal_reward(5, 10)
    error = values.std() / np.sqrt(len(values))
    assert 0.985 * best < values.mean() < best + 4 * error


def test_discounted_indices_earn_nearly_as_much() -> None:
    one = earned(discounted_gittins(10, 0.9), 5, 10, 4_000)
    other = earned(finite_horizon_gittins(10), 5, 10, 4_000)
    difference = one - other
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(4_000) + 0.03


def test_of_sure_arms_every_policy_but_random_finds_the_one_that_pays() -> None:
    sure = Task(family="bandit", params={"means": (0.0, 1.0, 0.0)})
    policies: list[BanditPolicy] = [Greedy(), UCB1(0.2), Thompson(), finite_horizon_gittins(60)]
    for policy in policies:
        assert earned(policy, 3, 60, 0, [sure] * 20).min() > 50, policy.name
    assert earned(Random(), 3, 60, 0, [sure] * 20).max() < 40


def test_equal_scores_are_broken_at_random() -> None:
    agent = BanditAgent(Greedy(), 4)
    agent.begin(1)
    chosen = agent.act(torch.zeros(2_000, 1, 1), torch_generator(0, "ties"))
    counts = np.bincount(chosen.flatten().numpy(), minlength=4)
    assert (np.abs(counts - 500) < 4 * np.sqrt(2_000 * 0.25 * 0.75)).all()


def test_an_agent_forgets_between_bandits() -> None:
    family = Bandit(arms=3, horizon=5)
    tasks = family.sample(6, numpy_generator(0, "bandits"), "test")
    agent = BanditAgent(Greedy(), 3)
    whole = AdaptationProtocol(episodes=2, steps=0)
    first, second = (
        adaptation_returns(agent, family, tasks, whole, torch_generator(0, "pulls"))
        for _ in range(2)
    )
    assert_array_equal(first, second)
