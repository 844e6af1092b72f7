"""Environments of several tasks against Gymnasium's wrappers and those of Stable-Baselines3."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from counting_family import Counting, Stubborn, task
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from mtrl.agents.multitask.env import MultiTaskVecEnv, TaskFailedWarning, find_multi_task_env
from mtrl.agents.multitask.statistics import RewardScaling, TaskStatistics
from mtrl.envs.registry import get_family
from mtrl.envs.sb3_env import BatchedVecEnv
from mtrl.envs.task import Task
from mtrl.envs.wrappers import TaskContext
from mtrl.errors import MtrlError, UsageError

FAMILY = Counting()
A, B, C = task(1.0, lasts=3), task(-2.0), task(10.0, lasts=2)
ONES = np.ones(4, np.int64)


def made(tasks: Sequence[Task], slots: int = 4, **settings: Any) -> MultiTaskVecEnv:
    return MultiTaskVecEnv(FAMILY.make_sb3([tasks[0]] * slots, seed=0), tasks, **settings)


def stubborn(*envs: Stubborn) -> DummyVecEnv:
    return DummyVecEnv([lambda env=env: env for env in envs])


# Observations


def pendulums(number: int) -> tuple[Any, list[Task]]:
    family = get_family("pendulum")
    return family, family.sample(number, np.random.default_rng(0), "train")  # type: ignore[union-attr]


def test_observations_are_those_of_task_context_on_the_gymnasium_environments() -> None:
    family, tasks = pendulums(3)
    told = DummyVecEnv(
        [
            lambda i=i: TaskContext(family.make(tasks[i % 3]), mode="one-hot", tasks=tasks)
            for i in range(4)
        ]
    )
    env = MultiTaskVecEnv(family.make_sb3([tasks[0]] * 4), tasks)
    assert env.observation_space == told.observation_space
    for one in (env, told):
        one.seed(7)
    assert_array_equal(env.reset(), told.reset())
    rng = np.random.default_rng(1)
    for _ in range(family.horizon + 3):
        actions = rng.uniform(-2, 2, (4, 1)).astype(np.float32)
        for ours, theirs in zip(env.step(actions)[:3], told.step(actions)[:3], strict=True):
            assert_array_equal(ours, theirs)


def test_the_last_observation_has_the_context_of_the_episode_that_ended() -> None:
    env = made([A, B])
    env.reset()
    env.env_method("set_task_source", B, indices=[0])
    for _ in range(3):
        obs, _, dones, infos = env.step(ONES)
    assert_array_equal(dones, [True, False, True, False])
    assert_array_equal(infos[0]["terminal_observation"][-2:], [1, 0])
    assert_array_equal(obs[:, -2:], np.eye(2)[[1, 1, 0, 1]])
    assert_array_equal(env.slot_tasks, [1, 1, 0, 1])


def test_slots_take_turns_in_playing_the_tasks() -> None:
    env = made([A, B, C], slots=7)
    env.reset()
    assert_array_equal(env.slot_tasks, np.arange(7) % 3)
    assert [played.id for played in env.get_attr("task")] == [env.tasks[i % 3].id for i in range(7)]


def test_sources_of_the_environments_may_decide_who_plays_what() -> None:
    env = MultiTaskVecEnv(FAMILY.make_sb3([B, B], seed=0), [A, B, C], assign=False)
    env.reset()
    assert_array_equal(env.slot_tasks, [1, 1])


# Statistics


def test_episodes_and_statistics_are_those_of_monitors() -> None:
    family = get_family("cartpole", "wide")
    tasks = family.sample(3, np.random.default_rng(0), "train")  # type: ignore[union-attr]
    env = MultiTaskVecEnv(family.make_sb3(tasks * 2), tasks)  # type: ignore[union-attr]
    monitors = [Monitor(family.make(tasks[i % 3])) for i in range(6)]  # type: ignore[union-attr]
    monitored = DummyVecEnv([lambda one=one: one for one in monitors])
    for one in (env, monitored):
        one.seed(3)
        one.reset()
    rng = np.random.default_rng(1)
    for _ in range(200):
        actions = rng.integers(0, 2, 6)
        ours, theirs = env.step(actions)[3], monitored.step(actions)[3]
        for mine, other in zip(ours, theirs, strict=True):
            assert ("episode" in mine) == ("episode" in other)
            if "episode" in other:
                assert mine["episode"]["r"] == pytest.approx(other["episode"]["r"], rel=1e-6)
                assert mine["episode"]["l"] == other["episode"]["l"]
    for place in range(3):
        returns = [r for one in monitors[place::3] for r in one.get_episode_rewards()]
        lengths = [length for one in monitors[place::3] for length in one.get_episode_lengths()]
        assert env.statistics.episodes()[place] == len(returns) > 1
        assert_allclose(env.statistics.mean_returns()[place], np.mean(returns))
        assert_allclose(env.statistics.mean_lengths()[place], np.mean(lengths))


def test_successes_are_counted_per_task() -> None:
    env = MultiTaskVecEnv(stubborn(Stubborn(A), Stubborn(B)), [A, B])
    env.reset()
    for actions in [(0, 1)] * 3 + [(1, 1)] * 3:
        env.step(np.array(actions))
    assert_array_equal(env.statistics.success_rates(), [0.5, 1.0])
    assert_array_equal(env.statistics.mean_lengths(), [3, 3])


def test_returns_of_a_rollout_are_means_and_stay_where_no_episode_ended() -> None:
    statistics = TaskStatistics(["a", "b", "c"], window=2)
    for total in (1.0, 3.0, 8.0):
        statistics.add(0, total, 1)
    statistics.add(1, 5.0, 2, True)
    assert_array_equal(statistics.rollout_returns(), [4.0, 5.0, np.nan])
    assert_array_equal(statistics.mean_returns(), [5.5, 5.0, np.nan])
    assert_array_equal(statistics.success_rates(), [np.nan, 1.0, np.nan])
    statistics.begin_rollout()
    statistics.add(0, 7.0, 1)
    assert_array_equal(statistics.rollout_returns(), [7.0, 5.0, np.nan])
    assert_array_equal(statistics.rollout_episodes(), [1, 0, 0])
    assert_array_equal(statistics.episodes(), [4, 1, 0])


# The scale of rewards


def steps(env: Any, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rewards and the original ones of random actions."""
    rng = np.random.default_rng(2)
    env.reset()
    found = []
    for _ in range(number):
        reward = env.step(rng.integers(0, 2, env.num_envs))[1]
        found.append((reward, env.get_original_reward()))
    scaled, original = (np.array(column) for column in zip(*found, strict=True))
    return scaled, original


