"""Humanoid: walk in a hidden direction.

The reward is that of Gymnasium's `Humanoid-v5` with the velocity of the centre of mass along the
task's direction in place of that along x, as in Rothfuss et al. 2019 (ProMP;
github.com/jonasrothfuss/ProMP, humanoid_rand_direc.py). A fall ends the episode: the torso lower than
1 m or higher than 2 m.
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
from mtrl.envs.robots.robot import HUMANOID, Robot

__all__ = ["HumanoidDirection", "humanoid_direction"]

Array = NDArray[Any]
SPEED_WEIGHT = 1.25
CONTROL_COST = 0.1
CONTACT_COST, MOST_CONTACT_COST = 5e-7, 10.0


@dataclass(frozen=True, kw_only=True)
class HumanoidDirection(MujocoFamily):
    """Reward the velocity along `angle`, staying up, and little effort. See `MujocoFamily`.

    By default there are two tasks, forward and backward, and training and test tasks are the same.

    Args:
        survival: reward of a step after which the humanoid is up.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: FORWARD_OR_BACKWARD)
    split_rule: SplitRule = "shared"
    survival: float = 5.0

    name: ClassVar[str] = "humanoid-direction"
    robot: ClassVar[Robot] = HUMANOID
    render_fps: ClassVar[int] = HUMANOID.render_fps
    defaults: ClassVar[Mapping[str, float]] = {"angle": 0.0}
    units: ClassVar[Mapping[str, str]] = {"angle": "degrees from the x axis"}

    def reward(self, params: Mapping[str, Array], move: Move) -> Array:
        """Return Gymnasium's reward, for the velocity along the angle."""
        gain = SPEED_WEIGHT * along(params["angle"], move.velocity) + self.survival * move.healthy
        # In float64, as Gymnasium computes it from the simulation's own controls.
        effort = CONTROL_COST * np.square(move.action, dtype=np.float64).sum(axis=-1)
        impact = np.minimum(CONTACT_COST * move.contact, MOST_CONTACT_COST)
        return np.asarray(gain - (effort + impact))


humanoid_direction = FamilySpec(
    name="humanoid-direction",
    factory=HumanoidDirection,
    presets={
        "promp": {},
        "any-direction": {"ranges": ANY_HEADING, "split_rule": "random"},
    },
    summary="walk in a hidden direction on two legs",
    extra="mujoco",
)
