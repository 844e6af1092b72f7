"""Facts about all wrappers: their specifications, spaces and composition."""

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from numpy.testing import assert_array_equal
from scripted_env import play
from stable_baselines3.common.vec_env import DummyVecEnv

from mtrl.envs.cartpole import CartPole
from mtrl.envs.wrappers import (
    NormalizeObservation,
    NormalizeReward,
    TaskContext,
    TaskStatistics,
    Trial,
)

TASKS = CartPole().sample(4, np.random.default_rng(0), "train")
Wrap = Callable[[Any], Any]
WRAPPERS: dict[str, Wrap] = {
    "context": lambda env: TaskContext(env),
    "context-dict": lambda env: TaskContext(env, layout="dict"),
    "context-none": lambda env: TaskContext(env, mode="none"),
    "statistics": lambda env: TaskStatistics(env, window=5),
    "observation": lambda env: NormalizeObservation(env, clip=5.0),
    "observation-per-task": lambda env: NormalizeObservation(env, per_task=True),
    "reward": lambda env: NormalizeReward(env, discount=0.9, per_task=True, clip=3.0),
    "trial": lambda env: Trial(env, episodes=2),
    "trial-dict": lambda env: Trial(env, episodes=3, layout="dict"),
    "stack": lambda env: Trial(
        TaskContext(NormalizeReward(NormalizeObservation(TaskStatistics(env)))), episodes=2
    ),
}
every_wrapper = pytest.mark.parametrize("name", WRAPPERS)
# What the checker says of any wrapper, and of unbounded observations, which are meant.
of_a_wrapper = pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
of_no_bounds = pytest.mark.filterwarnings("ignore:.*infinity")


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare two lists of observations of any kind, bit by bit."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            assert_same(list(one.values()), list(other.values()))
        else:
            assert_array_equal(one, other)


@of_a_wrapper
@of_no_bounds
@every_wrapper
def test_the_checker_passes(name: str) -> None:
    check_env(WRAPPERS[name](gym.make("mtrl/CartPole-v0").unwrapped), skip_render_check=True)


@of_a_wrapper
@of_no_bounds
@pytest.mark.parametrize("name", [name for name in WRAPPERS if "observation" in name])
def test_the_checker_finds_frozen_statistics_deterministic(name: str) -> None:
    # Without a specification the checker compares the steps of two resets with the same seed.
    env = WRAPPERS[name](CartPole().make("train"))
    play(env, [0, 1] * 20)
    env.frozen = True
    check_env(env, skip_render_check=True)


@of_a_wrapper
@of_no_bounds
def test_the_checker_passes_for_a_one_hot_context() -> None:
    env = TaskContext(CartPole().make(TASKS[1]), mode="one-hot", tasks=TASKS)
    check_env(env, skip_render_check=True)


@every_wrapper
def test_observations_are_in_the_space(name: str) -> None:
    env = WRAPPERS[name](CartPole().make("train"))
    seen = play(env, [1] * 60)
    assert all(observation in env.observation_space for observation in seen.observations)


@every_wrapper
def test_the_specification_rebuilds_the_wrapper(name: str) -> None:
    env = WRAPPERS[name](gym.make("mtrl/CartPole-v0", task="test"))
    text = env.spec.to_json()
    for spec in (env.spec, EnvSpec.from_json(text)):
        again = gym.make(spec)
        assert type(again) is type(env)
        assert again.spec.to_json() == text
        assert again.observation_space == env.observation_space
        again_seen = play(again, [1] * 60)
        seen = play(WRAPPERS[name](gym.make("mtrl/CartPole-v0", task="test")), [1] * 60)
        assert_same(again_seen.observations, seen.observations)
        assert again_seen.rewards == seen.rewards
        assert again_seen.ends == seen.ends
        assert again_seen.task_ids == seen.task_ids
        assert any(seen.ends)


def test_the_specification_holds_the_tasks_of_a_one_hot_context() -> None:
    env = TaskContext(gym.make("mtrl/CartPole-v0"), mode="one-hot", tasks=TASKS)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    for place, task in enumerate(TASKS):
        for one in (env, again):
            assert_array_equal(one.reset(options={"task": task})[0][4:], np.eye(4)[place])


def test_a_time_limit_belongs_under_the_wrappers() -> None:
    env = Trial(gym.make("mtrl/CartPole-v0", max_episode_steps=3), episodes=2)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert play(env, [0] * 6).ends == play(again, [0] * 6).ends == [""] * 5 + ["terminated"]
    outside = TimeLimit(TaskStatistics(gym.make("mtrl/CartPole-v0")), 3)
    assert play(outside, [0] * 3).ends == ["", "", "truncated"]


def test_only_running_statistics_make_an_environment_nondeterministic() -> None:
    for name, wrap in WRAPPERS.items():
        inner = gym.make("mtrl/CartPole-v0")
        running = name.startswith(("observation", "reward", "stack"))
        assert wrap(inner).spec.nondeterministic == running, name
        assert not inner.spec.nondeterministic
    assert not gym.spec("mtrl/CartPole-v0").nondeterministic


@every_wrapper
def test_a_copy_goes_its_own_way(name: str) -> None:
    env = WRAPPERS[name](CartPole().make("train"))
    play(env, [0])
    twin = copy.deepcopy(env)
    ours = [env.step(action) for action in (1, 0, 1)]
    theirs = [twin.step(action) for action in (1, 0, 1)]
    assert_same([step[0] for step in ours], [step[0] for step in theirs])
    assert [step[1] for step in ours] == [step[1] for step in theirs]


def test_stable_baselines_takes_wrapped_environments() -> None:
    envs = DummyVecEnv([lambda: WRAPPERS["stack"](CartPole().make("train"))] * 2)
    envs.seed(0)
    context = len(CartPole().context(TASKS[0]))
    assert envs.reset().shape == (2, 4 + context + 2 + 1 + 1)
    infos = [info for _ in range(60) for info in envs.step(np.array([1, 1]))[3]]
    last = [info["terminal_observation"] for info in infos if "terminal_observation" in info]
    assert len(last) > 3
    assert all(observation in envs.observation_space for observation in last)
    counted = [
        task.episodes
        for env in envs.envs
        for task in env.get_wrapper_attr("table").summaries().values()
    ]
    assert max(counted) == 2  # two episodes of each task, but of the one that goes on
    assert sum(counted) == sum("episode" in info for info in infos)
