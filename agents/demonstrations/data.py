"""Recorded episodes as arrays, one row per step, refused by name where they cannot be learned from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from mtrl.errors import UsageError

__all__ = ["ARRAYS", "Demonstrations", "Episode", "joined"]

ARRAYS = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
"""The names of the arrays, each with one row per step."""


class Episode(NamedTuple):
    """The steps of one episode, views of the demonstrations' arrays; see `Demonstrations`."""

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    next_observations: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Demonstrations:
    """Whole episodes, one after the other.

    Attributes:
        observation_space: of the environment.
        action_space: of the environment.
        observations: (steps, *observation shape), before each step.
        actions: (steps, *action shape), so (steps,) of a discrete space.
        rewards: (steps,), the environment's own.
        next_observations: (steps, *observation shape), after each step; in an episode they are the
            observations of the next row.
        terminated: (steps,), True in the last step of an episode that the environment ended.
        truncated: (steps,), True in the last step of one that a limit cut off.
        ends: (episodes,), the number of steps after each episode: episode i has the rows from
            `ends[i - 1]` (0 for the first) up to, and not with, `ends[i]`.

    Raises:
        UsageError: there are no steps, an array does not fit its space or the others, a number is not
            finite, or the episodes' bounds do not add up; the message names the array and the row.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    next_observations: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    ends: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.rewards) == 0:
            raise UsageError("the demonstrations are empty; record at least one episode")
        _check_shapes(self)
        _check_numbers(self)
        _check_bounds(self)

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.rewards)

    @property
    def episodes(self) -> int:
        """How many episodes there are."""
        return len(self.ends)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each episode (episodes,)."""
        return np.diff(self.ends, prepend=0)

    @cached_property
    def returns(self) -> NDArray[np.float64]:
        """Sum of the rewards of each episode (episodes,)."""
        return np.add.reduceat(self.rewards, self.ends - self.lengths)

    def episode(self, index: int) -> Episode:
        """Return one episode."""
        rows = slice(int(self.ends[index] - self.lengths[index]), int(self.ends[index]))
        return Episode(*(getattr(self, name)[rows] for name in ARRAYS))

    def __iter__(self) -> Iterator[Episode]:
        """Iterate over the episodes."""
        return map(self.episode, range(self.episodes))

    def select(self, episodes: Sequence[int]) -> "Demonstrations":
        """Return these episodes, in this order.

        Raises:
            UsageError: there are none.
        """
        return joined(
            [self.episode(index) for index in episodes], self.observation_space, self.action_space
        )


def joined(
    episodes: Sequence[Episode], observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> Demonstrations:
    """Return episodes as demonstrations.

    Raises:
        UsageError: as of `Demonstrations`.
    """
    if not episodes:
        raise UsageError("the demonstrations are empty; record at least one episode")
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(episode, name) for episode in episodes]) for name in ARRAYS
    }
    return Demonstrations(
        observation_space=observation_space,
        action_space=action_space,
        ends=np.cumsum([len(episode.rewards) for episode in episodes]),
        **arrays,
    )


def _check_shapes(demos: Demonstrations) -> None:
    steps = len(demos.rewards)
    wanted: dict[str, tuple[tuple[int, ...], Any]] = {
        "rewards": ((), np.float64),
        "terminated": ((), np.bool_),
        "truncated": ((), np.bool_),
    }
    for name, space in _spaces(demos):
        if not isinstance(space, gym.spaces.Box | gym.spaces.Discrete):
            raise UsageError(
                f"the space of {name} is {space}; demonstrations hold arrays of a Box or numbers of "
                "a Discrete, flatten the others (gymnasium.wrappers.FlattenObservation)"
            )
        wanted[name] = (space.shape or (), space.dtype)
    for name, (shape, dtype) in wanted.items():
        array = getattr(demos, name)
        if array.shape != (steps, *shape) or array.dtype != dtype:
            raise UsageError(
                f"{name} are {array.dtype} of shape {array.shape}; {steps} steps of this "
                f"environment need {np.dtype(dtype)} of shape {(steps, *shape)}"
            )


def _check_numbers(demos: Demonstrations) -> None:
    for name in ("rewards", "observations", "next_observations", "actions"):
        _refuse_rows(name, getattr(demos, name), np.isfinite, "is not finite")
    for name, space in _spaces(demos):
        low, high = _bounds(space)
        outside = f"is not in the space {space}"
        _refuse_rows(
            name, getattr(demos, name), lambda x, a=low, b=high: (a <= x) & (x <= b), outside
        )


def _bounds(space: gym.Space[Any]) -> tuple[Any, Any]:
    if isinstance(space, gym.spaces.Discrete):
        return space.start, space.start + space.n - 1
    assert isinstance(space, gym.spaces.Box)
    return space.low, space.high


def _refuse_rows(name: str, array: NDArray[Any], good: Any, problem: str) -> None:
    fine = good(array).reshape(len(array), -1).all(axis=1)
    if not fine.all():
        row = int(fine.argmin())
        raise UsageError(f"{name}[{row}] is {array[row]}, which {problem}")


def _check_bounds(demos: Demonstrations) -> None:
    ends, steps = demos.ends, len(demos)
    if ends.ndim != 1 or ends.dtype != np.int64 or len(ends) == 0:
        raise UsageError(f"ends are {ends.dtype} of shape {ends.shape}; give int64 (episodes,)")
    if ends[-1] != steps or (demos.lengths < 1).any():
        raise UsageError(
            f"the episodes' bounds do not add up: they end after {ends.tolist()[-5:]} of {steps} "
            "steps; they must grow, and the last must be the number of steps"
        )
    last = np.zeros(steps, np.bool_)
    last[ends - 1] = True
    over = demos.terminated | demos.truncated
    if (over != last).any():
        row = int((over != last).argmax())
        states = "goes on after" if last[row] else "ends in"
        raise UsageError(
            f"the episodes' bounds do not add up: an episode {states} step {row} by terminated and "
            "truncated, and by ends it does not; one of both is True in an episode's last step only"
        )
    inside = np.flatnonzero(~last)
    _refuse_gaps(demos, inside)


def _refuse_gaps(demos: Demonstrations, inside: NDArray[np.int64]) -> None:
    differs = demos.next_observations[inside] != demos.observations[inside + 1]
    torn = differs.any(axis=tuple(range(1, differs.ndim)))
    if torn.any():
        row = int(inside[torn.argmax()])
        raise UsageError(
            f"next_observations[{row}] are not observations[{row + 1}] although the episode goes on: "
            "steps are missing or out of order"
        )


def _spaces(demos: Demonstrations) -> list[tuple[str, gym.Space[Any]]]:
    return [
        ("observations", demos.observation_space),
        ("next_observations", demos.observation_space),
        ("actions", demos.action_space),
    ]
