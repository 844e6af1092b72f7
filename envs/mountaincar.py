"""Mountain car: drive out of a valley with an engine too weak to climb it straight.

The dynamics of Gymnasium's `MountainCar-v0` (Moore 1990) and `MountainCarContinuous-v0`. State and
observation are position and velocity; the episode terminates at the goal position with at least the
goal velocity. The first has three actions and pays -1 per step. The second has a force in [-1, 1]
and pays 100 at the goal and minus a tenth of the squared action; Gymnasium keeps its state in
float32, and so do we, from the first state on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch

from mtrl.envs.arrays import Array, astype, columns, from_columns, namespace
from mtrl.envs.family import FamilySpec
from mtrl.envs.physics import PhysicsFamily, RangeSpec

__all__ = ["MountainCar", "MountainCarContinuous", "mountaincar", "mountaincar_continuous"]

POSITIONS = -1.2, 0.6
"""The ends of the track; the car stops at the left one."""
MAX_SPEED = 0.07
START = -0.6, -0.4
"""Bounds of the first position; the car starts at rest."""
CONTINUOUS_GRAVITY = 0.0025
"""Gymnasium fixes it in the continuous environment."""

_DEFAULT_PHYSICS: Mapping[str, RangeSpec] = {
    "gravity": (0.002, 0.003),
    "force": (0.0008, 0.0014),
}
_WIDE: Mapping[str, RangeSpec] = {
    "gravity": (0.0015, 0.0035),
    "force": ((-0.002, -0.0007), (0.0007, 0.002)),
    "goal_position": (0.3, 0.55),
    "goal_velocity": (0.0, 0.02),
}
_DEFAULT_CONTINUOUS: Mapping[str, RangeSpec] = {"power": (0.001, 0.002)}
_WIDE_CONTINUOUS: Mapping[str, RangeSpec] = {
    "power": ((-0.003, -0.0008), (0.0008, 0.003)),
    "goal_position": (0.3, 0.55),
    "goal_velocity": (0.0, 0.02),
}


def _observation_space() -> gym.spaces.Box:
    low, high = POSITIONS
    return gym.spaces.Box(
        np.array([low, -MAX_SPEED], np.float32), np.array([high, MAX_SPEED], np.float32)
    )


def _start(noise: Array) -> Array:
    position = START[0] + (START[1] - START[0]) * noise[:, 0]
    return from_columns([position, namespace(noise).zeros_like(position)])


def _drive(
    params: Mapping[str, Array], position: Array, velocity: Array
) -> tuple[Array, Array, Array]:
    """Move with this velocity; return the position, velocity and whether the goal is reached."""
    xp = namespace(position)
    velocity = xp.clip(velocity, -MAX_SPEED, MAX_SPEED)
    position = xp.clip(position + velocity, *POSITIONS)
    stopped = (position <= POSITIONS[0]) & (velocity < 0)
    velocity = xp.where(stopped, xp.zeros_like(velocity), velocity)
    there = (position >= params["goal_position"]) & (velocity >= params["goal_velocity"])
    return position, velocity, there


@dataclass(frozen=True, kw_only=True)
class MountainCar(PhysicsFamily):
    """The family with three actions. See `PhysicsFamily`.

    Args:
        horizon: steps after which an episode is truncated.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: _DEFAULT_PHYSICS)
    horizon: int = 200

    name: ClassVar[str] = "mountaincar"
    gymnasium_id: ClassVar[str] = "MountainCar-v0"
    render_fps: ClassVar[int] = 30
    reset_noise: ClassVar[int] = 1
    defaults: ClassVar[Mapping[str, float]] = {
        "gravity": 0.0025,
        "force": 0.001,
        "goal_position": 0.5,
        "goal_velocity": 0.0,
    }
    units: ClassVar[Mapping[str, str]] = {
        "gravity": "length/step^2, at the steepest slope",
        "force": "length/step^2, negative for a reversed motor",
        "goal_position": "length",
        "goal_velocity": "length/step",
    }

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """Position and velocity."""
        return _observation_space()

    @cached_property
    def action_space(self) -> gym.spaces.Discrete:
        """Backwards, nothing, forwards."""
        return gym.spaces.Discrete(3)

    def reset(self, params: Mapping[str, Array], noise: Array) -> Array:
        """Return states at rest near the bottom."""
        return _start(noise)

    def step(
        self, params: Mapping[str, Array], state: Array, action: Array, noise: Array
    ) -> tuple[Array, Array, Array]:
        """Accelerate, then move."""
        xp = namespace(state)
        position, velocity = columns(state)
        slope = xp.cos(3 * position) * -params["gravity"]
        velocity = velocity + ((action - 1) * params["force"] + slope)
        position, velocity, terminated = _drive(params, position, velocity)
        return from_columns([position, velocity]), -xp.ones_like(position), terminated

    def observe(self, params: Mapping[str, Array], state: Array) -> Array:
        """Return the state in float32."""
        return astype(state, "float32")


