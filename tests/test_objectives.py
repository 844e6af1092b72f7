"""Advantages against sums written out in full, and the losses against their definitions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_policy import POLICY, policy_params, samples
from tiny_regression import EXACT, normal
from torch import Tensor
from torch.testing import assert_close

from mtrl.errors import UsageError
from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.objectives import (
    AdvantageSettings,
    PolicyBatch,
    policy_batch,
    policy_loss,
    surrogate_loss,
)
from mtrl.nets import Params
from mtrl.rollouts import Rollout

TASKS, EPISODES, HORIZON = 2, 5, 6
# Length of each episode, and whether the task ended it.
LENGTHS = torch.tensor([[6, 6, 3, 1, 4], [6, 2, 6, 5, 6]])
TERMINATED = torch.tensor([[False, True, True, True, True], [False, True, False, True, False]])
RAW = AdvantageSettings(discount=0.9, gae_lambda=0.8, standardize=False)


def episodes() -> Rollout:
    time = torch.arange(HORIZON)
    mask = (time < LENGTHS[..., None]).double()
    last = (time == LENGTHS[..., None] - 1).double()
    rewards = normal(TASKS, EPISODES, HORIZON, seed=1) * mask
    return Rollout(
        observations=normal(TASKS, EPISODES, HORIZON, 2, seed=2),
        actions=normal(TASKS, EPISODES, HORIZON, 2, seed=3),
        log_probs=normal(TASKS, EPISODES, HORIZON, seed=5),
        rewards=rewards,
        mask=mask,
        terminated=last * TERMINATED[..., None],
        final_observations=normal(TASKS, EPISODES, 2, seed=4),
    )


def features(observation: np.ndarray, time: int) -> np.ndarray:
    t = time / 100
    return np.concatenate([observation, observation**2, [t, t**2, t**3, 1.0]])


def advantages_by_hand(settings: AdvantageSettings) -> np.ndarray:
    """Duan et al.'s baseline by ridge regression, then Schulman et al.'s eq. 16 as a double sum."""
    rollout, gamma = episodes(), settings.discount
    rewards, observations = rollout.rewards.numpy(), rollout.observations.numpy()
    advantages = np.zeros((TASKS, EPISODES, HORIZON))
    for task in range(TASKS):
        rows, targets = [], []
        for e in range(EPISODES):
            length = int(LENGTHS[task, e])
            for t in range(length):
                rows.append(features(observations[task, e, t], t))
                targets.append(
                    sum(gamma ** (k - t) * rewards[task, e, k] for k in range(t, length))
                )
        x = np.array(rows)
        weights = np.linalg.solve(x.T @ x + 1e-5 * np.eye(8), x.T @ np.array(targets))
        for e in range(EPISODES):
            length = int(LENGTHS[task, e])
            value = [features(observations[task, e, t], t) @ weights for t in range(length)]
            final = features(rollout.final_observations[task, e].numpy(), length) @ weights
            seen = settings.bootstrap_horizon and not TERMINATED[task, e]
            value.append(final if seen else 0.0)
            errors = [rewards[task, e, t] + gamma * value[t + 1] - value[t] for t in range(length)]
            for t in range(length):
                advantages[task, e, t] = sum(
                    (gamma * settings.gae_lambda) ** (k - t) * errors[k] for k in range(t, length)
                )
    return advantages


def batch(settings: AdvantageSettings = RAW) -> PolicyBatch:
    return policy_batch(episodes(), settings)


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.8, 1.0])
def test_weights_are_the_advantages_over_the_number_of_valid_samples(
    gae_lambda: float, bootstrap: bool
) -> None:
    settings = replace(RAW, gae_lambda=gae_lambda, bootstrap_horizon=bootstrap)
    counts = LENGTHS.sum(1)[:, None, None]
    expected = torch.from_numpy(advantages_by_hand(settings)) / counts
    # The normal equations' condition number, squared, is what rounding is amplified by.
    assert_close(batch(settings).weights, expected.flatten(1), rtol=0, atol=1e-7)


def test_bootstrapping_changes_truncated_episodes_only() -> None:
    change = batch(replace(RAW, bootstrap_horizon=True)).weights - batch().weights
    change = change.view(TASKS, EPISODES, HORIZON)
    steps = episodes().mask.bool()
    truncated = steps & ~TERMINATED[..., None]
    assert change[truncated].abs().min() > 1e-6
    assert_close(change[~truncated], torch.zeros_like(change[~truncated]), rtol=0, atol=0)


def test_standardised_advantages_have_mean_zero_and_deviation_one_in_each_task() -> None:
    batched = batch(replace(RAW, standardize=True))
    zeros = torch.zeros(TASKS, dtype=torch.float64)
    assert_close(batched.weights.sum(1), zeros, **EXACT)
    advantages = torch.where(batched.valid > 0, batched.weights / batched.valid, 0.0)
    squares = (advantages.square() * batched.valid).sum(1)
    assert_close(squares, torch.ones_like(zeros), rtol=1e-7, atol=0)


def test_samples_beyond_the_end_weigh_nothing() -> None:
    batched = batch()
    padding = episodes().mask.flatten(1) == 0
    assert padding.sum() > 10
    for weights in (batched.weights, batched.valid):
        assert_close(weights[padding], torch.zeros(int(padding.sum())).double(), rtol=0, atol=0)
    assert_close(batched.valid.sum(1), torch.ones(TASKS).double(), **EXACT)


def test_every_setting_changes_the_weights() -> None:
    changes: dict[str, Any] = {
        "discount": 0.5,
        "gae_lambda": 0.1,
        "standardize": True,
        "bootstrap_horizon": True,
    }
    assert set(changes) == set(AdvantageSettings.__dataclass_fields__)
    for name, value in changes.items():
        change = batch(replace(RAW, **{name: value})).weights - batch().weights
        assert change.abs().max() > 1e-3, name


@pytest.mark.parametrize(("name", "value"), [("discount", 1.1), ("gae_lambda", -0.1)])
def test_factors_outside_zero_to_one_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"{name} must lie in \[0, 1\], got {value}"):
        AdvantageSettings(**{name: value})


# A share of the samples


def kept_samples(thin: PolicyBatch, whole: PolicyBatch) -> list[int]:
    """Return the indices in `whole` of the samples of `thin`, by the first task's observations."""
    rows = whole.observations[0].tolist()
    return [rows.index(row) for row in thin.observations[0].tolist()]


