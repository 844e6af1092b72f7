"""Facts about counter-based noise and the batch without autoreset."""

import numpy as np
import pytest
import torch
from noisy_walk import NoisyWalk
from numpy.testing import assert_array_equal
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from mtrl.envs.batched import BatchedEnv, BatchedFamily
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.noise import episode_keys, gaussians, uniforms
from mtrl.errors import UsageError

MASK = (1 << 64) - 1
SLOTS = torch.arange(64)
# About thirty p-values are looked at below, of fixed draws.
CHANCE = 1e-3


def _splitmix(word: int) -> int:
    """Steele et al.'s finaliser in Python's integers, independent of torch."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def _uniform(seed: int, episode: int, step: int, index: int) -> float:
    gamma = 0x9E3779B97F4A7C15
    key = _splitmix((_splitmix((seed + gamma) & MASK) + episode * gamma) & MASK)
    word = _splitmix((key + (step * 65536 + index + 1) * gamma) & MASK)
    return (word >> 11) / 2**53


def test_the_hash_is_splitmix64() -> None:
    # The first outputs of the published generator for state 1234567.
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    gamma = 0x9E3779B97F4A7C15
    assert [_splitmix((1234567 + i * gamma) & MASK) for i in (1, 2, 3)] == outputs


def test_noise_equals_an_integer_implementation() -> None:
    seeds, episodes, steps = [0, 7, 2**63 - 1], [0, 3, 2**40], [0, 99, 12345]
    keys = episode_keys(torch.tensor(seeds), torch.tensor(episodes))
    drawn = uniforms(keys, torch.tensor(steps), 3, torch.float64)
    expected = [
        [_uniform(*slot, index) for index in range(3)]
        for slot in zip(seeds, episodes, steps, strict=True)
    ]
    assert_array_equal(drawn.numpy(), expected)
    single = uniforms(keys, torch.tensor(steps), 3, torch.float32).double()
    assert ((drawn - single >= 0) & (drawn - single < 2.0**-24)).all()


@pytest.mark.parametrize("neighbours", ["seeds", "episodes", "steps"])
def test_noise_is_uniform_and_uncorrelated(neighbours: str) -> None:
    n = 20_000
    count = {name: torch.zeros(n, dtype=torch.int64) for name in ("seeds", "episodes", "steps")}
    count[neighbours] = torch.arange(n)
    keys = episode_keys(count["seeds"], count["episodes"])
    values = uniforms(keys, count["steps"], 2, torch.float64).numpy()
    for column in values.T:
        assert stats.kstest(column, "uniform").pvalue > CHANCE
        pairs = np.histogram2d(column[:-1:2], column[1::2], bins=10, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(pairs.ravel()).pvalue > CHANCE
    lowest_bits = (values * 2**53).astype(np.int64) & 1
    assert abs(lowest_bits.mean() - 0.5) < 4 * 0.5 / values.size**0.5
    assert abs(np.corrcoef(values.T)[0, 1]) < 4 / len(values) ** 0.5


def test_gaussians_are_standard_normal_and_finite_at_the_ends() -> None:
    keys = episode_keys(torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64))
    normal = gaussians(uniforms(keys, torch.zeros_like(keys), 4, torch.float64)).numpy()
    assert normal.shape == (20_000, 4)
    for column in normal.T:
        assert stats.kstest(column, "norm").pvalue > CHANCE
    assert np.abs(np.corrcoef(normal.T) - np.eye(4)).max() < 4 / 20_000**0.5
    ends = torch.tensor([[0.0, 0.0], [1 - 2.0**-24, 1 - 2.0**-24]])
    assert torch.isfinite(gaussians(ends)).all()


def _env(slots: list[int] | Tensor, dtype: torch.dtype = torch.float32) -> BatchedEnv:
    """Return the batch of these of 64 slots, every one with its own task and seed."""
    family = NoisyWalk()
    tasks = family.sample(64, np.random.default_rng(0), "train")
    env = BatchedEnv(family, family.tensors([tasks[int(i)] for i in slots], dtype=dtype))
    env.reset(1000 + torch.as_tensor(slots))
    return env


def test_a_slot_does_not_depend_on_the_slots_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    actions = torch.randint(-1, 2, (12, 64), generator=generator)
    everywhere = _env(SLOTS)
    shuffled = torch.randperm(64, generator=generator)
    parts = [(shuffled, _env(shuffled)), (SLOTS[5:8], _env(SLOTS[5:8])), (SLOTS[:1], _env([0]))]
    for action in actions:
        whole = everywhere.step(action)
        for slots, part in parts:
            for one, other in zip(part.step(action[slots]), whole, strict=True):
                assert_close(one, other[slots], rtol=0, atol=0)


def test_seed_and_episode_number_decide_everything() -> None:
    first, again = _env(SLOTS), _env(SLOTS)
    zeros = torch.zeros(64, dtype=torch.int64)
    for _ in range(12):
        first.step(zeros)
    jumped = again.reset(again.seeds, torch.ones_like(zeros))
    assert_close(first.reset_where(zeros == 0), jumped, rtol=0, atol=0)
    assert_close(first.step(zeros), again.step(zeros), rtol=0, atol=0)
    other_seed = again.reset(again.seeds + 64, torch.ones_like(zeros))
    assert (other_seed[:, 0] != jumped[:, 0]).all()


def test_reset_where_leaves_other_slots_alone() -> None:
    env = _env(SLOTS)
    action = torch.ones(64, dtype=torch.int64)
    before = env.step(action)[0]
    mask = SLOTS % 3 == 0
    after = env.reset_where(mask)
    assert_close(after[~mask], before[~mask], rtol=0, atol=0)
    assert (after[mask, 0] != before[mask, 0]).all()
    assert_close(env.steps, torch.where(mask, 0, 1))
    assert_close(env.episodes, mask.long())


def test_a_finished_slot_stands_still_with_reward_zero_and_its_flags() -> None:
    env = _env(SLOTS)
    action = torch.ones(64, dtype=torch.int64)
    obs, _, terminated, truncated = env.step(action)
    last = [obs, terminated, truncated]
    early = torch.zeros(64, dtype=torch.bool)
    for step in range(1, 20):
        over = last[1] | last[2]
        early |= last[1] & (env.steps < 12)
        obs, reward, terminated, truncated = env.step(action)
        assert_close(reward[over], torch.zeros(int(over.sum())), rtol=0, atol=0)
        for now, then in zip((obs, terminated, truncated), last, strict=True):
            assert_close(now[over], then[over], rtol=0, atol=0)
        assert (reward[~over] != 0).all()
        last = [obs, terminated, truncated]
        assert (truncated == (env.steps == 12)).all()
        assert over.all() == (step >= 12)
    # Both kinds of end must have occurred, or the above says nothing.
    assert 0 < early.sum() < 64


def test_a_reward_after_the_end_is_masked_even_if_it_is_not_a_number() -> None:
    class Exploding(NoisyWalk):
        def step(self, params, state, action, noise):  # type: ignore[no-untyped-def]
            state, reward, _ = super().step(params, state, action, noise)
            return state * torch.nan, reward * torch.nan, torch.ones_like(reward, dtype=torch.bool)

    family = Exploding()
    env = BatchedEnv(family, family.tensors(family.sample(2, np.random.default_rng(0), "train")))
    action = torch.zeros(2, dtype=torch.int64)
    assert torch.isnan(env.step(action)[1]).all()
    assert_close(env.step(action)[1], torch.zeros(2), rtol=0, atol=0)


def test_float64_runs_in_float64_and_agrees_with_float32() -> None:
    single, double = _env(SLOTS), _env(SLOTS, torch.float64)
    action = torch.ones(64, dtype=torch.int64)
    for _ in range(3):
        narrow, wide = single.step(action)[0], double.step(action)[0]
    assert wide.dtype == torch.float64
    # The noise is rounded at 2^-24; three steps amplify it little.
    assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [NoisyWalk(), Navigation2D(terminate_at_goal=True)])
def test_nothing_is_read_back_from_the_device(family: BatchedFamily) -> None:
    """Tensors on the meta device have no values: reading one, or mixing in the CPU's, raises."""
    tasks = family.sample(4, np.random.default_rng(0), "train")
    env = BatchedEnv(family, family.tensors(tasks, device="meta"))
    env.reset(torch.arange(4, device="meta"))
    shape = (4, *(family.action_space.shape or ()))
    results = env.step(torch.zeros(shape, device="meta"))
    env.reset_where(results[2] | results[3])
    assert {tensor.device.type for tensor in results} == {"meta"}
    with pytest.raises(RuntimeError, match="meta"):
        bool(results[2].any())


def test_tensors_repeat_tasks_in_succession() -> None:
    family = Navigation2D()
    tasks = family.sample(3, np.random.default_rng(0), "train")
    goals = family.tensors(tasks, repeats=2, dtype=torch.float64)["goal"]
    expected = [tasks[i].params["goal"] for i in (0, 0, 1, 1, 2, 2)]
    assert_array_equal(goals.numpy(), expected)


def test_another_familys_tasks_and_wrong_seeds_are_refused() -> None:
    walk = NoisyWalk()
    with pytest.raises(UsageError, match="'noisy-walk', not 'navigation2d'"):
        Navigation2D().tensors(walk.sample(1, np.random.default_rng(0), "train"))
    with pytest.raises(UsageError, match="tasks is empty"):
        walk.tensors([])
    with pytest.raises(UsageError, match=r"seeds has shape \(3,\); give 64"):
        _env(SLOTS).reset(torch.arange(3))