def test_one_tasks_rewards_are_scaled_as_by_vec_normalize() -> None:
    ours = made([C], scaling=RewardScaling(discount=0.9))
    theirs = VecNormalize(FAMILY.make_sb3([C] * 4, seed=0), norm_obs=False, gamma=0.9)
    for a, b in zip(steps(ours, 9), steps(theirs, 9), strict=True):
        assert_allclose(a, b, rtol=1e-6)


def test_each_task_has_a_scale_of_its_own() -> None:
    together = made([A, C], scaling=RewardScaling())
    alone = [
        MultiTaskVecEnv(FAMILY.make_sb3([one] * 2), [one], scaling=RewardScaling())
        for one in (A, C)
    ]
    rng = np.random.default_rng(2)
    for one in (together, *alone):
        one.reset()
    for _ in range(9):
        actions = rng.integers(0, 2, 4)
        expected = [one.step(actions[place::2])[1] for place, one in enumerate(alone)]
        assert_allclose(together.step(actions)[1].reshape(2, 2).T, expected, rtol=1e-6)
    # Ten times the reward is no more than ten times the deviation.
    assert together.statistics.mean_returns()[1] != together.statistics.mean_returns()[0]


def test_a_frozen_scale_does_not_change() -> None:
    env = made([A, C], scaling=RewardScaling())
    steps(env, 9)
    env.training = False
    first, second = steps(env, 9), steps(env, 9)
    assert_array_equal(first[0], second[0])
    assert abs(first[1] - first[0]).max() > 1


