"""The robots of Gymnasium's MuJoCo environments: what they observe, how they start, when they fall.

Each says what version 5 of Gymnasium's environment says, for many slots at once. Sizes and bounds
are written down, so that a family can be described where MuJoCo is not installed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

__all__ = ["ANT", "HALF_CHEETAH", "HOPPER", "HUMANOID", "WALKER2D", "Robot", "Snapshot"]

Array = NDArray[np.float64]


class Snapshot(NamedTuple):
    """Robots after a reset or step, the slots first: positions, velocities and kept fields.

    `masses` are those of the bodies, shaped (bodies,).
    """

    qpos: Array
    qvel: Array
    fields: Mapping[str, Array]
    masses: Array


@dataclass(frozen=True, kw_only=True)
class Robot:
    """A robot, as the half-cheetah is: nothing ends its episode.

    Attributes:
        gymnasium_id: Gymnasium's environment.
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        strength: the bound of each of them, the same on both sides.
        render_fps: steps per simulated second.
        start_noise: first positions are uniform within this of the model's, first velocities of 0.
        normal_start: first velocities are normal with this deviation instead.
        fields: names of the `MjData` arrays that observation and reward are made of.
    """

    gymnasium_id: str
    observation_size: int
    action_size: int
    strength: float = 1.0
    render_fps: int
    start_noise: float
    normal_start: bool = False
    fields: tuple[str, ...] = ()

    def start(self, uniform: Array, positions: int) -> tuple[Array, Array]:
        """Turn uniforms in [0, 1) into the noise of first positions and velocities."""
        first, second = uniform[:, :positions], uniform[:, positions:]
        qpos = self.start_noise * (2.0 * first - 1.0)
        if self.normal_start:
            # The quantile of 0 is infinite; 2^-54 lies within the step from 0 to the next uniform.
            return qpos, self.start_noise * ndtri(np.maximum(second, 2.0**-54))
        return qpos, self.start_noise * (2.0 * second - 1.0)

    def observe(self, now: Snapshot) -> Array:
        """Return the observations."""
        return np.concatenate([now.qpos[:, 1:], now.qvel], axis=1)

    def place(self, now: Snapshot) -> Array:
        """Return the positions, in metres, whose changes are the velocities: (slots, axes)."""
        return now.qpos[:, :1].copy()

    def healthy(self, now: Snapshot) -> NDArray[np.bool_]:
        """Return which slots' episodes may go on."""
        return np.ones(len(now.qpos), np.bool_)

    def contact(self, now: Snapshot) -> Array:
        """Return the sum of the squared contact forces and torques: 0, for they are not kept."""
        return np.zeros(len(now.qpos))


def _within(low: float, values: Array, high: float) -> NDArray[Any]:
    return (low < values) & (values < high)


class _Hopper(Robot):
    def observe(self, now: Snapshot) -> Array:
        return np.concatenate([now.qpos[:, 1:], np.clip(now.qvel, -10.0, 10.0)], axis=1)

    def healthy(self, now: Snapshot) -> NDArray[np.bool_]:
        rest = np.concatenate([now.qpos[:, 2:], now.qvel], axis=1)
        upright = (now.qpos[:, 1] > 0.7) & _within(-0.2, now.qpos[:, 2], 0.2)
        return np.asarray(upright & _within(-100.0, rest, 100.0).all(axis=1))


class _Walker2d(Robot):
    def observe(self, now: Snapshot) -> Array:
        return np.concatenate([now.qpos[:, 1:], np.clip(now.qvel, -10.0, 10.0)], axis=1)

    def healthy(self, now: Snapshot) -> NDArray[np.bool_]:
        height, angle = now.qpos[:, 1], now.qpos[:, 2]
        return np.asarray(_within(0.8, height, 2.0) & _within(-1.0, angle, 1.0))


class _Ant(Robot):
    def observe(self, now: Snapshot) -> Array:
        forces = now.fields["cfrc_ext"][:, 1:].reshape(len(now.qpos), -1)
        parts = [now.qpos[:, 2:], now.qvel, np.clip(forces, -1.0, 1.0)]
        return np.concatenate(parts, axis=1)

    def place(self, now: Snapshot) -> Array:
        return now.fields["xpos"][:, 1, :2].copy()  # the torso's

    def healthy(self, now: Snapshot) -> NDArray[np.bool_]:
        return np.asarray((0.2 <= now.qpos[:, 2]) & (now.qpos[:, 2] <= 1.0))

    def contact(self, now: Snapshot) -> Array:
        forces = np.clip(now.fields["cfrc_ext"], -1.0, 1.0)
        return np.asarray(np.square(forces).reshape(len(forces), -1).sum(axis=1))


class _Humanoid(Robot):
    def observe(self, now: Snapshot) -> Array:
        bodies = ("cinert", "cvel")
        parts = [now.qpos[:, 2:], now.qvel, *(now.fields[name][:, 1:] for name in bodies)]
        parts += [now.fields["qfrc_actuator"][:, 6:], now.fields["cfrc_ext"][:, 1:]]
        return np.concatenate([part.reshape(len(now.qpos), -1) for part in parts], axis=1)

    def place(self, now: Snapshot) -> Array:
        centre = np.einsum("b,nbj->nj", now.masses, now.fields["xipos"]) / now.masses.sum()
        return np.asarray(centre[:, :2])

    def healthy(self, now: Snapshot) -> NDArray[np.bool_]:
        return _within(1.0, now.qpos[:, 2], 2.0)

    def contact(self, now: Snapshot) -> Array:
        forces = now.fields["cfrc_ext"]
        return np.asarray(np.square(forces).reshape(len(forces), -1).sum(axis=1))


HALF_CHEETAH = Robot(
    gymnasium_id="HalfCheetah-v5",
    observation_size=17,
    action_size=6,
    render_fps=20,
    start_noise=0.1,
    normal_start=True,
)
HOPPER = _Hopper(
    gymnasium_id="Hopper-v5", observation_size=11, action_size=3, render_fps=125, start_noise=5e-3
)
WALKER2D = _Walker2d(
    gymnasium_id="Walker2d-v5",
    observation_size=17,
    action_size=6,
    render_fps=125,
    start_noise=5e-3,
)
ANT = _Ant(
    gymnasium_id="Ant-v5",
    observation_size=105,
    action_size=8,
    render_fps=20,
    start_noise=0.1,
    normal_start=True,
    fields=("xpos", "cfrc_ext"),
)
HUMANOID = _Humanoid(
    gymnasium_id="Humanoid-v5",
    observation_size=348,
    action_size=17,
    strength=0.4,
    render_fps=67,
    start_noise=1e-2,
    fields=("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext"),
)
