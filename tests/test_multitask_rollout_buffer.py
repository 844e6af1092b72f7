"""Advantages on each task's own scale, and minibatches of equal shares."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from mtrl.agents.multitask.rollout_buffer import (
    MultiTaskRolloutBuffer,
    equal_shares,
    normalised_per_task,
)
from mtrl.errors import UsageError

STEPS, SLOTS = 6, 5
ACTIONS = gym.spaces.Discrete(3)
ROLLOUT = {"gamma": 0.9, "gae_lambda": 0.8, "n_envs": SLOTS, "device": "cpu"}


def space(tasks: int) -> gym.spaces.Box:
    return gym.spaces.Box(-10, 10, (2 + tasks,), np.float32)


def fill(
    buffer: RolloutBuffer,
    tasks: np.ndarray,
    *,
    number: int,
    scale: float = 1.0,
    learnt: np.ndarray | None = None,
) -> None:
    """Add steps in which slot i plays `tasks[i]`, rewards `scale` times larger for each next task."""
    rng = np.random.default_rng(0)
    buffer.reset()
    if learnt is not None:
        buffer.learnt[:] = learnt  # type: ignore[attr-defined]
    for _ in range(buffer.buffer_size):
        seen = rng.normal(size=(SLOTS, 2)).astype(np.float32)
        obs = np.concatenate([seen, np.eye(number, dtype=np.float32)[tasks]], 1)
        rewards = (rng.normal(size=SLOTS) * scale**tasks).astype(np.float32)
        values, log_probs = (
            torch.from_numpy(rng.normal(size=SLOTS).astype(np.float32)) for _ in range(2)
        )
        starts = rng.random(SLOTS) < 0.2
        buffer.add(obs, rng.integers(0, 3, SLOTS), rewards, starts, values, log_probs)
    last = torch.from_numpy(rng.normal(size=SLOTS).astype(np.float32))
    buffer.compute_returns_and_advantage(last, rng.random(SLOTS) < 0.2)


def buffers(
    tasks: list[int], *, number: int, normalise: bool = True, scale: float = 1.0
) -> tuple[MultiTaskRolloutBuffer, RolloutBuffer]:
    """Return ours and Stable-Baselines3's with the same rollout."""
    ours = MultiTaskRolloutBuffer(
        STEPS, space(number), ACTIONS, tasks=number, normalise=normalise, **ROLLOUT
    )
    theirs = RolloutBuffer(STEPS, space(number), ACTIONS, **ROLLOUT)
    for one in (ours, theirs):
        fill(one, np.array(tasks), number=number, scale=scale)
    return ours, theirs


def batches(buffer: RolloutBuffer, size: int | None, seed: int = 3) -> list[tuple[Tensor, ...]]:
    np.random.seed(seed)  # noqa: NPY002  # the stream that Stable-Baselines3 draws from
    return [tuple(batch) for batch in buffer.get(size)]


# Advantages


def test_advantages_have_mean_0_and_deviation_1_within_each_task() -> None:
    ours, theirs = buffers([0, 1, 2, 0, 1], number=3, scale=100.0)
    owners = ours.sample_tasks()
    for place in range(3):
        own, raw = ours.advantages[owners == place], theirs.advantages[owners == place]
        assert_allclose(own.mean(), 0, atol=1e-6)
        assert_allclose(own.std(ddof=1), 1, rtol=1e-6)
        assert_allclose(own, (raw - raw.mean()) / raw.std(ddof=1), rtol=1e-4, atol=1e-5)
    assert_array_equal(ours.returns, theirs.returns)
    # The control: normalised together, the large task leaves the small one next to nothing.
    together = theirs.advantages / theirs.advantages.std()
    assert together[owners == 0].std() < 1e-3


def test_what_is_not_learnt_from_counts_for_nothing() -> None:
    ours, theirs = buffers([0, 1, 2, 0, 1], number=3, scale=100.0)
    learnt = np.random.default_rng(1).random((STEPS, SLOTS)) < 0.5
    learnt[:, 4] = False
    fill(ours, np.array([0, 1, 2, 0, 1]), number=3, scale=100.0, learnt=learnt)
    owners = ours.sample_tasks()
    for place in range(3):
        own = ours.advantages[learnt & (owners == place)]
        raw = theirs.advantages[learnt & (owners == place)]
        assert_allclose(own, (raw - raw.mean()) / raw.std(ddof=1), rtol=1e-4, atol=1e-5)
    ours.equal = False
    drawn = torch.cat([batch[0] for batch in batches(ours, 4)]).numpy()
    # Observations are real numbers: each sample is its own.
    assert len(drawn) == learnt.sum()
    assert_array_equal(np.unique(drawn, axis=0), np.unique(ours.observations[learnt], axis=0))
    assert not ours.empty
    ours.included[:] = [False, True, False]
    drawn = torch.cat([batch[0] for batch in batches(ours, 4)]).numpy()
    assert len(drawn) == (learnt & (owners == 1)).sum() and (drawn[:, 3] == 1).all()
    ours.learnt[owners == 1] = False
    assert ours.empty
    ours.reset()
    assert ours.learnt.all()


