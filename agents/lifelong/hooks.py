"""Prior knowledge of two kinds: which policies to try (bias), and what to say on the way (guidance).

A bias draws the action of a cell for which a policy has none yet. A guidance turns the value of an
expired goal into the one that the learner hears. Both are given the life's random numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from mtrl.agents.lifelong.messages import Event
from mtrl.agents.lifelong.worlds import HomeFood
from mtrl.errors import UsageError

__all__ = [
    "UNDECIDED",
    "Bias",
    "Chances",
    "Expiry",
    "Guidance",
    "LeftFirst",
    "Progress",
    "SameAsNeighbours",
    "Unbiased",
    "unguided",
]

UNDECIDED = -1
"""In a policy, the action of a cell that was not met yet."""
_ACTIONS = 4


class Chances:
    """Uniform numbers in [0, 1), one at a time; drawn by the thousand, which is faster."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._stock: list[float] = []

    def __call__(self) -> float:
        """Return the next one."""
        if not self._stock:
            self._stock = self._rng.random(4096).tolist()
        return self._stock.pop()

    def below(self, n: int) -> int:
        """Return a whole number in [0, n), each as likely."""
        return int(self() * n)


class Bias(Protocol):
    """Draws actions for cells that a policy is undecided about."""

    def draw(self, cell: int, policy: Sequence[int], chances: Chances) -> int:
        """Return the action of `cell`; `policy` has one per cell, or `UNDECIDED`."""


class Unbiased:
    """Every action is as likely."""

    def draw(self, cell: int, policy: Sequence[int], chances: Chances) -> int:
        """Return any action."""
        return chances.below(_ACTIONS)


@dataclass(frozen=True)
class SameAsNeighbours:
    """The same action for similar observations: that of a cell beside, where one is decided.

    Args:
        world: says which cells lie beside each other.
        share: how often; else any action.
    """

    world: HomeFood
    share: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"share is {self.share}; it must be in [0, 1]")

    def draw(self, cell: int, policy: Sequence[int], chances: Chances) -> int:
        """Return a decided neighbour's action, each neighbour as likely, or any action."""
        if chances() < self.share:
            decided = [policy[n] for n in self.world.neighbours[cell] if policy[n] != UNDECIDED]
            if decided:
                return decided[chances.below(len(decided))]
        return chances.below(_ACTIONS)


class Expiry(NamedTuple):
    """A goal that has expired: at which event, worth what, and where it began and ended."""

    goal: str
    event: Event
    value: float
    start: int
    end: int


Guidance = Callable[[Expiry, Chances], float]
"""Returns the value that the learner hears."""


def unguided(expiry: Expiry, chances: Chances) -> float:
    """Return the machine's own value."""
    return expiry.value


@dataclass(frozen=True)
class Progress:
    """A time-out hurts less the nearer it has brought the agent, most of the time.

    With probability `chance` the value of a time-out is raised by `scale` times the Manhattan
    distance gained on the target since the goal began (lowered, if lost).
    """

    world: HomeFood
    scale: float = 0.01
    chance: float = 0.8

    def __call__(self, expiry: Expiry, chances: Chances) -> float:
        """Return the value, guided."""
        if expiry.event is not Event.TIMED_OUT or chances() >= self.chance:
            return expiry.value
        target = self.world.targets()[expiry.goal.split()[0]]
        gained = self.world.manhattan(expiry.start, target)
        return expiry.value + self.scale * (gained - self.world.manhattan(expiry.end, target))


@dataclass(frozen=True)
class LeftFirst:
    """Praise for the left tunnel, where the longer way leads: `praise` mostly, else `blame`.

    Raises:
        UsageError: not blame < 0 < praise < 1, where 0 is the tunnel's value unguided and 1 that of
            reaching the target (Li 2020: b < neither < a < goal).
    """

    praise: float = 0.6
    blame: float = -0.2
    chance: float = 0.8

    def __post_init__(self) -> None:
        if not self.blame < 0 < self.praise < 1:
            raise UsageError(
                f"blame is {self.blame} and praise {self.praise}; give blame < 0 < praise < 1"
            )

    def __call__(self, expiry: Expiry, chances: Chances) -> float:
        """Return the value, guided."""
        if expiry.event is not Event.PASSED_LEFT:
            return expiry.value
        return self.praise if chances() < self.chance else self.blame
