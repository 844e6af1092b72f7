"""Facts about trials: several episodes of one task, with the previous step in view."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from numpy.testing import assert_array_equal
from scripted_env import FAMILY, SOURCES, TASKS, Episode, ScriptedEnv, play, play_vector

from mtrl.envs.bandit import Bandit
from mtrl.envs.cartpole import CartPole
from mtrl.envs.wrappers import NormalizeReward, TaskContext, TaskStatistics, Trial
from mtrl.errors import UsageError

A, B = TASKS[0], TASKS[1]
SCRIPT = [
    Episode(task=A, observations=[(1, 2), (3, 4), (5, 6)], rewards=[0.5, -1.5]),
    Episode(task=B, observations=[(7, 8), (9, 10)], rewards=[2.0], truncated=True),
    Episode(task=B, observations=[(11, 12), (13, 14)], rewards=[4.0]),
]


def test_a_trial_is_written_out() -> None:
    env = Trial(ScriptedEnv(SCRIPT), episodes=2)
    #     observation, one-hot previous action, previous reward, previous done
    observation, info = env.reset()
    assert_array_equal(observation, [1, 2, 0, 0, 0, 0, 0])
    assert info == {
        "task_id": A.id,
        "greeting": "hello",
        "trial_episode": 0,
        "episode_terminated": False,
        "episode_truncated": False,
    }
    observation, reward, terminated, truncated, info = env.step(2)
    assert_array_equal(observation, [3, 4, 0, 0, 1, 0.5, 0])
    assert (reward, terminated, truncated) == (0.5, False, False)
    assert info["trial_episode"] == 0

    # The first episode ends by termination: what is seen is the beginning of the second.
    observation, reward, terminated, truncated, info = env.step(0)
    assert_array_equal(observation, [7, 8, 1, 0, 0, -1.5, 1])
    assert (reward, terminated, truncated) == (-1.5, False, False)
    assert_array_equal(info.pop("episode_last_observation"), [5, 6])
    assert info == {
        "task_id": A.id,
        "greeting": "hello",
        "trial_episode": 0,
        "episode_terminated": True,
        "episode_truncated": False,
    }

    # The second ends by truncation, and the trial with it, for good.
    observation, reward, terminated, truncated, info = env.step(1)
    assert_array_equal(observation, [9, 10, 0, 1, 0, 2.0, 1])
    assert (reward, terminated, truncated) == (2.0, True, False)
    assert (info["episode_terminated"], info["episode_truncated"]) == (False, True)
    assert info["trial_episode"] == 1
    assert_array_equal(info["episode_last_observation"], [9, 10])

    # The next trial has the task that is next in the source, and knows nothing of the last.
    observation, info = env.reset()
    assert_array_equal(observation, [11, 12, 0, 0, 0, 0, 0])
    assert (info["task_id"], info["trial_episode"]) == (B.id, 0)


def test_as_a_dictionary() -> None:
    env = Trial(ScriptedEnv(SCRIPT), episodes=2, layout="dict")
    observation, _ = env.reset()
    assert observation.keys() == env.observation_space.keys()
    env.step(2)
    observation, *_ = env.step(0)
    assert_array_equal(observation["observation"], [7, 8])
    assert_array_equal(observation["previous_action"], [1, 0, 0])
    assert_array_equal(observation["previous_reward"], [-1.5])
    assert_array_equal(observation["previous_done"], [1])
    assert observation in env.observation_space


def test_a_trial_of_one_task_draws_the_next_at_its_end() -> None:
    bare, env = FAMILY.make("train"), Trial(FAMILY.make("train"), episodes=3)
    actions = np.random.default_rng(0).integers(-1, 2, 200)
    tasks = [bare.reset(seed=5)[1]["task_id"]] + [bare.reset()[1]["task_id"] for _ in range(3)]
    assert len(set(tasks)) == 4
    _, info = env.reset(seed=5)
    of_steps, of_trials, steps = [info["task_id"]], [info["task_id"]], iter(actions)
    while len(of_trials) < 4:
        _, _, terminated, truncated, info = env.step(next(steps))
        assert not truncated
        of_steps.append(info["task_id"])
        if terminated:
            assert set(of_steps) == {of_trials[-1]}
            assert info["trial_episode"] == 2
            _, info = env.reset()
            of_trials.append(info["task_id"])
            of_steps = [info["task_id"]]
    assert of_trials == tasks


def test_the_episodes_are_those_of_the_environment_with_that_task() -> None:
    actions = np.random.default_rng(0).integers(-1, 2, 30)
    bare, env = FAMILY.make(A), Trial(FAMILY.make("train"), episodes=100)
    expected, _ = bare.reset(seed=5)
    observation, info = env.reset(seed=5, options={"task": A})
    assert info["task_id"] == A.id
    for action in actions:
        assert_array_equal(observation[:3], expected)
        expected, reward, terminated, truncated, _ = bare.step(action)
        observation, trial_reward, over, _, info = env.step(action)
        assert trial_reward == reward
        assert info["task_id"] == A.id
        assert not over
        assert (info["episode_terminated"], info["episode_truncated"]) == (terminated, truncated)
        if terminated or truncated:
            assert_array_equal(info["episode_last_observation"], expected)
            expected, _ = bare.reset()


def test_a_bandit_pull_by_pull() -> None:
    env = Trial(Bandit(arms=2, horizon=1).make("train"), episodes=10)
    observation, _ = env.reset(seed=0)
    assert_array_equal(observation, np.zeros(5))
    for pull in range(10):
        observation, reward, terminated, _, _ = env.step(pull % 2)
        assert_array_equal(observation[1:3], np.eye(2)[pull % 2])
        assert observation[3] == reward
        assert observation[4] == 1.0
        assert terminated == (pull == 9)


def test_continuous_actions_are_shown_within_their_bounds() -> None:
    space = gym.spaces.Box(np.float32([0.5, -1.0]), np.float32([2.0, 1.0]))
    env = Trial(ScriptedEnv(SCRIPT, space), episodes=2)
    # Zeros stand for no action, so that the first bound is widened to hold them.
    assert_array_equal(env.observation_space.low[2:4], [0.0, -1.0])
    assert_array_equal(env.observation_space.high[2:4], [2.0, 1.0])
    assert_array_equal(env.reset()[0][2:4], [0.0, 0.0])
    observation = env.step(np.array([1.25, -7.0]))[0]
    assert_array_equal(observation[2:4], [1.25, -1.0])
    assert observation in env.observation_space


def test_discrete_actions_may_start_anywhere() -> None:
    env = Trial(FAMILY.make("train"), episodes=2)
    env.reset(seed=0)
    for action in (-1, 0, 1):
        observation = env.step(np.int64(action))[0]
        assert_array_equal(observation[3:6], np.eye(3)[action + 1])


def test_an_inner_time_limit_truncates_an_episode_but_not_the_trial() -> None:
    env = Trial(TimeLimit(CartPole().make("train"), 3), episodes=2)
    env.reset(seed=0)
    flags = []
    for _ in range(6):
        _, _, terminated, truncated, info = env.step(0)
        marks = (info["episode_terminated"], info["episode_truncated"])
        flags.append((info["trial_episode"], *marks, terminated, truncated))
    no, yes = False, True
    assert flags == [
        (0, no, no, no, no),
        (0, no, no, no, no),
        (0, no, yes, no, no),
        (1, no, no, no, no),
        (1, no, no, no, no),
        (1, no, yes, yes, no),
    ]


def test_an_outer_time_limit_truncates_the_trial() -> None:
    env = TimeLimit(Trial(CartPole().make("train"), episodes=2), 3)
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]


def test_statistics_inside_count_episodes_and_outside_trials() -> None:
    env = TaskStatistics(Trial(TaskStatistics(ScriptedEnv(SCRIPT)), episodes=2))
    with pytest.raises(AssertionError):  # Gymnasium refuses two of them under one name
        play(env, [0, 0, 0])
    inner = TaskStatistics(ScriptedEnv(SCRIPT))
    play(Trial(inner, episodes=2), [0, 0, 0])
    assert inner.table.summaries()[A.id].episodes == 2
    outer = TaskStatistics(Trial(ScriptedEnv(SCRIPT), episodes=2))
    play(outer, [0, 0, 0])
    assert outer.table.summaries()[A.id].mean_return == 1.0


def test_wrappers_inside_decide_what_the_trial_shows() -> None:
    env = Trial(TaskContext(NormalizeReward(ScriptedEnv(SCRIPT), clip=0.25)), episodes=2)
    env.reset()
    observation = env.step(1)[0]
    assert_array_equal(observation[:2], [3, 4])
    assert_array_equal(observation[2:-5], FAMILY.context(A))
    assert_array_equal(observation[-5:], [0, 1, 0, 0.25, 0])


def test_a_vector_of_trials_equals_single_trials() -> None:
    makers = [lambda source=source: Trial(FAMILY.make(source), episodes=2) for source in SOURCES]
    actions = np.random.default_rng(1).integers(-1, 2, (60, 3))
    envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    seen = play_vector(envs, actions)
    for slot, maker in enumerate(makers):
        single = play(maker(), actions[:, slot], 7 + slot)
        assert single.ends.count("terminated") >= 2
        assert_array_equal(seen[slot].observations, single.observations)
        assert seen[slot].ends == single.ends
        assert seen[slot].task_ids == single.task_ids


def test_a_trial_that_is_over_must_be_reset() -> None:
    env = Trial(Bandit(horizon=1).make("train"), episodes=1)
    env.reset(seed=0)
    assert env.step(0)[2]
    with pytest.raises(UsageError, match="the episode is over"):
        env.step(0)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="episodes is 0"):
        Trial(FAMILY.make("train"), episodes=0)
    for env, problem in [
        (TaskContext(FAMILY.make("train"), layout="dict"), "use layout='dict'"),
        (ScriptedEnv([], gym.spaces.Sequence(gym.spaces.Discrete(2))), "no vectors of one size"),
    ]:
        with pytest.raises(UsageError, match=problem):
            Trial(env, episodes=2)


def test_rewards_beyond_single_precision_are_infinite_to_the_agent() -> None:
    script = [Episode(task=A, observations=[(0, 0)] * 3, rewards=[1e300, 1.0])]
    env: Any = Trial(ScriptedEnv(script), episodes=1)
    env.reset()
    observation, reward, *_ = env.step(0)
    assert reward == 1e300
    assert observation[-2] == np.inf
    assert observation in env.observation_space
