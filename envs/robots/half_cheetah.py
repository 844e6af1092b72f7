"""Half-cheetah: run at a hidden velocity, or in a hidden direction.

The tasks of Finn et al. 2017 (MAML), section 5.3, with the rewards of the authors' code
(github.com/cbfinn/maml_rl, half_cheetah_env_rand.py and half_cheetah_env_rand_direc.py) on the body
of Gymnasium's `HalfCheetah-v5`, which is not rllab's. The velocity is Gymnasium's: the mean over the
step of that of the torso, along x.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.distributions import Choice, RangeSpec
from mtrl.envs.family import FamilySpec
from mtrl.envs.parameters import SplitRule
from mtrl.envs.robots.family import Move, MujocoFamily
from mtrl.envs.robots.robot import HALF_CHEETAH, Robot

__all__ = [
    "HalfCheetahDirection",
    "HalfCheetahVelocity",
    "halfcheetah_direction",
    "halfcheetah_velocity",
]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class _HalfCheetah(MujocoFamily):
    control_cost: float = 0.05

    robot: ClassVar[Robot] = HALF_CHEETAH
    render_fps: ClassVar[int] = HALF_CHEETAH.render_fps

    def _effort(self, move: Move) -> Array:
        return np.asarray(self.control_cost * np.square(move.action).sum(axis=-1))


@dataclass(frozen=True, kw_only=True)
class HalfCheetahVelocity(_HalfCheetah):
    """Reward -|v - velocity| - control_cost |action|^2; never terminated. See `MujocoFamily`.

    Args:
        control_cost: weight of the squared action.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: {"velocity": (0.0, 2.0)})

    name: ClassVar[str] = "halfcheetah-velocity"
    defaults: ClassVar[Mapping[str, float]] = {"velocity": 1.0}
    units: ClassVar[Mapping[str, str]] = {"velocity": "m/s along x"}

    def reward(self, params: Mapping[str, Array], move: Move) -> Array:
        """Return minus the distance to the velocity, minus the control cost."""
        distance = np.abs(move.velocity[:, 0] - params["velocity"])
        return np.asarray(-distance - self._effort(move))


@dataclass(frozen=True, kw_only=True)
class HalfCheetahDirection(_HalfCheetah):
    """Reward direction * v - control_cost |action|^2; never terminated. See `MujocoFamily`.

    There are two tasks, and training and test tasks are the same, as in the paper.

    Args:
        control_cost: weight of the squared action.
    """

    ranges: Mapping[str, RangeSpec] = field(
        default_factory=lambda: {"direction": Choice((-1.0, 1.0))}
    )
    split_rule: SplitRule = "shared"

    name: ClassVar[str] = "halfcheetah-direction"
    defaults: ClassVar[Mapping[str, float]] = {"direction": 1.0}
    units: ClassVar[Mapping[str, str]] = {"direction": "1 forward, -1 backward"}

    def reward(self, params: Mapping[str, Array], move: Move) -> Array:
        """Return the velocity in the direction, minus the control cost."""
        return np.asarray(params["direction"] * move.velocity[:, 0] - self._effort(move))


halfcheetah_velocity = FamilySpec(
    name="halfcheetah-velocity",
    factory=HalfCheetahVelocity,
    presets={
        "maml": {},
        "pytorch-maml-rl": {"horizon": 100},
        "interpolation": {"split_rule": "interpolation", "held_out": {"velocity": ((0.8, 1.2),)}},
        "extrapolation": {"split_rule": "extrapolation", "held_out": {"velocity": ((1.6, 2.0),)}},
    },
    summary="run at a hidden velocity",
    extra="mujoco",
)
halfcheetah_direction = FamilySpec(
    name="halfcheetah-direction",
    factory=HalfCheetahDirection,
    presets={"maml": {}, "pytorch-maml-rl": {"horizon": 100}},
    summary="run forward or backward, as a hidden task wants",
    extra="mujoco",
)
