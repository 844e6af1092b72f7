"""Ant: run at a hidden velocity, in a hidden direction, or to a hidden place.

The tasks of Finn et al. 2017 (MAML), section 5.3, with the rewards of the authors' code
(github.com/cbfinn/maml_rl, ant_env_rand.py and ant_env_rand_direc.py; the goals as in
github.com/tristandeleu/pytorch-maml-rl, ant.py) on the body of Gymnasium's `Ant-v5`. Every reward has
the same other terms: `survival` - control_cost |action|^2 - contact_cost |contact forces|^2, the
forces clipped to +-1. A fall ends the episode: the torso lower than 0.2 m or higher than 1 m.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.distributions import RangeSpec
from mtrl.envs.family import FamilySpec
from mtrl.envs.parameters import SplitRule
from mtrl.envs.robots.family import Move, MujocoFamily
from mtrl.envs.robots.headings import ANY_HEADING, FORWARD_OR_BACKWARD, along
from mtrl.envs.robots.robot import ANT, Robot

__all__ = ["AntDirection", "AntGoal", "AntVelocity", "ant_direction", "ant_goal", "ant_velocity"]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class _Ant(MujocoFamily):
    control_cost: float = 0.005
    contact_cost: float = 0.0005
    survival: float = 0.05

    robot: ClassVar[Robot] = ANT
    render_fps: ClassVar[int] = ANT.render_fps

    def _others(self, move: Move) -> Array:
        effort = self.control_cost * np.square(move.action).sum(axis=-1)
        return np.asarray(self.survival - effort - self.contact_cost * move.contact)


@dataclass(frozen=True, kw_only=True)
class AntVelocity(_Ant):
    """Reward `bonus` - |v - velocity| and the other terms, v along x. See `MujocoFamily`.

    Args:
        bonus: keeps rewards positive near the velocity, so that falling does not pay.
        control_cost: weight of the squared action.
        contact_cost: weight of the squared contact forces.
        survival: reward of a step.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: {"velocity": (0.0, 3.0)})
    bonus: float = 1.0

    name: ClassVar[str] = "ant-velocity"
    defaults: ClassVar[Mapping[str, float]] = {"velocity": 1.5}
    units: ClassVar[Mapping[str, str]] = {"velocity": "m/s along x"}

    def reward(self, params: Mapping[str, Array], move: Move) -> Array:
        """Return the bonus minus the distance to the velocity, and the other terms."""
        distance = np.abs(move.velocity[:, 0] - params["velocity"])
        return np.asarray(self.bonus - distance + self._others(move))


@dataclass(frozen=True, kw_only=True)
class AntDirection(_Ant):
    """Reward the velocity along `angle`, and the other terms. See `MujocoFamily`.

    By default there are two tasks, forward and backward, and training and test tasks are the same, as
    in the paper.

    Args:
        control_cost: weight of the squared action.
        contact_cost: weight of the squared contact forces.
        survival: reward of a step.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: FORWARD_OR_BACKWARD)
    split_rule: SplitRule = "shared"

    name: ClassVar[str] = "ant-direction"
    defaults: ClassVar[Mapping[str, float]] = {"angle": 0.0}
    units: ClassVar[Mapping[str, str]] = {"angle": "degrees from the x axis"}

    def reward(self, params: Mapping[str, Array], move: Move) -> Array:
        """Return the velocity along the angle, and the other terms."""
        return np.asarray(along(params["angle"], move.velocity) + self._others(move))


@dataclass(frozen=True, kw_only=True)
class AntGoal(_Ant):
    """Reward `bonus` - |x - goal_x| - |y - goal_y| and the other terms. See `MujocoFamily`.

    Args:
        bonus: keeps rewards positive near the goal, so that falling does not pay.
        control_cost: weight of the squared action.
        contact_cost: weight of the squared contact forces.
        survival: reward of a step.
    """

    ranges: Mapping[str, RangeSpec] = field(
        default_factory=lambda: {"goal_x": (-3.0, 3.0), "goal_y": (-3.0, 3.0)}
    )
    bonus: float = 4.0

    name: ClassVar[str] = "ant-goal"
    defaults: ClassVar[Mapping[str, float]] = {"goal_x": 0.0, "goal_y": 0.0}
    units: ClassVar[Mapping[str, str]] = {"goal_x": "m", "goal_y": "m"}

    def reward(self, params: Mapping[str, Array], move: Move) -> Array:
        """Return the bonus minus the distance to the goal along both axes, and the other terms."""
        distance = np.abs(move.place[:, 0] - params["goal_x"])
        distance = distance + np.abs(move.place[:, 1] - params["goal_y"])
        return np.asarray(self.bonus - distance + self._others(move))


ant_velocity = FamilySpec(
    name="ant-velocity",
    factory=AntVelocity,
    presets={
        "maml": {},
        "pytorch-maml-rl": {"horizon": 100},
        "interpolation": {"split_rule": "interpolation", "held_out": {"velocity": ((1.2, 1.8),)}},
        "extrapolation": {"split_rule": "extrapolation", "held_out": {"velocity": ((2.4, 3.0),)}},
    },
    summary="run at a hidden velocity on four legs",
    extra="mujoco",
)
ant_direction = FamilySpec(
    name="ant-direction",
    factory=AntDirection,
    presets={
        "maml": {},
        "pytorch-maml-rl": {"horizon": 100},
        "any-direction": {"ranges": ANY_HEADING, "split_rule": "random"},
    },
    summary="run in a hidden direction on four legs",
    extra="mujoco",
)
ant_goal = FamilySpec(
    name="ant-goal",
    factory=AntGoal,
    presets={
        "default": {},
        "pytorch-maml-rl": {"horizon": 100},
        "interpolation": {
            "split_rule": "interpolation",
            "held_out": {"goal_x": ((-1.0, 1.0),), "goal_y": ((-1.0, 1.0),)},
        },
        "extrapolation": {"split_rule": "extrapolation", "held_out": {"goal_x": ((2.0, 3.0),)}},
    },
    summary="run to a hidden place on four legs",
    extra="mujoco",
)
