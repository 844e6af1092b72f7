"""Facts about the task in the observation."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv
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

from mtrl.envs.task import Task
from mtrl.envs.wrappers import TaskContext, VectorTaskContext
from mtrl.errors import UsageError


def test_parameters_follow_the_observation_and_the_task() -> None:
    env = TaskContext(FAMILY.make(TASKS[0]))
    bare = FAMILY.make(TASKS[0])
    for task in (None, TASKS[1], None):
        options = {"task": task}
        observation, _ = env.reset(seed=3, options=options)
        expected, _ = bare.reset(seed=3, options=options)
        context = FAMILY.context(task or TASKS[0])
        for _ in range(3):
            assert observation.dtype == np.float32
            assert_array_equal(observation, np.concatenate([expected, context]))
            observation, *_ = env.step(1)
            expected, *_ = bare.step(1)


def test_one_hot_is_the_place_of_the_task_in_the_list() -> None:
    env = TaskContext(FAMILY.make("train"), mode="one-hot", tasks=TASKS, layout="dict")
    for place, task in enumerate(TASKS):
        observation, _ = env.reset(options={"task": task})
        assert_array_equal(observation["context"], np.eye(3, dtype=np.float32)[place])
        assert_array_equal(env.step(0)[0]["context"], np.eye(3)[place])


def test_the_split_of_a_task_plays_no_part_in_its_place() -> None:
    twin = Task(family=TASKS[1].family, params=TASKS[1].params, split="test")
    env = TaskContext(FAMILY.make(twin), mode="one-hot", tasks=TASKS)
    assert_array_equal(env.reset()[0][3:], [0, 1, 0])


def test_an_unknown_task_is_named() -> None:
    env = TaskContext(FAMILY.make("train"), mode="one-hot", tasks=TASKS[:2])
    with pytest.raises(UsageError, match=rf"task {TASKS[2].id} of family 'noisy-walk'.*add it"):
        env.reset(options={"task": TASKS[2]})


def test_without_context_the_observation_is_what_it_was() -> None:
    actions = random_actions(20)[:, 0]
    plain = play(FAMILY.make("train"), actions)
    env = TaskContext(FAMILY.make("train"), mode="none")
    assert env.observation_space == FAMILY.observation_space
    assert_array_equal(play(env, actions).observations, plain.observations)
    env = TaskContext(FAMILY.make("train"), mode="none", layout="dict")
    seen = play(env, actions).observations
    assert [list(one) for one in seen] == [["observation"]] * len(seen)
    assert_array_equal([one["observation"] for one in seen], plain.observations)


def test_spaces_are_exact() -> None:
    space = TaskContext(FAMILY.make("train"), mode="one-hot", tasks=TASKS).observation_space
    assert_array_equal(space.low, [-1e3] * 3 + [0.0] * 3)
    assert_array_equal(space.high, [1e3] * 3 + [1.0] * 3)
    space = TaskContext(FAMILY.make("train"), layout="dict").observation_space
    assert space["observation"] == FAMILY.observation_space
    assert space["context"].shape == FAMILY.context(TASKS[0]).shape
    assert not space["context"].is_bounded("both")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"mode": "some"}, "mode is 'some'"),
        ({"layout": "some"}, "layout is 'some'"),
        ({"mode": "one-hot"}, "'one-hot' needs tasks"),
        ({"mode": "parameters", "tasks": TASKS}, "mode is 'parameters' with 3 tasks"),
        ({"mode": "one-hot", "tasks": [TASKS[0]] * 2}, "the same task twice"),
    ],
)
def test_contradictions_are_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        TaskContext(FAMILY.make("train"), **arguments)
    with pytest.raises(UsageError, match=problem):
        VectorTaskContext(vector_envs("batched"), **arguments)


def test_what_has_no_family_or_no_box_is_refused() -> None:
    env = ScriptedEnv([Episode(observations=[(0, 0)], rewards=[])])
    del env.family
    with pytest.raises(UsageError, match="has no 'family'"):
        TaskContext(env)
    with pytest.raises(UsageError, match="use layout='dict'"):
        TaskContext(TaskContext(FAMILY.make("train"), layout="dict"))


@pytest.mark.parametrize("layout", ["append", "dict"])
@pytest.mark.parametrize("mode", ["batched", *MODES])
def test_the_vector_version_equals_the_single_one(mode: Any, layout: Any) -> None:
    actions = random_actions(40)
    seen = play_vector(VectorTaskContext(vector_envs(mode), layout=layout), actions)
    for slot, source in enumerate(SOURCES):
        single = play(TaskContext(FAMILY.make(source), layout=layout), actions[:, slot], 7 + slot)
        assert sum(end != "" for end in single.ends) >= 3
        count = len(single.observations)
        for ours, theirs in zip(seen[slot].observations[:count], single.observations, strict=True):
            if layout == "append":
                assert_array_equal(ours, theirs)
            else:
                assert_array_equal(ours["observation"], theirs["observation"])
                assert_array_equal(ours["context"], theirs["context"])


def test_vector_spaces_hold_the_observations() -> None:
    for layout in ("append", "dict"):
        envs = VectorTaskContext(vector_envs("batched"), layout=layout)
        observations, _ = envs.reset(seed=0)
        assert observations in envs.observation_space
        assert envs.step(np.zeros(3, int))[0] in envs.observation_space
    envs = VectorTaskContext(vector_envs("batched"), mode="none")
    assert envs.observation_space == vector_envs("batched").observation_space
    assert_array_equal(envs.reset(seed=0)[0], vector_envs("batched").reset(seed=0)[0])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_are_asked_for_their_tasks() -> None:
    envs = AsyncVectorEnv([lambda: FAMILY.make("train")] * 2, context="fork")
    try:
        wrapped = VectorTaskContext(envs)
        observations, _ = wrapped.reset(seed=0)
        for slot in range(2):
            expected = TaskContext(FAMILY.make("train")).reset(seed=slot)[0]
            assert_array_equal(observations[slot], expected)
    finally:
        envs.close()