# Tasks that fail


def run(env: MultiTaskVecEnv, number: int) -> list[tuple[Any, ...]]:
    env.reset()
    return [env.step(np.ones(env.num_envs, np.int64)) for _ in range(number)]


@pytest.mark.parametrize("fault", ["breaks", "sours"])
def test_a_task_that_fails_is_named_and_the_others_go_on(fault: str) -> None:
    bad = task(3.0, **{fault: 2})
    env = made([A, bad, C], slots=6, names=["a", "bad", "c"])
    with pytest.warns(TaskFailedWarning, match="task bad of family 'counting'.*scale.*not finite"):
        taken = run(env, 12)
    for obs, rewards, _, infos in taken:
        assert np.isfinite(obs).all() and np.isfinite(rewards).all()
        last = [info["terminal_observation"] for info in infos if "terminal_observation" in info]
        assert all(np.isfinite(one).all() for one in last)
    assert set(env.failed_tasks) == {"bad"}
    assert_array_equal(env.healthy, [True, False, True])
    # Its two slots go one to each of the others.
    assert_array_equal(np.bincount(env.slot_tasks, minlength=3), [3, 0, 3])
    _, rewards, dones, infos = taken[1]
    assert_array_equal(rewards[[1, 4]], [0, 0])
    assert dones[1] and infos[1]["TimeLimit.truncated"] and infos[1]["task_failed"]
    assert "episode" not in infos[1]
    assert_array_equal(env.statistics.episodes(), [3 * 4 - 1, 0, 2 * 6 + 5])
    assert_array_equal(env.statistics.mean_returns(), [3, np.nan, 20])


def test_the_slots_that_play_on_are_not_touched_by_a_failure() -> None:
    with pytest.warns(TaskFailedWarning):
        broken = run(made([A, task(3.0, breaks=2), C], slots=3), 5)
    whole = run(made([A, task(3.0), C], slots=3), 5)
    for one, other in zip(broken, whole, strict=True):
        for with_failure, without in zip(one[:3], other[:3], strict=True):
            assert_array_equal(with_failure[[0, 2]], without[[0, 2]])


def test_a_task_that_fails_at_its_first_observation_is_replaced_at_once() -> None:
    env = made([A, task(3.0, breaks=0)])
    with pytest.warns(TaskFailedWarning, match="first observation"):
        obs = env.reset()
    assert_array_equal(obs[:, -2:], np.eye(2)[[0, 0, 0, 0]])
    assert np.isfinite(obs).all()
    assert_array_equal(env.reset()[:, -2:], np.eye(2)[[0, 0, 0, 0]])


def test_no_healthy_task_is_an_error() -> None:
    env = made([task(1.0, breaks=2), task(2.0, sours=3)])
    with pytest.warns(TaskFailedWarning), pytest.raises(MtrlError, match="no task is left"):
        run(env, 4)


def test_slots_that_take_no_other_task_go_on_with_zeros() -> None:
    env = MultiTaskVecEnv(stubborn(Stubborn(A), Stubborn(B, broken=True)), [A, B])
    with pytest.warns(TaskFailedWarning):
        taken = run(env, 7)
    for obs, rewards, dones, _ in taken:
        assert np.isfinite(obs).all()
        assert dones[0] == dones[1]
        assert rewards[0] == np.float32(0.1)
    assert [one[1][1] for one in taken] == [np.float32(0.1), *[0.0] * 6]
    assert_array_equal(env.statistics.episodes(), [2, 0])


def test_without_the_wrapper_a_batch_still_raises() -> None:
    env = FAMILY.make_sb3([task(1.0, breaks=2)], seed=0)
    env.reset()
    env.step(ONES[:1])
    with pytest.raises(MtrlError, match="not finite"):
        env.step(ONES[:1])


# Checkpoints


