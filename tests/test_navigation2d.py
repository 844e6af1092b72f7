"""Facts about 2-D navigation: its rules, its anchors and its registration."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.envs import get_family
from mtrl.envs.batched import BatchedEnv
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.task import Task
from mtrl.errors import UsageError


def _task(goal: tuple[float, float], start: tuple[float, float] = (0.0, 0.0)) -> Task:
    return Task(family="navigation2d", params={"goal": goal, "start": start})


def _batch(family: Navigation2D, tasks: list[Task]) -> BatchedEnv:
    return BatchedEnv(family, family.tensors(tasks, dtype=torch.float64))


def _rollout(family: Navigation2D, tasks: list[Task], speed: float) -> np.ndarray:
    """Return simulated returns of moving each coordinate to the goal at up to `speed`."""
    env = _batch(family, tasks)
    total = torch.zeros(len(tasks), dtype=torch.float64)
    for _ in range(family.horizon):
        offset = env.params["goal"] - env.state
        total += env.step((offset / 0.1).clamp(-speed, speed))[1]
    return total.numpy()


def test_a_step_by_hand() -> None:
    env = _batch(Navigation2D(), [_task((0.3, -0.4))])
    obs, reward, terminated, truncated = env.step(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    # The second action is clipped; the distance is the one after the move.
    assert_allclose(obs.numpy(), [[0.1, -0.1]], rtol=1e-15)
    assert_allclose(reward.item(), -math.hypot(0.2, 0.3), rtol=1e-15)
    assert not terminated.item()
    assert not truncated.item()


def test_dynamics_equal_the_authors_environment() -> None:
    """`PointEnvRandGoal.step` of cbfinn/maml_rl under rllab's `normalize`, written out."""
    rng = np.random.default_rng(0)
    family = Navigation2D(terminate_at_goal=True)
    task = family.sample(1, rng, "train")[0]
    env, state = _batch(family, [task]), np.zeros(2)
    for _ in range(100):
        action = rng.normal(size=2) * 1.5
        scaled = np.clip(-0.1 + (action + 1.0) * 0.5 * 0.2, -0.1, 0.1)
        state = state + scaled
        x, y = state - np.array(task.params["goal"])
        obs, reward, terminated, _ = env.step(torch.from_numpy(action)[None])
        # 1e-12: the scaling is the same in exact arithmetic only.
        assert_allclose(obs[0].numpy(), state, atol=1e-12)
        assert_allclose(reward.item(), -((x**2 + y**2) ** 0.5), atol=1e-12)
        assert terminated.item() == (abs(x) < 0.01 and abs(y) < 0.01)


def test_an_episode_lasts_the_horizon_and_is_truncated() -> None:
    for horizon in (1, 100):
        env = _batch(Navigation2D(horizon=horizon), [_task((0.0, 0.0))])
        flags = [env.step(torch.zeros(1, 2))[2:] for _ in range(horizon)]
        assert [bool(truncated) for _, truncated in flags] == [False] * (horizon - 1) + [True]
        assert not any(bool(terminated) for terminated, _ in flags)


@pytest.mark.parametrize("varying", [False, True])
def test_tasks_lie_in_the_square_and_starts_vary_if_asked(varying: bool) -> None:
    family = Navigation2D(varying_start=varying)
    params = family.sample_params(1000, np.random.default_rng(0), "train")
    assert np.abs(params["goal"]).max() <= 0.5
    assert 0.49 < np.abs(params["goal"]).max()
    assert (np.abs(params["start"]).max() > 0.49) == varying
    assert (np.abs(params["start"]).max() == 0.0) == (not varying)
    task = family.sample(1, np.random.default_rng(0), "train")[0]
    context = [*task.params["goal"], *(task.params["start"] if varying else ())]
    assert_array_equal(family.context(task), np.float32(context))


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("varying", [False, True])
def test_anchors_equal_simulation(varying: bool, terminate: bool) -> None:
    family = Navigation2D(varying_start=varying, terminate_at_goal=terminate)
    tasks = family.sample(200, np.random.default_rng(0), "test")
    tasks.append(_task((0.005, 0.0)))  # at the goal from the start
    oracle, still = family.oracle_returns(tasks), family.standing_still_returns(tasks)
    # 1e-9: a hundred float64 steps of up to 0.1.
    assert_allclose(oracle, _rollout(family, tasks, 1.0), atol=1e-9)
    assert_allclose(still, _rollout(family, tasks, 0.0), atol=1e-9)
    assert (oracle >= still).all()


