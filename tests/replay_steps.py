"""Steps to put into replay buffers, each known by its numbers."""

from types import SimpleNamespace
from typing import Any

import numpy as np

EMPTY: list[int] = []


def row_of(
    row: int, envs: int, ended: Any = None, truncated: Any = None
) -> tuple[Any, Any, Any, Any, Any, list[dict[str, Any]]]:
    """Return the arguments of `ReplayBuffer.add` for one step of each environment.

    Environment e is at 1000 e + row and gets the reward e + row / 8, which float32 holds exactly.
    """
    env = np.arange(envs)
    ended = np.zeros(envs, bool) if ended is None else np.asarray(ended, bool)
    time_up = np.zeros(envs, bool) if truncated is None else np.asarray(truncated, bool)
    at = (1000.0 * env + row)[:, None]
    infos = [{"TimeLimit.truncated": bool(cut)} for cut in time_up]
    return at, at + 0.5, (env + row) % 3, env + row / 8, ended | time_up, infos


def recorded(
    count: int, first: int = 0, terminated: list[int] = EMPTY, truncated: list[int] = EMPTY
) -> Any:
    """Return `count` recorded steps at first, first + 1, ..., that end in the named rows."""
    rows = np.arange(count)
    at = (first + rows).astype(float)[:, None]
    return SimpleNamespace(
        observations=at,
        actions=rows % 3,
        rewards=rows / 4 - 1,
        next_observations=at + 0.5,
        terminated=np.isin(rows, terminated),
        truncated=np.isin(rows, truncated),
    )
