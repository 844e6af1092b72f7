"""Acrobot: swing the tip of a two-link arm above a bar by torque on the middle joint.

The dynamics of Gymnasium's `Acrobot-v1` (Sutton 1996, with the equations of Sutton and Barto's
book), but that Gymnasium squares by pow(), whose last bit may differ from a product's: reward -1 per step, 0 at the one that ends above the bar, where
the episode terminates. The state is both angles (the second relative to the first, 0 hanging) and
their speeds, the observation the cosine and sine of each angle and the speeds. Gymnasium fixes
gravity at 9.8 m/s^2, and the bar at the height of one metre whatever the links' lengths.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from mtrl.envs.arrays import Array, astype, columns, from_columns, namespace
from mtrl.envs.family import FamilySpec
from mtrl.envs.physics import PhysicsFamily, RangeSpec
from mtrl.envs.task import Task

__all__ = ["Acrobot", "acrobot"]

GRAVITY = 9.8
START = 0.1
"""First states are uniform within this of 0 in every coordinate."""
MAX_SPEEDS = 4 * math.pi, 9 * math.pi
"""Radians per second at which the joints' speeds are clipped."""

_DEFAULT_PHYSICS: Mapping[str, RangeSpec] = {
    "link_length_1": (0.75, 1.5),
    "link_mass_1": (0.5, 1.5),
    "link_mass_2": (0.5, 1.5),
}
_WIDE: Mapping[str, RangeSpec] = {
    "link_length_1": (0.5, 2.0),
    "link_mass_1": (0.25, 2.0),
    "link_mass_2": (0.25, 2.0),
    "link_com_pos_1": (0.25, 0.75),
    "link_com_pos_2": (0.25, 0.75),
    "link_moi": (0.5, 2.0),
    "torque": ((-2.0, -0.75), (0.75, 2.0)),
}


@dataclass(frozen=True, kw_only=True)
class Acrobot(PhysicsFamily):
    """The family; `torque` scales Gymnasium's -1, 0, +1. See `PhysicsFamily`.

    Args:
        horizon: steps after which an episode is truncated.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: _DEFAULT_PHYSICS)
    horizon: int = 500

    name: ClassVar[str] = "acrobot"
    gymnasium_id: ClassVar[str] = "Acrobot-v1"
    render_fps: ClassVar[int] = 15
    reset_noise: ClassVar[int] = 4
    defaults: ClassVar[Mapping[str, float]] = {
        "link_length_1": 1.0,
        "link_mass_1": 1.0,
        "link_mass_2": 1.0,
        "link_com_pos_1": 0.5,
        "link_com_pos_2": 0.5,
        "link_moi": 1.0,
        "torque": 1.0,
        "dt": 0.2,
    }
    units: ClassVar[Mapping[str, str]] = {
        "link_length_1": "m",
        "link_mass_1": "kg",
        "link_mass_2": "kg",
        "link_com_pos_1": "m from the upper joint to the centre of mass",
        "link_com_pos_2": "m from the middle joint to the centre of mass",
        "link_moi": "kg m^2, of both links",
        "torque": "N m, negative for a reversed motor",
        "dt": "s per step",
    }
    positive: ClassVar[frozenset[str]] = frozenset(
        {"link_length_1", "link_mass_1", "link_mass_2", "link_moi", "dt"}
    )

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """Cosine and sine of both angles, and the speeds."""
        high = np.array([1.0, 1.0, 1.0, 1.0, *MAX_SPEEDS], np.float32)
        return gym.spaces.Box(-high, high, dtype=np.float32)

    @cached_property
    def action_space(self) -> gym.spaces.Discrete:
        """Torque against, none, or with."""
        return gym.spaces.Discrete(3)

    def attributes(self, task: Task) -> dict[str, Any]:
        """Return Gymnasium's attributes, which are constants of its class."""
        values: dict[str, Any] = {name.upper(): value for name, value in task.params.items()}
        torque, dt = values.pop("TORQUE"), values.pop("DT")
        return {**values, "dt": dt, "AVAIL_TORQUE": [-torque, 0.0, torque]}

    def reset(self, params: Mapping[str, Array], noise: Array) -> Array:
        """Return states close to hanging at rest, in float32 as Gymnasium's."""
        return astype(astype(-START + 2 * START * noise, "float32"), "float64")

    def step(
        self, params: Mapping[str, Array], state: Array, action: Array, noise: Array
    ) -> tuple[Array, Array, Array]:
        """Integrate by one step of Runge-Kutta's fourth order."""
        xp = namespace(state)
        torque = (action - 1) * params["torque"]
        first, second, speed_1, speed_2 = _runge_kutta(params, columns(state), torque)
        first, second = _wrap(first), _wrap(second)
        speed_1 = xp.clip(speed_1, -MAX_SPEEDS[0], MAX_SPEEDS[0])
        speed_2 = xp.clip(speed_2, -MAX_SPEEDS[1], MAX_SPEEDS[1])
        terminated = -xp.cos(first) - xp.cos(second + first) > 1.0
        reward = astype(terminated, "float64") - 1.0
        return from_columns([first, second, speed_1, speed_2]), reward, terminated

    def observe(self, params: Mapping[str, Array], state: Array) -> Array:
        """Return cosine and sine of both angles and the speeds in float32."""
        xp = namespace(state)
        first, second, speed_1, speed_2 = columns(state)
        angles = [xp.cos(first), xp.sin(first), xp.cos(second), xp.sin(second)]
        return astype(from_columns([*angles, speed_1, speed_2]), "float32")


