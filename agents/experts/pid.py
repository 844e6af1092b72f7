"""A PID controller for many slots at once: u = P e + I sum(e) + D de.

The sum runs over the steps of an episode, the present one included. There is more than one reading
of the last term: the rate that the caller measures ("velocity", in units of the error per second),
or the change since the step before ("difference", 0 in the first step).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mtrl.errors import UsageError

__all__ = ["PID", "Derivative", "Gains"]

Derivative = Literal["velocity", "difference"]


@dataclass(frozen=True, kw_only=True)
class Gains:
    """The three gains."""

    proportional: float
    """Of the error."""
    integral: float = 0.0
    """Of the sum of the errors of all steps so far."""
    derivative: float = 0.0
    """Of the error's rate or difference."""


class PID:
    """The controller; it learns how many slots there are when it is first called.

    Args:
        gains: of the three terms.
        derivative: which one the last term takes.

    Raises:
        UsageError: an unknown derivative.
    """

    def __init__(self, gains: Gains, derivative: Derivative = "velocity") -> None:
        if derivative not in get_args(Derivative):
            raise UsageError(
                f"derivative is {derivative!r}; it must be one of {get_args(Derivative)}"
            )
        self.gains, self.derivative = gains, derivative
        self._sums = np.zeros(0)
        self._before = np.zeros(0)

    @property
    def remembers(self) -> bool:
        """Whether the output depends on earlier steps."""
        return self.gains.integral != 0 or self.derivative == "difference"

    def control(
        self, errors: NDArray[np.float64], rates: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the outputs (slots,) of the next step.

        Args:
            errors: (slots,).
            rates: (slots,), per second; not used if the derivative is a difference.

        Raises:
            UsageError: the number of slots has changed since the last step.
        """
        self._meet(len(errors))
        self._sums += errors
        slopes = rates
        if self.derivative == "difference":
            known = np.isfinite(self._before)
            slopes = np.where(known, errors - np.where(known, self._before, 0.0), 0.0)
            self._before = errors.copy()
        gains = self.gains
        return gains.proportional * errors + gains.integral * self._sums + gains.derivative * slopes

    def restart(self, ended: NDArray[np.bool_]) -> None:
        """Forget the slots whose episodes have `ended` (slots,); all True forgets their number."""
        if np.all(ended):
            self._sums, self._before = np.zeros(0), np.zeros(0)
            return
        self._meet(len(ended))
        self._sums[ended] = 0.0
        self._before[ended] = np.nan

    def _meet(self, slots: int) -> None:
        if len(self._sums) == 0 or not self.remembers:
            self._sums, self._before = np.zeros(slots), np.full(slots, np.nan)
        if len(self._sums) != slots:
            raise UsageError(
                f"the PID controller remembers {len(self._sums)} slots and was asked about {slots}; "
                "ask it once per step about all slots, and restart it when environments change"
            )
