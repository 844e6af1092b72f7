"""What an expert is.

An expert answers for many environments at once. One that remembers, such as the integral of a PID
controller, answers once per step and slot, always in the same order, and is told which episodes
have ended.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mtrl.errors import UsageError

__all__ = ["Expert", "Remembering", "restart", "rows_of"]


class Expert(Protocol):
    """Whoever can be asked what to do in a state."""

    def actions(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return an action of the environment's space for each of `observations` (slots, ...)."""


@runtime_checkable
class Remembering(Protocol):
    """An expert whose answer depends on what it saw before in the same episode."""

    def restart(self, ended: NDArray[np.bool_]) -> None:
        """Forget the slots whose episodes have `ended` (slots,)."""


def restart(expert: Expert, ended: NDArray[np.bool_]) -> None:
    """Tell `expert` which slots' episodes have `ended` (slots,), if it remembers anything.

    To be called after every step, and with True everywhere when environments are reset from outside.
    """
    if isinstance(expert, Remembering):
        expert.restart(ended)


def rows_of(observations: NDArray[Any], size: int, expert: str) -> NDArray[np.float64]:
    """Return observations as float64 (slots, size).

    Raises:
        UsageError: they have another shape; the message names the expert.
    """
    rows = np.asarray(observations, np.float64)
    if rows.ndim != 2 or rows.shape[1] != size:
        raise UsageError(
            f"observations have the shape {rows.shape}; the expert for {expert} takes (slots, {size})"
        )
    return rows
