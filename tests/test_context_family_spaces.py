"""Facts about tasks whose environments have different spaces: they are padded to one."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from context_envs import Arm, Grid
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_array_equal

from mtrl.envs.contexts.family import ContextFamily
from mtrl.envs.contexts.spaces import (
    action_mask,
    common_action_space,
    common_observation_space,
    fit_action,
    fit_observation,
)
from mtrl.envs.contexts.targets import Keyword
from mtrl.envs.distributions import Choice
from mtrl.errors import MtrlError, UsageError


def grid(**arguments: Any) -> ContextFamily:
    given = {"ranges": {"size": Choice([2.0, 3.0, 5.0])}, "keywords": {"start": 10}} | arguments
    targets = {"size": Keyword("size")}
    return ContextFamily(
        name="grid", env=Grid, targets=targets, split_rule="shared", horizon=4, **given
    )


def test_observations_are_padded_with_zeros_and_choices_wrap_around() -> None:
    family = grid()
    assert family.observation_space == Box(
        np.float32([-1, -1, -1, -1, -1]), np.float32([6, 6, 6, 6, 6])
    )
    assert family.action_space == Discrete(5, start=10)
    env = family.make("train")
    for size in (3, 5, 2, 3):
        obs, info = env.reset(seed=1, options={"task": family.task(size=size)})
        own, _ = Grid(size).reset(seed=1)
        assert_array_equal(obs, np.pad(own, (0, 5 - size)))
        assert obs.dtype == np.float32
        assert_array_equal(info["action_mask"], [1] * size + [0] * (5 - size))
        # The reward is what the environment itself was given, counted from its first choice.
        assert [env.step(10 + choice)[1] for choice in range(4)] == [c % size for c in range(4)]
    check_env(env, skip_render_check=True)


def test_the_description_says_what_was_done() -> None:
    assert grid().notes == [
        "observations of smaller tasks are padded with zeros",
        "choices a task lacks wrap around; info['action_mask'] marks its own",
    ]
    assert grid(ranges={"size": 3.0}).notes == []


def test_tasks_of_different_sizes_are_one_batch() -> None:
    family = grid()
    tasks = [family.task(size=size) for size in (2, 5)]
    batch = family.batch(tasks, repeats=2)
    obs = batch.reset(torch.arange(4))
    assert_array_equal((obs != 0).sum(1), [2, 2, 5, 5])
    vector = family.make_vec(tasks, seed=0)
    assert vector.reset()[0].shape == (2, 5)
    rewards = vector.step(np.array([13, 13]))[1]
    assert_array_equal(rewards, [1.0, 3.0])


def test_real_actions_are_cut_and_clipped_to_the_tasks_own() -> None:
    family = ContextFamily(
        name="arm",
        env=Arm,
        ranges={"joints": Choice([1.0, 3.0]), "strength": Choice([0.5, 2.0])},
        targets={"joints": Keyword("joints"), "strength": Keyword("strength")},
        split_rule="shared",
        horizon=4,
    )
    assert family.action_space == Box(-2.0, 2.0, (3,), np.float32)
    assert family.observation_space == Box(-np.inf, np.inf, (3,), np.float64)
    action = np.float32([1.5, -1.5, 0.25])
    for joints, strength, seen in (
        (1, 0.5, [0.5, 0, 0]),
        (3, 0.5, [0.5, -0.5, 0.25]),
        (3, 2.0, action),
    ):
        env = family.make(family.task(joints=joints, strength=strength))
        env.reset(seed=0)
        assert_array_equal(env.step(action)[0], seen)
    assert any("dropped, the others clipped" in note for note in family.notes)


def test_different_choices_to_observe_become_one_flat_vector() -> None:
    family = ContextFamily(
        name="lake",
        env="FrozenLake-v1",
        ranges={},
        targets={"map": Keyword("map_name", ("4x4", "8x8"))},
        keywords={"is_slippery": False},
        split_rule="shared",
        flatten=True,
    )
    assert family.padded_space == Discrete(64)
    assert family.observation_space.shape == (64,)
    for option, end in ((0, 15), (1, 63)):
        env = family.make(family.task(map=option))
        obs, _ = env.reset(seed=0)
        assert_array_equal(np.flatnonzero(obs), [0])
        assert env.wrapped.unwrapped.observation_space.n == end + 1


def test_dictionaries_are_padded_entry_by_entry() -> None:
    small = Dict({"a": Box(0, 1, (2,)), "b": Discrete(3)})
    large = Dict({"a": Box(1, 2, (2,)), "b": Discrete(4)})
    wide = Dict({"a": Box(1, 2, (3,)), "b": Discrete(4)})
    assert common_observation_space([small, large]) == Dict(
        {"a": Box(0, 2, (2,)), "b": Discrete(4)}
    )
    common = common_observation_space([small, wide])
    assert common == Dict({"a": Box(0, 2, (3,)), "b": Discrete(4)})
    padded = fit_observation({"a": np.ones(2, np.float32), "b": 1}, common)
    assert_array_equal(padded["a"], [1, 1, 0])
    assert padded["b"] == 1 and common.contains(padded | {"b": np.int64(1)})


def test_pictures_are_padded_on_every_axis() -> None:
    spaces = [Box(0, 255, shape, np.uint8) for shape in ((2, 3, 1), (4, 2, 1))]
    common = common_observation_space(spaces)
    assert common.shape == (4, 3, 1)
    padded = fit_observation(np.full((2, 3, 1), 9, np.uint8), common)
    assert padded.dtype == np.uint8
    assert_array_equal(padded[:2], 9)
    assert_array_equal(padded[2:], 0)
    assert common.contains(padded)
    assert_array_equal(common_action_space(spaces).low, 0)


def test_an_observation_bound_above_zero_makes_room_for_padding() -> None:
    spaces = [Box(1, 2, (1,)), Box(1, 2, (2,))]
    low = common_observation_space(spaces).low
    assert_array_equal(low, [1, 0])
    # Actions need none: they are cut, not padded.
    assert_array_equal(common_action_space(spaces).low, [1, 1])


def test_the_mask_is_for_sampling() -> None:
    mask = action_mask(Discrete(2, start=4), Discrete(5, start=4))
    space = Discrete(5, start=4, seed=0)
    assert {int(space.sample(mask)) for _ in range(50)} == {4, 5}


def test_equal_spaces_are_left_as_they_are() -> None:
    space = Discrete(3)
    assert common_action_space([space, Discrete(3)]) is space
    assert common_observation_space([space, Discrete(3)]) is space
    assert fit_action(2, space, space) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Discrete(3), Box(0, 1, (3,))),
        (Discrete(3), Discrete(3, start=1)),
        (Box(0, 1, (3,)), Box(0, 1, (3, 1))),
        (Box(0, 1, (3,), np.float32), Box(0, 1, (4,), np.float64)),
        (MultiBinary(2), MultiBinary(3)),
        (Dict({"a": Discrete(2)}), Dict({"b": Discrete(2)})),
    ],
)
def test_spaces_of_different_kinds_are_refused(one: gym.Space[Any], other: gym.Space[Any]) -> None:
    for common in (common_observation_space, common_action_space):
        with pytest.raises(UsageError, match="which no padding makes one"):
            common([one, other])


def test_a_family_of_different_kinds_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'grid'.*Discrete.*which no padding makes one"):
        ContextFamily(
            name="grid",
            env=Grid,
            ranges={"start": Choice([0.0, 1.0])},
            targets={"start": Keyword("start")},
            split_rule="shared",
            horizon=4,
        )


def test_spaces_that_change_along_a_range_need_a_list() -> None:
    with pytest.raises(UsageError, match="'arm': tasks have different spaces.*give strength as a"):
        ContextFamily(
            name="arm",
            env=Arm,
            ranges={"strength": (0.5, 2.0)},
            targets={"strength": Keyword("strength")},
            horizon=4,
        )
    with pytest.raises(UsageError, match="more than 256 combinations; vary fewer"):
        grid(ranges={"size": Choice([float(size) for size in range(2, 300)])})


def test_a_space_that_only_some_tasks_within_a_range_have_is_an_error() -> None:
    def make(bend: float) -> gym.Env[Any, Any]:
        return Grid(3 if 0.4 < bend < 0.6 else 2)

    family = ContextFamily(
        name="bent",
        env=make,
        ranges={"bend": (0.0, 1.0)},
        targets={"bend": Keyword("bend")},
        horizon=4,
    )
    task = family.task(bend=0.5)
    with pytest.raises(MtrlError, match=f"'bent', task {task.id}.*none of those at the ends"):
        family.make(task).reset()