def test_anchors_by_hand() -> None:
    family = Navigation2D()
    tasks = [_task((0.3, 0.0)), _task((0.3, -0.4)), _task((0.1, 0.1), (0.1, 0.1))]
    assert_allclose(family.standing_still_returns(tasks), [-30.0, -50.0, 0.0], rtol=1e-12)
    oracle = -(math.hypot(0.2, 0.3) + math.hypot(0.1, 0.2) + 0.1)
    assert_allclose(family.oracle_returns(tasks), [-0.3, oracle, 0.0], rtol=1e-12, atol=1e-12)


def test_standing_still_on_average_is_the_closed_form() -> None:
    """The mean distance of a uniform point in a square of side 1 from its centre."""
    family = Navigation2D()
    returns = family.standing_still_returns(family.sample(4000, np.random.default_rng(0), "test"))
    mean = (math.sqrt(2) + math.log(1 + math.sqrt(2))) / 6
    assert abs(returns.mean() + 100 * mean) < 4 * returns.std() / 4000**0.5


def test_no_policy_beats_the_oracle() -> None:
    rng = np.random.default_rng(0)
    for terminate in (False, True):
        family = Navigation2D(terminate_at_goal=terminate)
        tasks = family.sample(50, rng, "train")
        oracle = family.oracle_returns(tasks)
        for speed in (0.3, 0.7, 0.95):
            assert (_rollout(family, tasks, speed) <= oracle + 1e-9).all()


def test_observations_stay_in_their_space() -> None:
    family = Navigation2D(varying_start=True, horizon=300)
    env = family.make(_task((0.0, 0.0), (0.5, -0.5)))
    env.reset()
    for _ in range(300):
        obs, *_ = env.step(np.array([1.0, -1.0], np.float32))
        assert obs in env.observation_space


def test_picture_shows_point_and_goal_where_they_are() -> None:
    env = Navigation2D().make(_task((0.25, 0.25)), render_mode="rgb_array")
    env.reset()
    image = env.render()
    assert image is not None
    assert (image.shape, image.dtype) == ((128, 128, 3), np.uint8)
    red = np.argwhere((image == (200, 30, 30)).all(-1)).mean(0)
    blue = np.argwhere((image == (30, 60, 200)).all(-1)).mean(0)
    # Row, column: 64 pixels to the unit, y upwards.
    assert_allclose(blue, [63.5, 63.5], atol=0.5)
    assert_allclose(red, [63.5 - 16, 63.5 + 16], atol=0.5)


def test_render_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="'human'.*rgb_array"):
        Navigation2D().make("train", render_mode="human")


def test_an_impossible_horizon_is_refused() -> None:
    with pytest.raises(UsageError, match="horizon of 'navigation2d' is 0"):
        get_family("navigation2d", horizon=0)


@pytest.mark.parametrize("kwargs", [{}, {"varying_start": True, "task": "test"}])
def test_registered_environment_survives_its_specification(kwargs: dict[str, object]) -> None:
    env = gym.make("mtrl/Navigation2D-v0", **kwargs)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert gym.make(env.spec).unwrapped.family == env.unwrapped.family
    first, info = env.reset(seed=3)
    second, info_again = again.reset(seed=3)
    assert_array_equal(first, second)
    assert info == info_again
    assert (np.abs(first).max() > 0) == bool(kwargs)


def test_registered_vector_environment_draws_tasks() -> None:
    envs = gym.make_vec("mtrl/Navigation2D-v0", num_envs=4, varying_start=True)
    _, info = envs.reset(seed=0)
    assert len(set(info["task_id"])) == 4
    sync = gym.make_vec(
        "mtrl/Navigation2D-v0", num_envs=4, vectorization_mode="sync", varying_start=True
    )
    assert_array_equal(sync.reset(seed=0)[1]["task_id"], info["task_id"])
