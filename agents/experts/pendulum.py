"""Swings a pendulum up by its energy and holds it there with a PID controller.

Far from upright the torque goes with the speed as long as the energy is too small (Åström and Furuta
2000): the motor is too weak to lift the pendulum at once. The energy per inertia is speed^2 / 2 plus
3 g / (2 l) (cos angle - 1), which is 0 at rest upright.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.experts.expert import rows_of
from mtrl.agents.experts.pid import PID, Derivative, Gains
from mtrl.errors import UsageError

__all__ = ["PendulumExpert", "PendulumPhysics"]

BALANCING_GAINS = Gains(proportional=15.0, derivative=3.0)
SWITCH = 0.8
"""Radians from upright within which the controller holds the pendulum."""


@dataclass(frozen=True, kw_only=True)
class PendulumPhysics:
    """What the expert knows of the pendulum; the defaults are Gymnasium's."""

    g: float = 10.0
    """m/s^2."""
    l: float = 1.0
    """Metres."""
    max_torque: float = 2.0
    """N m."""


class PendulumExpert:
    """Answers with torques, or with the number of the nearest of several torques.

    Args:
        torques: (choices,), those of `Pendulum.torque_choices`, for an environment of choices; None
            answers with the torque itself, (slots, 1) in float32.
        physics: of the pendulum.
        gains: of the controller near upright, in N m per radian.
        derivative: what its last term takes.
        pumping: torque per energy and inertia, N m s^2.

    Raises:
        UsageError: `torques` is empty.
    """

    def __init__(
        self,
        torques: NDArray[Any] | None = None,
        *,
        physics: PendulumPhysics | None = None,
        gains: Gains = BALANCING_GAINS,
        derivative: Derivative = "velocity",
        pumping: float = 1.0,
    ) -> None:
        if torques is not None and len(torques) == 0:
            raise UsageError("torques is empty; give at least one, or None for any torque")
        self._torques = None if torques is None else np.asarray(torques, np.float64)
        self._physics = physics or PendulumPhysics()
        self._pid = PID(gains, derivative)
        self._pumping = pumping

    def actions(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return a torque or a choice for each of `observations` (slots, 3).

        Raises:
            UsageError: observations of another shape, or of another number of slots than before.
        """
        cos, sin, speed = rows_of(observations, 3, "pendulum").T
        angle = np.arctan2(sin, cos)
        near = np.abs(angle) < SWITCH
        # Asked in every step, for the sake of its memory: what is far away counts as no error.
        hold = -self._pid.control(np.where(near, angle, 0.0), np.where(near, speed, 0.0))
        limit = self._physics.max_torque
        torque = np.clip(np.where(near, hold, self._pump(cos, speed)), -limit, limit)
        if self._torques is None:
            return torque[:, None].astype(np.float32)
        choices: NDArray[np.int64] = np.abs(torque[:, None] - self._torques).argmin(1)
        return choices

    def _pump(self, cos: NDArray[np.float64], speed: NDArray[np.float64]) -> NDArray[np.float64]:
        physics = self._physics
        energy = 0.5 * speed**2 + 1.5 * physics.g / physics.l * (cos - 1)
        # At rest any direction is as good as the other.
        return -self._pumping * energy * np.where(speed < 0, -1.0, 1.0)

    def restart(self, ended: NDArray[np.bool_]) -> None:
        """Forget the slots whose episodes have `ended` (slots,)."""
        self._pid.restart(ended)
