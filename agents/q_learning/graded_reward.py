"""AQIL's imitation reward: graded by the angle and by how near the action is to the expert's.

Source: Zhang and Agarwal 2020 (arXiv:2004.00993):
R = 0.2 exp(-((theta_opt - theta) / sigma_1)^2 / 2) + 0.8 exp(-((a_expert - a) / sigma_2)^2 / 2).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.errors import UsageError

__all__ = ["GradedReward", "bell", "wrapped_degrees"]


def wrapped_degrees(angles: NDArray[Any]) -> NDArray[np.float64]:
    """Return the same directions in [-180, 180)."""
    wrapped: NDArray[np.float64] = (np.asarray(angles, np.float64) + 180) % 360 - 180
    return wrapped


def bell(differences: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Return exp(-(difference / width)^2 / 2)."""
    heights: NDArray[np.float64] = np.exp(-0.5 * np.square(differences / width))
    return heights


@dataclass(frozen=True, kw_only=True)
class GradedReward:
    """The reward's settings; the defaults are the paper's, for cart-pole.

    Raises:
        UsageError: widths that are not positive, negative weights, or an angle that is weighed and not
            to be found in the observation.
    """

    angle_weight: float = 0.2
    """Of the angle."""
    agreement_weight: float = 0.8
    """Of the agreement with the expert's action."""
    angle_width: float = 10.0
    """sigma_1, in degrees."""
    action_width: float = 0.5
    """sigma_2, in units of the action's value."""
    best_angle: float = 0.0
    """theta_opt, in degrees."""
    angle_index: int | tuple[int, int] | None = 2
    """Where the observation has the angle, in radians; or its cosine and its sine; none has no angle."""
    action_values: tuple[float, ...] | None = None
    """What each action counts as in the difference. None is its number: a mistake between 0 and 1 then
    costs 0.8 * (1 - exp(-2)) with the paper's widths. The paper speaks of a force of (-1, 1) and does not
    say which of the two it subtracts."""

    def __post_init__(self) -> None:
        for name in ("angle_width", "action_width"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("angle_weight", "agreement_weight"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.angle_index is None and self.angle_weight > 0:
            raise UsageError(
                f"angle_weight is {self.angle_weight} and angle_index None; say where the angle is, or "
                "set angle_weight to 0"
            )

    def __call__(
        self, observations: NDArray[Any], actions: NDArray[Any], expert_actions: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Return the reward, (batch,), of actions and the expert's actions, (batch,), in the same states.

        Args:
            observations: (batch, features), of the states in which the actions are taken.
            actions: of the learner.
            expert_actions: what the expert would do.
        """
        difference = self._value(expert_actions) - self._value(actions)
        reward = self.agreement_weight * bell(difference, self.action_width)
        if self.angle_index is None:
            return reward
        off = wrapped_degrees(self.best_angle - self._degrees(observations, self.angle_index))
        return reward + self.angle_weight * bell(off, self.angle_width)

    def _degrees(
        self, observations: NDArray[Any], index: int | tuple[int, int]
    ) -> NDArray[np.float64]:
        found = np.asarray(observations, np.float64)
        if isinstance(index, tuple):
            cosine, sine = index
            found, index = np.arctan2(found[:, sine], found[:, cosine])[:, None], 0
        degrees: NDArray[np.float64] = np.degrees(found[:, index])
        return degrees

    def _value(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        numbers = np.asarray(actions).reshape(-1)
        if self.action_values is None:
            return numbers.astype(np.float64)
        values: NDArray[np.float64] = np.asarray(self.action_values, np.float64)[numbers]
        return values