def _wrap(angle: Array) -> Array:
    """Return `angle` in [-pi, pi].

    Gymnasium subtracts one turn after another. Up to two turns, which a step does not exceed, all
    subtractions are exact, and so is this one.
    """
    xp = namespace(angle)
    turns = xp.ceil((xp.abs(angle) - math.pi) / (2 * math.pi)) * xp.sign(angle)
    return xp.where(xp.abs(angle) > math.pi, angle - turns * (2 * math.pi), angle)


def _derivative(
    params: Mapping[str, Array], state: Sequence[Array], torque: Array
) -> tuple[Array, ...]:
    """Return the speeds and accelerations; every line computes in the order of Gymnasium's."""
    theta1, theta2, dtheta1, dtheta2 = state
    xp = namespace(theta1)
    m1, m2, l1 = params["link_mass_1"], params["link_mass_2"], params["link_length_1"]
    lc1, lc2, moi = params["link_com_pos_1"], params["link_com_pos_2"], params["link_moi"]
    cos2, sin2 = xp.cos(theta2), xp.sin(theta2)
    d1 = m1 * (lc1 * lc1) + m2 * (l1 * l1 + lc2 * lc2 + 2 * l1 * lc2 * cos2) + moi + moi
    d2 = m2 * (lc2 * lc2 + l1 * lc2 * cos2) + moi
    phi2 = m2 * lc2 * GRAVITY * xp.cos(theta1 + theta2 - math.pi / 2)
    phi1 = (
        -m2 * l1 * lc2 * (dtheta2 * dtheta2) * sin2
        - 2 * m2 * l1 * lc2 * dtheta2 * dtheta1 * sin2
        + (m1 * lc1 + m2 * l1) * GRAVITY * xp.cos(theta1 - math.pi / 2)
        + phi2
    )
    centrifugal = m2 * l1 * lc2 * (dtheta1 * dtheta1) * sin2
    ddtheta2 = (torque + d2 / d1 * phi1 - centrifugal - phi2) / (
        m2 * (lc2 * lc2) + moi - d2 * d2 / d1
    )
    return dtheta1, dtheta2, -(d2 * ddtheta2 + phi1) / d1, ddtheta2


def _runge_kutta(
    params: Mapping[str, Array], state: Sequence[Array], torque: Array
) -> tuple[Array, ...]:
    """Return the state after one step of `dt`."""

    def ahead(time: Array, slope: tuple[Array, ...]) -> list[Array]:
        return [part + time * rate for part, rate in zip(state, slope, strict=True)]

    step = params["dt"]
    half = step / 2.0
    k1 = _derivative(params, state, torque)
    k2 = _derivative(params, ahead(half, k1), torque)
    k3 = _derivative(params, ahead(half, k2), torque)
    k4 = _derivative(params, ahead(step, k3), torque)
    sixth = step / 6.0
    return tuple(
        part + sixth * (a + 2 * b + 2 * c + d)
        for part, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True)
    )


acrobot = FamilySpec(
    name="acrobot",
    factory=Acrobot,
    presets={
        "default-physics": {},
        "wide": {"ranges": _WIDE},
        "interpolation": {
            "split_rule": "interpolation",
            "held_out": {"link_mass_2": ((0.9, 1.1),)},
        },
        "extrapolation": {
            "split_rule": "extrapolation",
            "held_out": {"link_mass_2": ((0.5, 0.7), (1.3, 1.5))},
        },
        "gymnasium": {"ranges": {}, "split_rule": "shared"},
    },
    summary="swing up a two-link arm whose lengths and masses vary",
)
