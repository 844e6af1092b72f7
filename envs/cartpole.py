"""Cart-pole: keep a pole upright by pushing its cart left or right.

The dynamics of Gymnasium's `CartPole-v1` (Barto, Sutton and Anderson 1983), to the last bit on the
CPU: reward 1 per step, the last one included; terminated when the cart leaves +-2.4 m or the pole
the failure angle; truncated after `step_limit` steps. The state and the observation are position,
velocity, angle and angular velocity. Action 1 pushes with `force_mag`, action 0 against it, so that
a negative one is a reversed motor.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from mtrl.envs.arrays import Array, astype, columns, empty_columns, from_columns, namespace
from mtrl.envs.family import FamilySpec
from mtrl.envs.physics import PhysicsFamily, RangeSpec
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["NO_LIMIT", "CartPole", "cartpole"]

X_THRESHOLD = 2.4
"""Metres from the middle at which the cart has left the track."""
START = 0.05
"""First states are uniform within this of 0 in every coordinate."""
NO_LIMIT = 2**53
"""A `step_limit` that no episode reaches."""

_DEFAULT_PHYSICS: Mapping[str, RangeSpec] = {
    "gravity": (7.0, 13.0),
    "masscart": (0.5, 2.0),
    "masspole": (0.05, 0.3),
    "length": (0.25, 1.0),
    "force_mag": (5.0, 15.0),
}
_WIDE: Mapping[str, RangeSpec] = {
    "gravity": (2.0, 20.0),
    "masscart": (0.25, 4.0),
    "masspole": (0.02, 1.0),
    "length": (0.1, 2.0),
    "force_mag": ((-20.0, -5.0), (5.0, 20.0)),
}


@dataclass(frozen=True, kw_only=True)
class CartPole(PhysicsFamily):
    """The family; `length` is half the pole's, as in Gymnasium. See `PhysicsFamily`."""

    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: _DEFAULT_PHYSICS)

    name: ClassVar[str] = "cartpole"
    gymnasium_id: ClassVar[str] = "CartPole-v1"
    render_fps: ClassVar[int] = 50
    reset_noise: ClassVar[int] = 4
    defaults: ClassVar[Mapping[str, float]] = {
        "gravity": 9.8,
        "masscart": 1.0,
        "masspole": 0.1,
        "length": 0.5,
        "force_mag": 10.0,
        "tau": 0.02,
        "failure_angle": 12.0,
        "step_limit": 500.0,
    }
    units: ClassVar[Mapping[str, str]] = {
        "gravity": "m/s^2",
        "masscart": "kg",
        "masspole": "kg",
        "length": "m, half the pole",
        "force_mag": "N, negative for a reversed motor",
        "tau": "s per step",
        "failure_angle": "degrees",
        "step_limit": "steps",
    }
    positive: ClassVar[frozenset[str]] = frozenset(
        {"masscart", "masspole", "length", "tau", "failure_angle", "step_limit"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.bounds("step_limit")
        if low < 1 or low != int(low) or high != int(high):
            raise UsageError(
                f"step_limit of 'cartpole' is in [{low}, {high}]; bounds must be whole and >= 1"
            )

    @property
    def horizon(self) -> int:  # type: ignore[override]  # read-only: the parameter decides it
        """The longest step limit."""
        return int(self.bounds("step_limit")[1])

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """Twice the thresholds, so that a failing state is inside; velocities are unbounded."""
        angle = 2 * math.radians(self.bounds("failure_angle")[1])
        high = np.array([2 * X_THRESHOLD, np.inf, angle, np.inf], np.float32)
        return gym.spaces.Box(-high, high, dtype=np.float32)

    @cached_property
    def action_space(self) -> gym.spaces.Discrete:
        """Push left, or right."""
        return gym.spaces.Discrete(2)

    def attributes(self, task: Task) -> dict[str, Any]:
        """Return Gymnasium's attributes, the derived ones included."""
        values: dict[str, Any] = dict(task.params)
        del values["step_limit"]  # that of a wrapper
        values["theta_threshold_radians"] = values.pop("failure_angle") * 2 * math.pi / 360
        values["total_mass"] = values["masspole"] + values["masscart"]
        values["polemass_length"] = values["masspole"] * values["length"]
        return values

    def step_limits(self, params: Mapping[str, Array]) -> Array:
        """Return each slot's step limit; fractions of a step are cut off."""
        return astype(params["step_limit"], "int64")

    def derive(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Add Gymnasium's derived attributes, and what else every step needs."""
        ones = namespace(params["tau"]).ones_like(params["tau"])
        return {
            **params,
            "total_mass": params["masspole"] + params["masscart"],
            "polemass_length": params["masspole"] * params["length"],
            # The furthest cart and pole, in the order of the state.
            "thresholds": from_columns(
                [X_THRESHOLD * ones, params["failure_angle"] * 2 * math.pi / 360]
            ),
            "twice_force_mag": 2 * params["force_mag"],
            "reward": ones,
        }

    def reset(self, params: Mapping[str, Array], noise: Array) -> Array:
        """Return states close to rest in the middle."""
        return -START + 2 * START * noise

    def step(
        self, params: Mapping[str, Array], state: Array, action: Array, noise: Array
    ) -> tuple[Array, Array, Array]:
        """Advance by one Euler step; every line computes in the order of Gymnasium's.

        In place where the formula allows it: for a few hundred slots, a new array costs a third of
        what is computed into it.
        """
        xp = namespace(state)
        old = columns(state)
        theta, theta_dot = old[2], old[3]
        cos, sin = xp.cos(theta), xp.sin(theta)
        masspole, length, tau = params["masspole"], params["length"], params["tau"]
        total_mass, polemass_length = params["total_mass"], params["polemass_length"]
        force = action * params["twice_force_mag"]
        force -= params["force_mag"]
        # temp = (force + polemass_length * theta_dot^2 * sin) / total_mass
        temp = theta_dot * theta_dot
        temp *= polemass_length
        temp *= sin
        temp += force
        temp /= total_mass
        # theta_acc = (gravity * sin - cos * temp) / (length * (4/3 - masspole * cos^2 / total_mass))
        inertia = cos * cos
        inertia *= masspole
        inertia /= total_mass
        inertia = length * (4.0 / 3.0 - inertia)
        theta_acc = params["gravity"] * sin
        theta_acc -= cos * temp
        theta_acc /= inertia
        # x_acc = temp - polemass_length * theta_acc * cos / total_mass
        x_acc = polemass_length * theta_acc
        x_acc *= cos
        x_acc /= total_mass
        x_acc = temp - x_acc
        new = empty_columns(theta, 4)
        xp.multiply(old[1::2], tau, out=new[::2])
        xp.multiply(x_acc, tau, out=new[1])
        xp.multiply(theta_acc, tau, out=new[3])
        new += old
        beyond = xp.abs(new[::2]) > columns(params["thresholds"])
        return new.T, params["reward"], beyond[0] | beyond[1]

    def observe(self, params: Mapping[str, Array], state: Array) -> Array:
        """Return the state in float32."""
        return astype(state, "float32")


cartpole = FamilySpec(
    name="cartpole",
    factory=CartPole,
    presets={
        "default-physics": {},
        "wide": {"ranges": _WIDE},
        "wide-200": {"ranges": {**_WIDE, "step_limit": 200.0}},
        "interpolation": {
            "split_rule": "interpolation",
            "held_out": {"length": ((0.5, 0.7),)},
        },
        "extrapolation": {
            "split_rule": "extrapolation",
            "held_out": {"length": ((0.25, 0.35), (0.8, 1.0))},
        },
        "wide-extrapolation": {
            "ranges": _WIDE,
            "split_rule": "extrapolation",
            "held_out": {"length": ((0.1, 0.2), (1.5, 2.0))},
        },
        "gymnasium": {"ranges": {}, "split_rule": "shared"},
        "aqil": {
            "ranges": {"failure_angle": 50.0, "step_limit": NO_LIMIT},
            "split_rule": "shared",
        },
    },
    summary="balance a pole on a cart whose masses, pole, motor and gravity vary",
)
