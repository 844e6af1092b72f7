"""Facts about running normalisers: exact moments, frozen ones, saved ones, none poisoned."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from numpy.testing import assert_allclose, assert_array_equal
from scripted_env import (
    FAMILY,
    MODES,
    SOURCES,
    TASKS,
    Episode,
    ScriptedEnv,
    Transcript,
    play,
    play_vector,
    random_actions,
    vector_envs,
)

from mtrl.checkpoint import CheckpointStore
from mtrl.envs.wrappers import (
    NormalizeObservation,
    NormalizeReward,
    VectorNormalizeObservation,
    VectorNormalizeReward,
)
from mtrl.errors import MtrlError, UsageError

ACTIONS = random_actions(40)
ROUNDING = 1e-12  # of sums of a hundred float64 numbers, relative
PAIRS = [
    (NormalizeObservation, VectorNormalizeObservation),
    (NormalizeReward, VectorNormalizeReward),
]


def assert_bits_equal(ours: Any, theirs: Any) -> None:
    """Compare two states of statistics."""
    assert ours[1] == theirs[1]
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)


def by_group(seen: list[Transcript], per_task: bool) -> dict[str, Any]:
    """Return all raw observations as float64 rows, by task id or together."""
    groups: dict[str, list[Any]] = {}
    for one in seen:
        for observation, task_id in zip(one.observations, one.task_ids, strict=True):
            groups.setdefault(task_id if per_task else "all", []).append(observation)
    return {name: np.array(rows, np.float64) for name, rows in groups.items()}


def assert_moments(moments: Any, groups: dict[str, Any]) -> None:
    """Compare running moments with those of all rows at once."""
    assert sorted(moments.groups) == sorted(groups)
    for name, rows in groups.items():
        count, mean, variance = moments.of(name)
        assert count == len(rows)
        assert_allclose(mean, rows.mean(0), rtol=ROUNDING)
        assert_allclose(variance, rows.var(0) if count > 1 else np.ones(3), rtol=ROUNDING)


def discounted(rewards: Any, ends: Any, discount: float) -> list[float]:
    """Return the running discounted returns, by their definition as a sum."""
    values, start = [], 0
    for step in range(len(rewards)):
        terms = [rewards[k] * discount ** (step - k) for k in range(start, step + 1)]
        values.append(math.fsum(terms))
        start = step + 1 if ends[step] else start
    return values


def test_observation_moments_are_those_of_all_that_was_seen() -> None:
    env = NormalizeObservation(FAMILY.make(SOURCES[1]))
    normalized = play(env, ACTIONS[:, 1], 8).observations
    raw = np.array(play(FAMILY.make(SOURCES[1]), ACTIONS[:, 1], 8).observations, np.float64)
    count, mean, variance = env.moments.of("any")
    assert count == len(raw) > 43
    assert_allclose(mean, raw.mean(0), rtol=ROUNDING)
    assert_allclose(variance, raw.var(0), rtol=ROUNDING)
    for step in (1, 5, len(raw) - 1):
        so_far = raw[: step + 1]
        expected = (raw[step] - so_far.mean(0)) / np.sqrt(so_far.var(0) + 1e-8)
        assert_allclose(normalized[step], expected, rtol=1e-6, atol=1e-6)  # float32
    assert_array_equal(normalized[0], np.zeros(3))


def test_each_task_has_its_own_moments() -> None:
    env = NormalizeObservation(FAMILY.make("train"), per_task=True)
    play(env, ACTIONS[:, 1])
    groups = by_group([play(FAMILY.make("train"), ACTIONS[:, 1])], per_task=True)
    assert len(groups) > 3
    assert_moments(env.moments, groups)


@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("mode", ["batched", *MODES])
def test_slots_share_the_moments_of_all_they_saw(mode: Any, per_task: bool) -> None:
    envs = VectorNormalizeObservation(vector_envs(mode), per_task=per_task)
    play_vector(envs, ACTIONS)
    raw = play_vector(vector_envs(mode), ACTIONS)
    assert sum(end != "" for one in raw for end in one.ends) >= 9
    assert_moments(envs.moments, by_group(raw, per_task))


@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("single", "vector"), PAIRS)
def test_a_vector_of_one_is_the_single_wrapper(
    single: Any, vector: Any, mode: Any, per_task: bool
) -> None:
    env = single(FAMILY.make("train"), per_task=per_task)
    envs = vector(
        SyncVectorEnv([lambda: FAMILY.make("train")], autoreset_mode=mode), per_task=per_task
    )
    expected, (ours,) = play(env, ACTIONS[:, 0]), play_vector(envs, ACTIONS[:, :1])
    assert "terminated" in expected.ends
    assert_array_equal(ours.observations, expected.observations)
    assert_array_equal(ours.rewards, expected.rewards)
    assert_bits_equal(envs.state_dict(), env.state_dict())


def test_rewards_are_in_units_of_the_deviation_of_the_return() -> None:
    discount = 0.9
    env = NormalizeReward(FAMILY.make("train"), discount=discount, clip=math.inf)
    scaled = play(env, ACTIONS[:, 0])
    raw = play(FAMILY.make("train"), ACTIONS[:, 0])
    returns = discounted(raw.rewards, raw.ends, discount)
    deviations = [
        math.sqrt((np.var(returns[: step + 1]) if step > 0 else 1.0) + 1e-8)
        for step in range(len(returns))
    ]
    assert_allclose(scaled.rewards, np.array(raw.rewards) / deviations, rtol=1e-9)
    assert env.moments.of("any")[0] == len(returns)


@pytest.mark.parametrize("mode", ["batched", MODES[0], MODES[2]])
def test_slots_share_the_moments_of_their_returns(mode: Any) -> None:
    envs = VectorNormalizeReward(vector_envs(mode), discount=0.9)
    play_vector(envs, ACTIONS)
    returns = []
    for slot, source in enumerate(SOURCES):
        raw = play(FAMILY.make(source), ACTIONS[:, slot], 7 + slot)
        returns += discounted(raw.rewards, raw.ends, 0.9)
    count, mean, variance = envs.moments.of("any")
    assert count == len(returns)
    assert_allclose(mean, np.mean(returns), rtol=ROUNDING)
    assert_allclose(variance, np.var(returns), rtol=ROUNDING)


def test_tasks_with_large_rewards_do_not_drown_the_others() -> None:
    noise = np.random.default_rng(2).normal(size=200)
    script = [
        Episode(task=TASKS[k % 2], observations=[(0, 0)] * 2, rewards=[r * (1.0, 1000.0)[k % 2]])
        for k, r in enumerate(noise)
    ]
    for per_task, small in [(True, (0.7, 1.4)), (False, (0.0, 0.01))]:
        env = NormalizeReward(ScriptedEnv(script), per_task=per_task)
        rewards = np.array(play(env, [0] * 199).rewards)
        assert small[0] < rewards[100::2].std() < small[1]
        assert 0.7 < rewards[101::2].std() < 1.5


@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize(("single", "vector"), PAIRS)
def test_frozen_statistics_do_not_change_by_one_bit(
    single: Any, vector: Any, per_task: bool
) -> None:
    env = single(FAMILY.make("train"), per_task=per_task)
    play(env, ACTIONS[:, 0])
    before = env.state_dict()
    env.frozen = True
    first = play(env, ACTIONS[:, 1], 11)
    assert_bits_equal(env.state_dict(), before)
    again = play(env, ACTIONS[:, 1], 11)
    assert_array_equal(again.observations, first.observations)
    assert_array_equal(again.rewards, first.rewards)
    envs = vector(vector_envs("batched"), per_task=per_task, frozen=True)
    envs.load_state_dict(*before)
    play_vector(envs, ACTIONS)
    assert_bits_equal(envs.state_dict(), before)
    env.frozen = False
    play(env, ACTIONS[:3, 1])
    assert not torch.equal(env.state_dict()[0]["count"], before[0]["count"])


def test_an_unmet_task_is_scaled_by_the_moments_of_all() -> None:
    env = NormalizeObservation(FAMILY.make("train"), per_task=True)
    pooled = NormalizeObservation(FAMILY.make("train"))
    for slot in range(2):
        play(env, ACTIONS[:, slot])
        play(pooled, ACTIONS[:, slot])
        for ours, theirs in zip(env.moments.of("unmet"), pooled.moments.of("all"), strict=True):
            assert_allclose(ours, theirs, rtol=ROUNDING)


def test_frozen_from_the_beginning_changes_nothing_within_the_clip() -> None:
    env = NormalizeObservation(FAMILY.make("train"), frozen=True, clip=1e3)
    raw = play(FAMILY.make("train"), ACTIONS[:, 0])
    # The variance is 1 + 1e-8, less than float32 can tell from 1.
    assert_array_equal(play(env, ACTIONS[:, 0]).observations, raw.observations)


@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize(("single", "vector"), PAIRS)
def test_a_checkpoint_goes_on_where_the_run_was(
    single: Any, vector: Any, per_task: bool, tmp_path: Any
) -> None:
    env = single(FAMILY.make("train"), per_task=per_task)
    play(env, ACTIONS[:, 0])
    CheckpointStore(tmp_path).save(1, *env.state_dict())
    saved = CheckpointStore(tmp_path).load()
    again = single(FAMILY.make("train"), per_task=per_task)
    again.load_state_dict(saved.tensors, saved.state)
    assert_bits_equal(again.state_dict(), env.state_dict())
    expected, ours = play(env, ACTIONS[:, 1]), play(again, ACTIONS[:, 1])
    assert_array_equal(ours.observations, expected.observations)
    assert_array_equal(ours.rewards, expected.rewards)
    assert_bits_equal(again.state_dict(), env.state_dict())
    tensors = env.state_dict()[0]
    assert all(not torch.equal(saved.tensors[name], tensors[name]) for name in ("mean", "count"))


def test_statistics_that_do_not_fit_are_refused() -> None:
    state = NormalizeObservation(FAMILY.make("train")).state_dict()
    with pytest.raises(UsageError, match="per_task=False, the wrapper per_task=True"):
        NormalizeObservation(FAMILY.make("train"), per_task=True).load_state_dict(*state)
    with pytest.raises(UsageError, match=r"of shape \(3,\), the environment's \(2,\)"):
        NormalizeObservation(ScriptedEnv([])).load_state_dict(*state)


def test_a_partial_reset_leaves_the_other_slots_alone() -> None:
    makers = [lambda task=task: FAMILY.make(task) for task in TASKS]
    envs = VectorNormalizeObservation(SyncVectorEnv(makers, autoreset_mode=MODES[2]), per_task=True)
    envs.reset(seed=0)
    envs.step(np.zeros(3, int))
    before, *_ = envs.step(np.ones(3, int))
    after, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert [envs.moments.of(task.id)[0] for task in TASKS] == [3, 4, 3]


def test_values_are_clipped_to_the_space() -> None:
    script = [Episode(observations=[(0, 0)] * 50 + [(1e6, -1e6)], rewards=[0.0] * 49 + [1e6])] * 2
    env = NormalizeObservation(NormalizeReward(ScriptedEnv(script), clip=2.0), clip=0.3)
    seen = play(env, [0] * 50)
    assert_array_equal(seen.observations[50], np.array([0.3, -0.3], np.float32))
    assert seen.observations[50] in env.observation_space
    assert env.observation_space == gym.spaces.Box(-0.3, 0.3, (2,), np.float32)
    assert seen.rewards[49] == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_not_finite_does_not_poison_the_statistics(bad: float, frozen: bool) -> None:
    good = Episode(task=TASKS[1], observations=[(0, 1), (2, 3)], rewards=[1.0])
    for broken, (single, vector), what in [
        (Episode(task=TASKS[2], observations=[(0, 1), (0, bad)], rewards=[1.0]), PAIRS[0], "obs"),
        (Episode(task=TASKS[2], observations=[(0, 1), (0, 1)], rewards=[bad]), PAIRS[1], "reward"),
    ]:
        env = single(ScriptedEnv([good, broken]))
        play(env, [0])
        env.frozen, before = frozen, env.state_dict()
        with pytest.raises(MtrlError, match=rf"task {TASKS[2].id}: the {what}.* is not finite"):
            env.step(0)
        assert_bits_equal(env.state_dict(), before)
        for mode in MODES:
            makers = [lambda: ScriptedEnv([good] * 3), lambda last=broken: ScriptedEnv([last] * 3)]
            envs = vector(SyncVectorEnv(makers, autoreset_mode=mode), frozen=frozen)
            envs.reset()
            before = envs.state_dict()
            with pytest.raises(MtrlError, match=rf"environment 1, task {TASKS[2].id}: the {what}"):
                envs.step(np.array([0, 0]))
            assert_bits_equal(envs.state_dict(), before)


def test_a_broken_first_observation_is_found_too() -> None:
    script = [Episode(task=TASKS[2], observations=[(math.nan, 0)], rewards=[])]
    with pytest.raises(MtrlError, match=f"task {TASKS[2].id}: the observation"):
        NormalizeObservation(ScriptedEnv(script)).reset()
    good = Episode(observations=[(0, 1), (2, 3)], rewards=[1.0])
    makers = [lambda: ScriptedEnv([good, *script])]
    envs = VectorNormalizeObservation(SyncVectorEnv(makers, autoreset_mode=MODES[0]))
    envs.reset()
    before = envs.state_dict()
    with pytest.raises(MtrlError, match=f"task {TASKS[2].id}: the observation"):
        envs.step(np.array([0]))
    assert_bits_equal(envs.state_dict(), before)


def test_bad_arguments_are_refused() -> None:
    env = FAMILY.make("train")
    with pytest.raises(UsageError, match="clip is 0"):
        NormalizeObservation(env, clip=0.0)
    with pytest.raises(UsageError, match="clip is -1"):
        VectorNormalizeReward(vector_envs("batched"), clip=-1.0)
    with pytest.raises(UsageError, match="discount is 1.5"):
        NormalizeReward(env, discount=1.5)
    with pytest.raises(UsageError, match="only a Box can be normalised"):
        NormalizeObservation(gym.make("FrozenLake-v1"))
    stock = NormalizeObservation(gym.make("CartPole-v1"), per_task=True)
    with pytest.raises(UsageError, match="use per_task=False"):
        stock.reset(seed=0)
    NormalizeObservation(gym.make("CartPole-v1")).reset(seed=0)
