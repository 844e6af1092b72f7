"""Record whole episodes of an expert, in one environment or in many at once."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from mtrl.agents.demonstrations.data import Demonstrations, Episode, joined
from mtrl.agents.demonstrations.stepping import Stepper, stepper_of
from mtrl.agents.experts.expert import Expert, restart
from mtrl.errors import UsageError

__all__ = ["record"]


def record(
    expert: Expert,
    env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | Any,
    *,
    episodes: int,
    seed: int,
) -> Demonstrations:
    """Return `episodes` whole episodes; each must end, so give a limit to an environment without.

    Each sub-environment plays its share of them, decided beforehand: the first ones to end would be
    the short ones.

    Args:
        expert: who acts.
        env: a Gymnasium environment, a Gymnasium vector environment that resets in the step that
            ends an episode (`AutoresetMode.SAME_STEP`), or a `VecEnv` of Stable-Baselines3.
        episodes: of all sub-environments together.
        seed: of the first reset.

    Raises:
        UsageError: no episodes, a vector environment that resets otherwise, or what
            `Demonstrations` refuses.
    """
    if episodes < 1:
        raise UsageError(f"episodes is {episodes}; record at least 1")
    stepper = stepper_of(env)
    slots = np.arange(stepper.slots)
    books = [
        _Book(int(share)) for share in episodes // len(slots) + (slots < episodes % len(slots))
    ]
    obs = stepper.reset(seed)
    restart(expert, np.ones(stepper.slots, np.bool_))
    while any(book.open for book in books):
        actions = np.asarray(expert.actions(obs), stepper.action_space.dtype)
        step = stepper.step(actions)
        # An environment may end an episode for both reasons at once; that it terminated counts.
        cut_off = step.truncated & ~step.terminated
        columns = (obs, actions, step.rewards, step.reached, step.terminated, cut_off)
        for book, *row in zip(books, *columns, strict=True):
            book.write(row)
        restart(expert, step.terminated | step.truncated)
        obs = step.following
    done = [_episode(rows, stepper) for book in books for rows in book.episodes]
    return joined(done, stepper.observation_space, stepper.action_space)


class _Book:
    """The episodes of one slot, each a list of steps, each step in the order of `ARRAYS`."""

    def __init__(self, wanted: int) -> None:
        self.episodes: list[list[list[Any]]] = []
        self._wanted = wanted
        self._rows: list[list[Any]] = []

    @property
    def open(self) -> bool:
        return len(self.episodes) < self._wanted

    def write(self, row: list[Any]) -> None:
        if not self.open:
            return
        self._rows.append(row)
        terminated, truncated = row[-2:]
        if terminated or truncated:
            self.episodes.append(self._rows)
            self._rows = []


def _episode(rows: list[list[Any]], stepper: Stepper) -> Episode:
    seen, acts = stepper.observation_space.dtype, stepper.action_space.dtype
    dtypes = (seen, acts, np.float64, seen, np.bool_, np.bool_)
    columns = zip(*rows, strict=True)
    return Episode(*(np.array(x, dtype) for x, dtype in zip(columns, dtypes, strict=True)))
