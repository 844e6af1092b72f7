"""How long an agent survives in a level: the same episodes for every agent."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.hexagon import LEVELS, Hexagon
from mtrl.envs.registry import get_family
from mtrl.reproduce.dex.courses import DexSettings
from mtrl.seeding import numpy_generator

__all__ = ["hexagon_family", "random_survival", "survival"]

Array = NDArray[np.float64]


@cache
def hexagon_family() -> Hexagon:
    """Return the family of all levels."""
    family = get_family(Hexagon.name, "levels")
    assert isinstance(family, Hexagon)
    return family


def survival(agent: Any, settings: DexSettings, level: str, episodes: int) -> Array:
    """Return how many steps a greedy agent survives (episodes,), in the same episodes at every call."""
    context = np.zeros((episodes, len(settings.levels)), np.float32)
    context[:, settings.levels.index(level)] = 1

    def act(observations: NDArray[np.float32]) -> NDArray[np.int64]:
        actions, _ = agent.predict(np.concatenate([observations, context], 1), deterministic=True)
        return np.asarray(actions)

    return _played(act, level, episodes)


def random_survival(level: str, episodes: int, seed: int) -> Array:
    """Return how many steps random actions survive (episodes,)."""
    rng = numpy_generator(seed, f"dex: random actions in {level}")
    return _played(lambda observations: rng.integers(3, size=len(observations)), level, episodes)


def _played(act: Callable[[NDArray[Any]], Any], level: str, episodes: int) -> Array:
    batch = hexagon_family().batch([LEVELS[level]], repeats=episodes)
    start = int(numpy_generator(0, f"dex: episodes of {level}").integers(2**31))
    observation = batch.reset(start + torch.arange(episodes))
    total = torch.zeros(episodes, dtype=batch.dtype)
    over = torch.zeros(episodes, dtype=torch.bool)
    while not over.all():
        # A slot that has ended stands still and earns nothing more.
        actions = torch.from_numpy(act(observation.numpy()))
        observation, reward, terminated, truncated = batch.step(actions)
        total, over = total + reward, terminated | truncated
    return total.double().numpy()
