"""A PID controller that balances cart-poles.

Source of the gains: Zhang and Agarwal 2020 (arXiv:2004.00993), P = 0.6, I = 0.00625, D = 0.8 on the
pole's angle. They see neither the cart's position nor its velocity, and so lose it over the track's
end after hundreds or thousands of steps.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.experts.expert import rows_of
from mtrl.agents.experts.pid import PID, Derivative, Gains

__all__ = ["BALANCING_GAINS", "PAPER_GAINS", "CartPoleExpert"]

PAPER_GAINS = Gains(proportional=0.6, integral=0.00625, derivative=0.8)
BALANCING_GAINS = Gains(proportional=1.0, derivative=0.5)
"""With `centring` they keep the pole up and the cart on the track, at all default physics."""
CENTRING = 0.1
"""Radians of lean towards the middle for each metre from it."""


class CartPoleExpert:
    """Pushes under the pole: towards where it leans, or where the controller wants the cart.

    The error is the pole's angle in radians, plus `centring` times the cart's position, whose rate is
    the angular velocity, plus `centring` times the cart's. The push has the sign of the controller's
    output: action 1 where it is above 0, else 0, and the other way round with `reversed_motor`.

    Args:
        gains: of the controller.
        derivative: what its last term takes.
        centring: radians per metre; 0 ignores where the cart is, as the paper's expert does.
        reversed_motor: whether action 1 pushes to the left, as a negative `force_mag` makes it.
    """

    def __init__(
        self,
        gains: Gains = BALANCING_GAINS,
        derivative: Derivative = "velocity",
        *,
        centring: float = CENTRING,
        reversed_motor: bool = False,
    ) -> None:
        self._pid = PID(gains, derivative)
        self._centring, self._reversed = centring, reversed_motor

    @classmethod
    def of_paper(cls, derivative: Derivative = "velocity") -> "CartPoleExpert":
        """Return the expert of Zhang and Agarwal, which does not say what the derivative is."""
        return cls(PAPER_GAINS, derivative, centring=0.0)

    def actions(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """Return 0 or 1 for each of `observations` (slots, 4).

        Raises:
            UsageError: observations of another shape, or of another number of slots than before.
        """
        x, x_dot, theta, theta_dot = rows_of(observations, 4, "cart-pole").T
        output = self._pid.control(theta + self._centring * x, theta_dot + self._centring * x_dot)
        pushes: NDArray[np.int64] = ((output > 0) != self._reversed).astype(np.int64)
        return pushes

    def restart(self, ended: NDArray[np.bool_]) -> None:
        """Forget the slots whose episodes have `ended` (slots,)."""
        self._pid.restart(ended)