def test_without_normalising_they_are_those_of_the_parent() -> None:
    ours, theirs = buffers([0, 1, 2, 0, 1], number=3, normalise=False)
    assert_array_equal(ours.advantages, theirs.advantages)


def test_normalising_matches_the_formula_on_numbers_written_out() -> None:
    values = np.array([[1.0, 10.0], [3.0, 30.0], [5.0, 50.0]], np.float32)
    tasks = np.array([[0, 1], [0, 1], [0, 1]])
    expected = np.array([[-1, -1], [0, 0], [1, 1]])
    assert_allclose(normalised_per_task(values, tasks, 2), expected, rtol=1e-6, atol=1e-6)


def test_a_task_with_one_sample_or_constant_advantages_gets_zeros() -> None:
    values = np.array([7.0, 0.1, 0.1, 0.1, 2.0, 4.0], np.float32)
    made = normalised_per_task(values, np.array([0, 1, 1, 1, 3, 3]), 5)
    assert_allclose(made, [0, 0, 0, 0, -np.sqrt(0.5), np.sqrt(0.5)], atol=1e-6)


def test_one_task_in_one_batch_is_normalised_as_stable_baselines3_normalises_a_batch() -> None:
    ours, theirs = buffers([0] * SLOTS, number=1)
    raw = torch.from_numpy(theirs.advantages)
    expected = (raw - raw.mean()) / (raw.std() + 1e-8)
    torch.testing.assert_close(torch.from_numpy(ours.advantages), expected, rtol=1e-5, atol=1e-6)


# Minibatches


@pytest.mark.parametrize("size", [7, 10, None])
def test_one_tasks_minibatches_are_those_of_stable_baselines3(size: int | None) -> None:
    ours, theirs = buffers([0] * SLOTS, number=1, normalise=False)
    pairs = zip(batches(ours, size), batches(theirs, size), strict=True)
    for mine, other in pairs:
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_every_minibatch_has_equal_shares_however_unequal_the_rollout_is() -> None:
    ours, _ = buffers([0, 1, 1, 1, 1], number=2)
    for batch in batches(ours, 10):
        assert_array_equal(batch[0][:, -2:].sum(0), [5, 5])
    for batch in batches(ours, 7):
        shares = batch[0][:, -2:].sum(0)
        assert abs(shares[0] - shares[1]) <= 1


def test_equal_tasks_are_seen_exactly_once_in_a_pass() -> None:
    tasks = np.tile(np.arange(3), 8)
    order = equal_shares(np.random.default_rng(0).permutation(24), tasks, 3)
    assert_array_equal(np.sort(order), np.arange(24))
    assert_array_equal(tasks[order].reshape(8, 3), np.tile(np.arange(3), (8, 1)))


def test_a_small_task_begins_again_and_a_large_one_is_cut() -> None:
    tasks = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    order = equal_shares(np.arange(8), tasks, 2)
    assert_array_equal(order, [0, 2, 1, 3, 0, 4, 1, 5])


def test_tasks_that_are_absent_have_no_share() -> None:
    order = equal_shares(np.array([4, 1, 2, 0]), np.array([2, 2, 5, 2, 5]), 7)
    assert_array_equal(order, [1, 4, 0, 2])


def test_tasks_that_are_left_out_are_in_no_minibatch() -> None:
    ours, _ = buffers([0, 1, 2, 0, 1], number=3)
    ours.included = np.array([True, False, True])
    contexts = torch.cat([batch[0][:, -3:] for batch in batches(ours, 6)])
    assert_array_equal(contexts.sum(0), [9, 0, 9])


def test_a_step_without_values_is_stored_as_the_parents_add_stores_it() -> None:
    _, theirs = buffers([0, 1, 2, 0, 1], number=3)
    again = MultiTaskRolloutBuffer(STEPS, space(3), ACTIONS, tasks=3, **ROLLOUT)
    for step in range(STEPS):
        assert not again.full
        taken = theirs.actions[step, :, 0]
        row = (theirs.observations, taken, theirs.rewards, theirs.episode_starts)
        again.add_step(row[0][step], taken, row[2][step], row[3][step])
    assert again.full
    for name in ("observations", "actions", "rewards", "episode_starts"):
        assert_array_equal(getattr(again, name), getattr(theirs, name))


def test_a_space_without_room_for_the_context_is_refused() -> None:
    with pytest.raises(UsageError, match="one-hot context"):
        MultiTaskRolloutBuffer(STEPS, space(0), ACTIONS, tasks=2, **ROLLOUT)
