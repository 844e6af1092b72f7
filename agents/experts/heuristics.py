"""Rules that solve environments without learning: our own for the mountain cars, Gymnasium's others."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from mtrl.agents.experts.expert import rows_of
from mtrl.errors import MissingExtraError

__all__ = [
    "BipedalWalkerExpert",
    "LunarLanderExpert",
    "MountainCarContinuousExpert",
    "MountainCarExpert",
]


def _directions(
    observations: NDArray[Any], reversed_motor: bool, expert: str
) -> NDArray[np.float64]:
    """Return 1 or -1 (slots,): with the velocity, which never takes energy away."""
    _, velocity = rows_of(observations, 2, expert).T
    forward = np.where(velocity < 0, -1.0, 1.0)
    return -forward if reversed_motor else forward


class MountainCarExpert:
    """Drives in the direction in which the car moves: action 2 forwards, 0 backwards.

    Args:
        reversed_motor: whether action 2 drives backwards, as a negative `force` makes it.
    """

    def __init__(self, *, reversed_motor: bool = False) -> None:
        self._reversed = reversed_motor

    def actions(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """Return 0 or 2 for each of `observations` (slots, 2)."""
        return 1 + _directions(observations, self._reversed, "mountain-car").astype(np.int64)


class MountainCarContinuousExpert:
    """Drives in the direction in which the car moves, with the same force always.

    Args:
        force: as a fraction of the greatest; less of it is cheaper and slower.
        reversed_motor: whether a positive force drives backwards.
    """

    def __init__(self, force: float = 1.0, *, reversed_motor: bool = False) -> None:
        self._force, self._reversed = force, reversed_motor

    def actions(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Return the force, (slots, 1), for each of `observations` (slots, 2)."""
        directions = _directions(observations, self._reversed, "mountain-car")
        return (self._force * directions[:, None]).astype(np.float32)


class LunarLanderExpert:
    """Gymnasium's own heuristic for `LunarLander-v3`, in both of its action spaces.

    Args:
        continuous: whether the environment is, as `gymnasium.make(..., continuous=True)` has it.

    Raises:
        MissingExtraError: Box2D is not installed.
    """

    def __init__(self, *, continuous: bool = False) -> None:
        self._heuristic = _box2d("lunar_lander").heuristic
        # It asks the environment for nothing but this.
        self._env = SimpleNamespace(unwrapped=SimpleNamespace(continuous=continuous))
        self._dtype = np.float32 if continuous else np.int64

    def actions(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return a choice, (slots,), or two forces, (slots, 2), for `observations` (slots, 8)."""
        rows = rows_of(observations, 8, "lunar lander")
        return np.array([self._heuristic(self._env, row) for row in rows], self._dtype)


class BipedalWalkerExpert:
    """Gymnasium's own heuristic for `BipedalWalker-v3`, which remembers the phase of each gait.

    Raises:
        MissingExtraError: Box2D is not installed.
    """

    def __init__(self) -> None:
        self._new_gait = _box2d("bipedal_walker").BipedalWalkerHeuristics
        self._gaits: list[Any] = []

    def actions(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Return four torques, (slots, 4), for each of `observations` (slots, 24)."""
        rows = rows_of(observations, 24, "bipedal walker")
        if len(self._gaits) != len(rows):
            self._gaits = [self._new_gait() for _ in rows]
        torques = [gait.step_heuristic(row) for gait, row in zip(self._gaits, rows, strict=True)]
        return np.array(torques, np.float32)

    def restart(self, ended: NDArray[np.bool_]) -> None:
        """Begin the gait of the slots whose episodes have `ended` (slots,) anew."""
        if len(self._gaits) == len(ended):
            for slot in np.flatnonzero(ended):
                self._gaits[slot] = self._new_gait()


def _box2d(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"gymnasium.envs.box2d.{module}")
    except (DependencyNotInstalled, ImportError) as error:
        raise MissingExtraError(
            f'the heuristic of {module} needs Box2D: pip install "gymnasium[box2d]"'
        ) from error
