"""Hopper and Walker2d with other masses, damping, friction and gravity.

The reward, the observation and the ends of episodes are those of Gymnasium's `Hopper-v5` and
`Walker2d-v5`: speed forward, 1 per step while healthy, minus 0.001 |action|^2. The task is in the
model, of which it scales all numbers of a kind by one factor: `mass` those of bodies with their
inertias (and what MuJoCo derives from them, by `mj_setConst`), `damping` those of joints, `friction`
those of geoms, `gravity` that of the world. Domain randomisation of these goes back to Rajeswaran et
al. 2017 (EPOpt) and, for meta-learning, Rothfuss et al. 2019 (ProMP), who scale each body on its own.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.distributions import RangeSpec
from mtrl.envs.family import FamilySpec
from mtrl.envs.robots.bodies import gymnasium_model
from mtrl.envs.robots.family import Move, MujocoFamily
from mtrl.envs.robots.robot import HOPPER, WALKER2D, Robot
from mtrl.envs.task import Task

__all__ = [
    "HopperParameters",
    "Walker2dParameters",
    "hopper_parameters",
    "scale_model",
    "walker2d_parameters",
]

Array = NDArray[Any]
_DEFAULT: Mapping[str, RangeSpec] = {
    "mass": (0.5, 2.0),
    "damping": (0.5, 2.0),
    "friction": (0.5, 2.0),
    "gravity": (0.75, 1.25),
}
_WIDE: Mapping[str, RangeSpec] = {
    "mass": (0.25, 3.5),
    "damping": (0.25, 3.5),
    "friction": (0.25, 3.5),
    "gravity": (0.5, 1.5),
}
CONTROL_COST = 1e-3


def scale_model(model: Any, factors: Mapping[str, Any]) -> None:
    """Multiply the masses, damping, friction and gravity of a MuJoCo model by `factors`."""
    import mujoco

    model.body_mass[:] *= factors["mass"]
    model.body_inertia[:] *= factors["mass"]
    model.dof_damping[:] *= factors["damping"]
    model.geom_friction[:] *= factors["friction"]
    model.opt.gravity[:] *= factors["gravity"]
    mujoco.mj_setConst(model, mujoco.MjData(model))


@dataclass(frozen=True, kw_only=True)
class _PlanarWalker(MujocoFamily):
    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: _DEFAULT)

    defaults: ClassVar[Mapping[str, float]] = {
        "mass": 1.0,
        "damping": 1.0,
        "friction": 1.0,
        "gravity": 1.0,
    }
    units: ClassVar[Mapping[str, str]] = {
        "mass": "times Gymnasium's, all bodies",
        "damping": "times Gymnasium's, all joints",
        "friction": "times Gymnasium's, all geoms",
        "gravity": "times Gymnasium's",
    }
    positive: ClassVar[frozenset[str]] = frozenset({"mass", "damping", "friction"})

    def model(self, task: Task) -> Any:
        """Return Gymnasium's model with the factors of `task`."""
        model = copy.copy(gymnasium_model(self.robot.gymnasium_id)[0])
        scale_model(model, task.params)
        return model

    def reward(self, params: Mapping[str, Array], move: Move) -> Array:
        """Return Gymnasium's reward."""
        effort = CONTROL_COST * np.square(move.action).sum(axis=-1)
        return np.asarray(move.velocity[:, 0] + move.healthy - effort)


@dataclass(frozen=True, kw_only=True)
class HopperParameters(_PlanarWalker):
    """Hop forward with unknown physics. See `MujocoFamily`."""

    name: ClassVar[str] = "hopper-parameters"
    robot: ClassVar[Robot] = HOPPER
    render_fps: ClassVar[int] = HOPPER.render_fps


@dataclass(frozen=True, kw_only=True)
class Walker2dParameters(_PlanarWalker):
    """Walk forward with unknown physics. See `MujocoFamily`."""

    name: ClassVar[str] = "walker2d-parameters"
    robot: ClassVar[Robot] = WALKER2D
    render_fps: ClassVar[int] = WALKER2D.render_fps


_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "wide": {"ranges": _WIDE},
    "interpolation": {"split_rule": "interpolation", "held_out": {"mass": ((0.9, 1.2),)}},
    "extrapolation": {
        "split_rule": "extrapolation",
        "held_out": {"mass": ((0.5, 0.65), (1.6, 2.0))},
    },
    "gymnasium": {"ranges": {}, "split_rule": "shared", "horizon": 1000},
}
hopper_parameters = FamilySpec(
    name="hopper-parameters",
    factory=HopperParameters,
    presets=_PRESETS,
    summary="hop forward with a mass, damping, friction and gravity that vary",
    extra="mujoco",
)
walker2d_parameters = FamilySpec(
    name="walker2d-parameters",
    factory=Walker2dParameters,
    presets=_PRESETS,
    summary="walk forward with a mass, damping, friction and gravity that vary",
    extra="mujoco",
)