def test_state_goes_on_where_it_was_taken() -> None:
    first, second = (made([A, C], scaling=RewardScaling()) for _ in range(2))
    steps(first, 7)
    second.reset()
    # The environments' own state is not the wrapper's.
    assert isinstance(first.venv, BatchedVecEnv) and isinstance(second.venv, BatchedVecEnv)
    second.venv.load_state_dict(*first.venv.state_dict())
    second.load_state_dict(*first.state_dict())
    ended = 0
    for _ in range(8):
        (obs, rewards, dones, infos), theirs = first.step(ONES), second.step(ONES)
        for ours, other in zip((obs, rewards, dones), theirs[:3], strict=True):
            assert_array_equal(ours, other)
        for ours, other in zip(infos, theirs[3], strict=True):
            both = [{**one.get("episode", {}), "t": 0} for one in (ours, other)]
            assert both[0] == both[1]
            ended += "episode" in ours
    assert ended > 4
    assert first.statistics.summaries() == second.statistics.summaries()
    assert_array_equal(first.statistics.rollout_returns(), second.statistics.rollout_returns())


def test_a_loaded_state_keeps_failed_tasks_out() -> None:
    tasks = [A, task(3.0, breaks=2)]
    first, second = made(tasks), made(tasks)
    with pytest.warns(TaskFailedWarning):
        run(first, 3)
    second.load_state_dict(*first.state_dict())
    assert second.failed_tasks == first.failed_tasks
    run(second, 4)
    assert_array_equal(second.slot_tasks, [0, 0, 0, 0])


def scaled(env: MultiTaskVecEnv) -> MultiTaskVecEnv:
    return MultiTaskVecEnv(env.venv, env.tasks, scaling=RewardScaling())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: made([B, A]), "same in the same order"),
        (lambda: made([A, B], slots=5), "4 environments and there are 5"),
        (lambda: scaled(made([A, B])), "scales rewards"),
    ],
)
def test_a_state_of_something_else_is_refused(
    other: Callable[[], MultiTaskVecEnv], message: str
) -> None:
    env = made([A, B])
    env.reset()
    with pytest.raises(UsageError, match=message):
        other().load_state_dict(*env.state_dict())


# Errors


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        ([A] * 0, {}, "at least one task"),
        ([A, B, A], {}, r"tasks\[0\] and tasks\[2\] are the same task"),
        ([task(float(i)) for i in range(5)], {}, "5 tasks for 4 environments"),
        ([A, B], {"names": ["a"]}, "its own name"),
        ([A, B], {"names": ["a", "a"]}, "its own name"),
        ([A, B], {"window": 0}, "window is 0"),
    ],
)
def test_tasks_that_cannot_be_played_are_refused(
    tasks: list[Task], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        MultiTaskVecEnv(FAMILY.make_sb3([A] * 4), tasks, **settings)


def test_a_space_that_nothing_can_be_appended_to_is_refused() -> None:
    class Discrete(Stubborn):
        observation_space: Any = gym.spaces.Discrete(3)

    with pytest.raises(UsageError, match="only a Box"):
        MultiTaskVecEnv(stubborn(Discrete(A)), [A])


def test_an_environment_that_plays_another_task_is_named() -> None:
    env = MultiTaskVecEnv(stubborn(Stubborn(A), Stubborn(C)), [A, B])
    with pytest.raises(UsageError, match=f"environment 1 plays task {C.id}"):
        env.reset()


def test_an_environment_that_does_not_tell_its_task_is_named() -> None:
    env = MultiTaskVecEnv(stubborn(Stubborn(A), Stubborn(B, tells=False)), [A, B])
    with pytest.raises(UsageError, match="environment 1 does not say its task"):
        env.reset()


@pytest.mark.parametrize(
    "settings", [{"discount": 1.5}, {"discount": -0.1}, {"clip": 0.0}, {"epsilon": -1.0}]
)
def test_a_scaling_that_makes_no_sense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        RewardScaling(**settings)


def test_the_environment_is_found_under_other_wrappers() -> None:
    env = made([A, B])
    assert find_multi_task_env(VecMonitor(env)) is env
    with pytest.raises(UsageError, match="no MultiTaskVecEnv"):
        find_multi_task_env(FAMILY.make_sb3([A]))
