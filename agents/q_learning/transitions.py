"""Recorded transitions, as a replay buffer takes them."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Transitions"]


class Transitions(Protocol):
    """Arrays with N rows each, in the order in which the steps happened.

    A row that neither terminated nor was truncated is followed by the next row of the same episode.
    `mtrl.agents.demonstrations.Demonstrations` is one.
    """

    @property
    def observations(self) -> NDArray[Any]:
        """Before each step, (N, ...)."""

    @property
    def actions(self) -> NDArray[Any]:
        """Numbers of actions, (N,)."""

    @property
    def rewards(self) -> NDArray[Any]:
        """The environment's, (N,)."""

    @property
    def next_observations(self) -> NDArray[Any]:
        """After each step, (N, ...), of the same episode."""

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Whether the environment ended the episode, (N,)."""

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """Whether a limit cut it off, (N,)."""
