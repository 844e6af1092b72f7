"""Facts about episode statistics by task."""

import json
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from numpy.testing import assert_array_equal
from scripted_env import (
    FAMILY,
    MODES,
    SOURCES,
    TASKS,
    Episode,
    ScriptedEnv,
    play,
    play_vector,
    random_actions,
    vector_envs,
)

from mtrl.checkpoint import CheckpointStore
from mtrl.envs.wrappers import EpisodeTable, TaskStatistics, TaskSummary, VectorTaskStatistics
from mtrl.errors import UsageError

A, B = TASKS[0], TASKS[1]


def episode(task: Any, *rewards: float, successes: Any = None, truncated: bool = False) -> Episode:
    observations = [(step, 0) for step in range(len(rewards) + 1)]
    return Episode(
        task=task,
        observations=observations,
        rewards=rewards,
        successes=successes,
        truncated=truncated,
    )


SCRIPT = [
    episode(A, 1.0, 2.0, successes=[False, False]),
    episode(B, 10.0),
    episode(A, 4.0, 5.0, 6.0, successes=[True, False, False], truncated=True),
    episode(A, -1.0, successes=[True]),
    episode(B, 0.0, 0.0),
    episode(A, 0.0),
]
STEPS = sum(len(one.rewards) for one in SCRIPT[:-1])
EXPECTED = {
    A.id: TaskSummary(
        episodes=3,
        mean_return=(3.0 + 15.0 - 1.0) / 3,
        mean_length=2.0,
        success_rate=2 / 3,
        recent_return=7.0,
        recent_length=2.0,
        recent_success_rate=1.0,
    ),
    B.id: TaskSummary(
        episodes=2,
        mean_return=5.0,
        mean_length=1.5,
        success_rate=None,
        recent_return=5.0,
        recent_length=1.5,
        recent_success_rate=None,
    ),
}


def test_the_table_is_what_one_computes_by_hand() -> None:
    env = TaskStatistics(ScriptedEnv(SCRIPT), window=2)
    seen = play(env, [0] * STEPS)
    assert env.table.summaries() == EXPECTED
    times = [one.pop("t") for one in seen.episodes]
    assert all(time >= 0 for time in times)
    assert seen.episodes == [
        {"r": 3.0, "l": 2, "task_id": A.id, "success": False},
        {"r": 10.0, "l": 1, "task_id": B.id},
        {"r": 15.0, "l": 3, "task_id": A.id, "success": True},
        {"r": -1.0, "l": 1, "task_id": A.id, "success": True},
        {"r": 0.0, "l": 2, "task_id": B.id},
    ]


@pytest.mark.parametrize("mode", MODES)
def test_so_is_that_of_a_vector_environment(mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([lambda: ScriptedEnv(SCRIPT)], autoreset_mode=mode)
    wrapped = VectorTaskStatistics(envs, window=2)
    (seen,) = play_vector(wrapped, [[0]] * STEPS)
    assert wrapped.table.summaries() == EXPECTED
    assert [one["r"] for one in seen.episodes] == [3.0, 10.0, 15.0, -1.0, 0.0]
    assert [one["l"] for one in seen.episodes] == [2, 1, 3, 1, 2]
    assert [one.get("success") for one in seen.episodes] == [False, None, True, True, None]


def test_an_abandoned_episode_does_not_count() -> None:
    env = TaskStatistics(ScriptedEnv([episode(A, 5.0, 5.0, successes=[True, True]), *SCRIPT]))
    env.reset()
    env.step(0)
    play(env, [0] * 2)
    assert env.table.summaries()[A.id].mean_return == 3.0
    assert env.table.summaries()[A.id].success_rate == 0.0


@pytest.mark.parametrize("mode", ["batched", *MODES])
def test_vector_equals_single(mode: Any) -> None:
    actions = random_actions(40)
    seen = play_vector(VectorTaskStatistics(vector_envs(mode)), actions)
    for slot, source in enumerate(SOURCES):
        single = play(TaskStatistics(FAMILY.make(source)), actions[:, slot], 7 + slot)
        assert len(single.episodes) >= 3
        for ours, theirs in zip(seen[slot].episodes, single.episodes, strict=False):
            assert {**ours, "t": 0} == {**theirs, "t": 0}


def test_the_format_is_gymnasiums() -> None:
    actions = random_actions(40)[:, 0]
    ours = play(TaskStatistics(FAMILY.make("train")), actions).episodes
    theirs = play(RecordEpisodeStatistics(FAMILY.make("train")), actions).episodes
    assert [{"r": one["r"], "l": one["l"]} for one in ours] == [
        {"r": one["r"], "l": one["l"]} for one in theirs
    ]
    envs = VectorTaskStatistics(vector_envs("batched"))
    reference = gym.wrappers.vector.RecordEpisodeStatistics(vector_envs(AutoresetMode.SAME_STEP))
    envs.reset(seed=7)
    reference.reset(seed=7)
    ended = 0
    for row in random_actions(40):
        info, expected = envs.step(row)[4], reference.step(row)[4]
        assert ("episode" in info) == ("episode" in expected)
        if "episode" in info:
            ended += 1
            assert_array_equal(info["_episode"], expected["_episode"])
            assert_array_equal(info["episode"]["r"], expected["episode"]["r"])
            assert_array_equal(info["episode"]["l"], expected["episode"]["l"])
            assert set(info["episode"]) == {"r", "l", "t", "task_id"}
    assert ended > 3


def test_a_time_limit_ends_an_episode_by_truncation() -> None:
    env = TaskStatistics(TimeLimit(ScriptedEnv([episode(A, *[1.0] * 9)] * 3), 2))
    seen = play(env, [0] * 4)
    assert seen.ends == ["", "truncated", "", "truncated"]
    assert env.table.summaries()[A.id].mean_length == 2.0


def test_the_table_survives_a_checkpoint(tmp_path: Any) -> None:
    env = TaskStatistics(ScriptedEnv([*SCRIPT, *SCRIPT]), window=2)
    play(env, [0] * STEPS)
    tensors, values = env.state_dict()
    CheckpointStore(tmp_path).save(1, tensors, values)
    saved = CheckpointStore(tmp_path).load()
    envs = VectorTaskStatistics(vector_envs("batched"), window=2)
    envs.load_state_dict(saved.tensors, saved.state)
    assert envs.table.summaries() == EXPECTED
    assert json.loads(json.dumps(envs.state_dict()[1])) == json.loads(json.dumps(values))
    for table in (env.table, envs.table):
        table.add(A.id, 0.125, 4, False)
    assert envs.table.summaries() == env.table.summaries()


def test_a_table_that_was_saved_does_not_change_with_the_run() -> None:
    table = EpisodeTable(window=2)
    table.add("a", 1.0, 1)
    _, values = table.state_dict()
    table.add("a", 2.0, 1)
    assert values["tasks"]["a"]["episodes"] == 1
    assert values["tasks"]["a"]["recent"] == [[1.0, 1, None]]


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(UsageError, match="window is 0"):
        EpisodeTable(window=0)
    env = TaskStatistics(gym.make("CartPole-v1", max_episode_steps=1))
    env.reset(seed=0)
    with pytest.raises(UsageError, match="no 'task_id'"):
        env.step(0)
