"""Actions of policies in units of a space."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mtrl.envs.actions import to_space
from mtrl.errors import UsageError


def box(low: list[float], high: list[float]) -> gym.spaces.Box:
    return gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))


def test_one_stands_for_the_bounds_and_what_lies_outside_is_clipped() -> None:
    scale = to_space(box([-2.0, 0.0], [2.0, 10.0]), "cpu")
    actions = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.25, 0.5], [-7.0, 3.0]])
    expected = torch.tensor([[-2.0, 0.0], [2.0, 10.0], [0.5, 7.5], [-2.0, 10.0]])
    assert_close(scale(actions), expected, rtol=0, atol=0)


def test_a_space_from_minus_one_to_one_only_clips() -> None:
    actions = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    scaled = to_space(box([-1.0, -1.0], [1.0, 1.0]), "cpu")(actions)
    assert_close(scaled, actions.clamp(-1, 1), rtol=0, atol=0)


def test_a_dimension_without_both_bounds_keeps_its_units() -> None:
    scale = to_space(box([-np.inf, 0.0], [np.inf, np.inf]), "cpu")
    actions = torch.tensor([[-30.0, 5.0], [4.0, -2.0]])
    assert_close(scale(actions), torch.tensor([[-30.0, 5.0], [4.0, 0.0]]), rtol=0, atol=0)


@pytest.mark.parametrize("start", [0, -1, 5])
def test_choices_are_counted_from_the_first(start: int) -> None:
    scale = to_space(gym.spaces.Discrete(3, start=start), "cpu")
    assert_close(scale(torch.arange(3)), torch.arange(start, start + 3), rtol=0, atol=0)


@pytest.mark.parametrize(
    "space",
    [gym.spaces.MultiDiscrete([2, 2]), gym.spaces.MultiBinary(2), gym.spaces.Box(-1, 1, (2, 2))],
    ids=lambda space: type(space).__name__,
)
def test_another_space_is_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(UsageError, match="choose another family"):
        to_space(space, "cpu")