def test_one_in_three_samples_stand_for_all() -> None:
    whole = batch()
    thin = whole.every(3)
    kept = kept_samples(thin, whole)
    # One of each three in a row, and not always at the same place, which would be the same time of day.
    assert [index // 3 for index in kept] == list(range(whole.weights.shape[1] // 3))
    assert {index % 3 for index in kept} == {0, 1, 2}
    assert_close(thin.valid.sum(1), torch.ones(TASKS).double(), **EXACT)
    # Where every sample has the same weight, so has every one that is kept.
    count = (whole.valid[:, kept] > 0).sum(1, keepdim=True)
    advantage = whole.weights[:, kept] / whole.valid.max(1, keepdim=True).values
    assert_close(thin.weights, advantage / count, **EXACT)


def test_a_task_without_kept_samples_counts_nothing() -> None:
    whole = batch()
    ended = torch.zeros_like(whole.valid)
    ended[:, 1] = 1.0
    thin = replace(whole, valid=ended, weights=whole.weights * ended).every(3)
    assert 1 not in kept_samples(thin, whole)
    assert_close(thin.valid, torch.zeros_like(thin.valid), rtol=0, atol=0)
    assert_close(thin.weights, torch.zeros_like(thin.weights), rtol=0, atol=0)


def test_all_samples_are_kept_by_a_stride_of_one() -> None:
    whole = batch()
    assert whole.every(1) is whole


# Losses


def gradient(loss: Tensor, params: Params) -> list[Tensor]:
    return list(torch.autograd.grad(loss.sum(), list(params.values()), create_graph=True))


def leaves() -> Params:
    expanded = expand_to_tasks(policy_params(), TASKS)
    return {name: value.clone().requires_grad_() for name, value in expanded.items()}


def test_the_losses_are_minus_the_weighted_likelihood_and_ratio() -> None:
    params, data = leaves(), samples(policy_params(), seed=3)
    moved = {name: value + 0.1 for name, value in params.items()}
    log_probs = POLICY(moved, data.observations).log_prob(data.actions)
    ratio = torch.exp(log_probs - data.log_probs)
    expected = {"likelihood": log_probs, "ratio": ratio}
    for objective in ("likelihood", "ratio"):
        by_hand = -(expected[objective] * data.weights).sum(1)
        assert_close(policy_loss(POLICY, objective)(moved, data), by_hand, **EXACT)
    assert_close(surrogate_loss(POLICY, moved, data), -(ratio * data.weights).sum(1), **EXACT)


def test_the_inner_losses_agree_in_gradient_but_not_in_curvature() -> None:
    data = samples(policy_params(), seed=3)
    slopes, curves = [], []
    for objective in ("likelihood", "ratio"):
        params = leaves()
        first = gradient(policy_loss(POLICY, objective)(params, data), params)
        slopes.append([value.detach() for value in first])
        second = gradient(torch.stack([value.sum() for value in first]), params)
        curves.append([value.detach() for value in second])
    assert_close(slopes[0], slopes[1], **EXACT)
    assert max(float((a - b).abs().max()) for a, b in zip(*curves, strict=True)) > 1e-3


def test_following_the_inner_loss_makes_good_actions_likelier() -> None:
    params, data = leaves(), samples(policy_params(), seed=3)
    loss = policy_loss(POLICY, "likelihood")
    before = loss(params, data)
    steps = gradient(before, params)
    moved = {n: v - 1e-3 * g for (n, v), g in zip(params.items(), steps, strict=True)}
    assert (loss(moved, data) < before).all()
