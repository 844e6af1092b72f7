"""Pendulum: swing up and balance, with a torque too weak to do it at once.

The states are those of Gymnasium's `Pendulum-v1` to the last bit on the CPU. The cost is
angle^2 + 0.1 speed^2 + 0.001 torque^2 of the state and torque before the step, with the angle in
[-pi, pi) and 0 upright. The state is (angle, speed) in radians, the observation (cos, sin, speed).
An episode never terminates. With `torques` the actions are choices among that many torques, for
algorithms that need a finite number of actions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.arrays import Array, astype, columns, from_columns, namespace
from mtrl.envs.family import FamilySpec
from mtrl.envs.physics import PhysicsFamily, RangeSpec
from mtrl.errors import UsageError

__all__ = ["Pendulum", "pendulum"]

MAX_SPEED = 8.0
"""Radians per second at which the speed is clipped."""

_DEFAULT_PHYSICS: Mapping[str, RangeSpec] = {
    "g": (7.0, 13.0),
    "m": (0.5, 1.5),
    "l": (0.5, 1.5),
}
_WIDE: Mapping[str, RangeSpec] = {
    "g": (2.0, 20.0),
    "m": (0.25, 2.0),
    "l": (0.25, 2.0),
    "max_torque": (1.0, 4.0),
}


@dataclass(frozen=True, kw_only=True)
class Pendulum(PhysicsFamily):
    """The family; parameters have Gymnasium's names. See `PhysicsFamily`.

    Args:
        horizon: steps after which an episode is truncated.
        torques: how many torques there are to choose from, evenly spaced between the strongest in
            both directions; 0 leaves the torque a real number.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: _DEFAULT_PHYSICS)
    horizon: int = 200
    torques: int = 0

    name: ClassVar[str] = "pendulum"
    gymnasium_id: ClassVar[str] = "Pendulum-v1"
    render_fps: ClassVar[int] = 30
    reset_noise: ClassVar[int] = 2
    defaults: ClassVar[Mapping[str, float]] = {
        "g": 10.0,
        "m": 1.0,
        "l": 1.0,
        "max_torque": 2.0,
        "dt": 0.05,
    }
    units: ClassVar[Mapping[str, str]] = {
        "g": "m/s^2",
        "m": "kg",
        "l": "m",
        "max_torque": "N m",
        "dt": "s per step",
    }
    positive: ClassVar[frozenset[str]] = frozenset({"m", "l", "max_torque", "dt"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.torques < 0 or self.torques == 1:
            raise UsageError(
                f"torques of 'pendulum' is {self.torques}; give at least 2, or 0 for any torque"
            )

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """Cosine and sine of the angle, and the speed."""
        high = np.array([1.0, 1.0, MAX_SPEED], np.float32)
        return gym.spaces.Box(-high, high, dtype=np.float32)

    @cached_property
    def action_space(self) -> gym.spaces.Box | gym.spaces.Discrete:
        """Torques up to the strongest motor's, which a task clips to its own; or their numbers."""
        if self.torques:
            return gym.spaces.Discrete(self.torques)
        strongest = self.bounds("max_torque")[1]
        return gym.spaces.Box(-strongest, strongest, (1,), np.float32)

    @cached_property
    def torque_choices(self) -> NDArray[np.float32]:
        """The torques (choices,) that the actions stand for, from the most negative on.

        Raises:
            UsageError: the torque is a real number.
        """
        if not self.torques:
            raise UsageError("the torque of this pendulum is a real number; give it torques=5, say")
        strongest = self.bounds("max_torque")[1]
        return np.linspace(-strongest, strongest, self.torques, dtype=np.float32)

    def pose(self, env: Any, state: NDArray[Any], action: Any) -> None:
        """Put Gymnasium's pendulum in `state`, with the arrow of the torque."""
        super().pose(env, state, action)
        if action is None:
            env.last_u = None
            return
        torque = self.torque_choices[action] if self.torques else np.ravel(action)[0]
        env.last_u = np.clip(torque, -env.max_torque, env.max_torque)

    def _torque(self, action: Array) -> Array:
        """Return the torque (slots,) that is asked for, in float32."""
        if not self.torques:
            return astype(action[:, 0], "float32")
        if isinstance(action, np.ndarray):
            return self.torque_choices[action]
        return torch.as_tensor(self.torque_choices, device=action.device)[action]

    def reset(self, params: Mapping[str, Array], noise: Array) -> Array:
        """Return angles in [-pi, pi) and speeds in [-1, 1)."""
        angle, speed = columns(2.0 * noise - 1.0)
        return from_columns([math.pi * angle, speed])

    def step(
        self, params: Mapping[str, Array], state: Array, action: Array, noise: Array
    ) -> tuple[Array, Array, Array]:
        """Turn with the torque; every line computes in the order of Gymnasium's."""
        xp = namespace(state)
        angle, speed = columns(state)
        # Gymnasium's torque is the action's float32, which is what NumPy multiplies in.
        limit = astype(params["max_torque"], "float32")
        torque = xp.clip(self._torque(action), -limit, limit)
        length = params["l"]
        upright = (angle + math.pi) % (2 * math.pi) - math.pi
        cost = upright * upright + 0.1 * (speed * speed) + 0.001 * (torque * torque)
        push = astype(3.0 / (params["m"] * (length * length)), "float32") * torque
        gravity = 3 * params["g"] / (2 * length) * xp.sin(angle)
        speed = xp.clip(speed + (gravity + push) * params["dt"], -MAX_SPEED, MAX_SPEED)
        state = from_columns([angle + speed * params["dt"], speed])
        return state, -cost, cost < 0  # a square is never negative: never terminated

    def observe(self, params: Mapping[str, Array], state: Array) -> Array:
        """Return (cos, sin, speed) in float32."""
        xp = namespace(state)
        angle, speed = columns(state)
        return astype(from_columns([xp.cos(angle), xp.sin(angle), speed]), "float32")


pendulum = FamilySpec(
    name="pendulum",
    factory=Pendulum,
    presets={
        "default-physics": {},
        "wide": {"ranges": _WIDE},
        "interpolation": {"split_rule": "interpolation", "held_out": {"l": ((0.9, 1.1),)}},
        "extrapolation": {
            "split_rule": "extrapolation",
            "held_out": {"l": ((0.5, 0.65), (1.3, 1.5))},
        },
        "gymnasium": {"ranges": {}, "split_rule": "shared"},
        "five-torques": {"ranges": {}, "split_rule": "shared", "torques": 5},
    },
    summary="swing up a pendulum whose mass, length and gravity vary",
)