@dataclass(frozen=True, kw_only=True)
class MountainCarContinuous(PhysicsFamily):
    """The family with a continuous force. See `PhysicsFamily`.

    Args:
        horizon: steps after which an episode is truncated.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: _DEFAULT_CONTINUOUS)
    horizon: int = 999

    name: ClassVar[str] = "mountaincar-continuous"
    gymnasium_id: ClassVar[str] = "MountainCarContinuous-v0"
    dtype: ClassVar[torch.dtype] = torch.float32
    render_fps: ClassVar[int] = 30
    reset_noise: ClassVar[int] = 1
    defaults: ClassVar[Mapping[str, float]] = {
        "power": 0.0015,
        "goal_position": 0.45,
        "goal_velocity": 0.0,
    }
    units: ClassVar[Mapping[str, str]] = {
        "power": "length/step^2 at full force, negative for a reversed motor",
        "goal_position": "length",
        "goal_velocity": "length/step",
    }

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """Position and velocity."""
        return _observation_space()

    @cached_property
    def action_space(self) -> gym.spaces.Box:
        """The force as a fraction of the greatest; what lies outside is clipped."""
        return gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, params: Mapping[str, Array], noise: Array) -> Array:
        """Return states at rest near the bottom."""
        return _start(noise)

    def step(
        self, params: Mapping[str, Array], state: Array, action: Array, noise: Array
    ) -> tuple[Array, Array, Array]:
        """Accelerate, then move; an action outside its space is paid for in full, as Gymnasium's."""
        xp = namespace(state)
        position, velocity = columns(state)
        force = xp.clip(astype(action[:, 0], "float32"), -1.0, 1.0)
        # The cosine of the float32 angle is taken in float64, then rounded.
        cos = xp.cos(astype(3 * position, "float64"))
        slope = astype(CONTINUOUS_GRAVITY * cos, "float32")
        velocity = velocity + (force * params["power"] - slope)
        position, velocity, terminated = _drive(params, position, velocity)
        effort = astype(action[:, 0], "float64")
        reward = 100.0 * astype(terminated, "float64") - effort * effort * 0.1
        return from_columns([position, velocity]), reward, terminated

    def observe(self, params: Mapping[str, Array], state: Array) -> Array:
        """Return the state."""
        return state


mountaincar = FamilySpec(
    name="mountaincar",
    factory=MountainCar,
    presets={
        "default-physics": {},
        "wide": {"ranges": _WIDE},
        "interpolation": {
            "split_rule": "interpolation",
            "held_out": {"gravity": ((0.0023, 0.0027),)},
        },
        "extrapolation": {
            "split_rule": "extrapolation",
            "held_out": {"gravity": ((0.002, 0.0022), (0.0028, 0.003))},
        },
        "gymnasium": {"ranges": {}, "split_rule": "shared"},
    },
    summary="drive out of a valley whose gravity and engine vary",
)

mountaincar_continuous = FamilySpec(
    name="mountaincar-continuous",
    factory=MountainCarContinuous,
    presets={
        "default-physics": {},
        "wide": {"ranges": _WIDE_CONTINUOUS},
        "interpolation": {
            "split_rule": "interpolation",
            "held_out": {"power": ((0.0014, 0.0016),)},
        },
        "extrapolation": {
            "split_rule": "extrapolation",
            "held_out": {"power": ((0.001, 0.0012), (0.0018, 0.002))},
        },
        "gymnasium": {"ranges": {}, "split_rule": "shared"},
    },
    summary="drive out of a valley by a continuous force of varying power",
)
