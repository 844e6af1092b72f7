"""Environments of several families that take turns: padded, cut, and going on where they rested."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mtrl.envs.alternating import AlternatingVecEnv, fit_actions, pad_observations
from mtrl.envs.contexts.spaces import fit_action, fit_observation
from mtrl.envs.registry import get_family
from mtrl.errors import CheckpointError, UsageError

POLES: Any = get_family("cartpole", "wide")
ARMS: Any = get_family("acrobot", "wide", horizon=7)
FAMILIES = {"cartpole": POLES, "acrobot": ARMS}
POLE, ARM = POLES.task(), ARMS.task()
REVERSED = POLES.task(force_mag=-10.0)


def alternating(slots: int = 3, seed: int | None = 5) -> AlternatingVecEnv:
    return AlternatingVecEnv(FAMILIES, [POLE, ARM, REVERSED], slots, seed=seed)


def play(env: Any, steps: int, choices: Any) -> list[Any]:
    """Return all that `steps` steps give, the actions being drawn from `choices` below 3."""
    seen = []
    for _ in range(steps):
        observations, rewards, dones, infos = env.step(choices.integers(3, size=env.num_envs))
        lasts = [info.get("terminal_observation") for info in infos]
        seen.append((observations, rewards, dones, [info["task_id"] for info in infos], lasts))
    return seen


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for part, counterpart in zip(one[:4], other[:4], strict=True):
            assert_array_equal(part, counterpart)
        for last, its in zip(one[4], other[4], strict=True):
            assert (last is None) == (its is None)
            if last is not None:
                assert_array_equal(last, its)


class Alone:
    """A family's own environment, padded and cut here one by one."""

    def __init__(self, family: Any, task: Any, common: Any) -> None:
        self.family, self.common = family, common
        self.env, self.num_envs = family.make_sb3([task] * 3, seed=5), 3

    def reset(self) -> Any:
        return np.stack([fit_observation(row, self.common[0]) for row in self.env.reset()])

    def step(self, actions: Any) -> Any:
        own = [fit_action(a, self.family.action_space, self.common[1]) for a in actions]
        observations, rewards, dones, infos = self.env.step(np.array(own))
        for info in infos:
            if "terminal_observation" in info:
                last = fit_observation(info["terminal_observation"], self.common[0])
                info["terminal_observation"] = last
        padded = np.stack([fit_observation(row, self.common[0]) for row in observations])
        return padded, rewards, dones, infos


def test_each_family_plays_as_alone_and_goes_on_where_it_rested() -> None:
    env = alternating()
    assert env.observation_space.shape == (6,)
    assert env.action_space == gym.spaces.Discrete(3)
    common = env.observation_space, env.action_space
    pole, arm = Alone(POLES, POLE, common), Alone(ARMS, ARM, common)
    ours, theirs = np.random.default_rng(0), np.random.default_rng(0)
    for task, alone in ((POLE, pole), (ARM, arm), (POLE, pole), (ARM, arm)):
        env.env_method("set_task_source", task)
        first = env.reset()
        assert_array_equal(first, alone.reset())
        assert env.reset_infos == [{"task_id": task.id}] * 3
        seen = play(env, 40, ours)
        assert_same(seen, play(alone, 40, theirs))
        assert any(dones.any() for _, _, dones, _, _ in seen)
    # The last two numbers of a pole's observation are the padding.
    env.env_method("set_task_source", POLE)
    assert_array_equal(env.reset()[:, 4:], np.zeros((3, 2)))


@pytest.mark.parametrize("turns", [(POLE,), (POLE, ARM), (POLE, ARM, REVERSED)], ids=[1, 2, 3])
def test_a_saved_environment_goes_on_bit_for_bit(turns: Any) -> None:
    env, chance = alternating(), np.random.default_rng(1)
    for task in turns:
        env.env_method("set_task_source", task)
        env.reset()
        play(env, 10, chance)
    saved = env.state_dict()
    assert saved is not None
    other = alternating(seed=99)
    other.load_state_dict(*saved)
    for task in (None, ARM, POLE):
        if task is not None:
            for each in (env, other):
                each.env_method("set_task_source", task)
            assert_array_equal(env.reset(), other.reset())
        seed = int(chance.integers(100))
        ours, theirs = (play(each, 15, np.random.default_rng(seed)) for each in (env, other))
        assert_same(ours, theirs)


def test_a_family_that_cannot_say_where_it_is_makes_the_whole_unable() -> None:
    slow: Any = get_family("docs/examples/long_cartpole.toml")
    task = slow.sample(1, np.random.default_rng(0), "train")[0]
    env = AlternatingVecEnv({task.family: slow, "acrobot": ARMS}, [task, ARM], 2, seed=0)
    env.reset()
    assert env.state_dict() is None


def test_states_of_other_families_are_refused() -> None:
    env = alternating()
    env.reset()
    saved = env.state_dict()
    assert saved is not None
    alone = AlternatingVecEnv({"cartpole": POLES}, [POLE], 3)
    with pytest.raises(CheckpointError, match="cartpole, acrobot, and here are those of cartpole"):
        alone.load_state_dict(*saved)


def test_what_cannot_be_played_is_refused() -> None:
    env = alternating()
    env.reset()
    with pytest.raises(UsageError, match="all play one family at a time"):
        env.env_method("set_task_source", ARM, indices=[0])
    env.env_method("set_task_source", REVERSED, indices=[0])
    env.env_method("set_task_source", ARM)
    with pytest.raises(UsageError, match="the turn of 'acrobot': call reset"):
        env.step(np.zeros(3, np.int64))
    car: Any = get_family("mountaincar")
    with pytest.raises(UsageError, match="of family 'mountaincar', and the families here are"):
        env.env_method("set_task_source", car.task())
    with pytest.raises(UsageError, match="no task is of family 'mountaincar'"):
        AlternatingVecEnv({**FAMILIES, "mountaincar": car}, [POLE, ARM], 3)
    pendulum: Any = get_family("pendulum")
    with pytest.raises(UsageError, match="no padding makes one"):
        AlternatingVecEnv({"cartpole": POLES, "pendulum": pendulum}, [POLE, pendulum.task()], 3)


@pytest.mark.parametrize(
    ("own", "common"),
    [
        (gym.spaces.Discrete(2), gym.spaces.Discrete(5)),
        (gym.spaces.Discrete(2, start=-1), gym.spaces.Discrete(5, start=-1)),
        (gym.spaces.Box(-0.5, 0.5, (1,)), gym.spaces.Box(-1, 1, (3,))),
        (gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (3,))),
    ],
)
def test_batches_are_fitted_as_single_actions_are(own: Any, common: Any) -> None:
    common.seed(0)
    actions = np.array([common.sample() for _ in range(20)])
    single = [fit_action(action, own, common) for action in actions]
    assert_array_equal(fit_actions(actions, own, common), single)


def test_pictures_are_padded_at_their_ends() -> None:
    small = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    common = gym.spaces.Box(0, 1, (3, 4))
    padded = pad_observations(small, common)
    assert_array_equal(padded, [fit_observation(row, common) for row in small])
    assert padded.dtype == np.float32
