"""What is remembered of finished tasks: rows taken out of the agent's buffer, and batches of them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

__all__ = ["Columns", "at_rows", "concatenated", "draw", "observations_at"]

Columns = dict[str, Tensor]
"""Columns by name, all with as many rows."""


def at_rows(agent: Any, names: tuple[str, ...], rows: NDArray[np.int64]) -> Columns:
    """Return copies of the named arrays of the agent's buffer at `rows`, on its device."""
    buffer = getattr(agent, "replay_buffer", None) or agent.rollout_buffer
    found = {}
    for name in names:
        array = getattr(buffer, name)
        # Indexing makes a copy.
        taken = array.reshape(-1, *array.shape[2:])[rows]
        found[name] = torch.as_tensor(taken, device=agent.device)
    return found


def observations_at(agent: BaseAlgorithm, rows: NDArray[np.int64]) -> Tensor:
    """Return the observations at these rows of the agent's buffer."""
    return at_rows(agent, ("observations",), rows)["observations"]


def concatenated(memories: list[Columns]) -> Columns:
    """Return all rows of several memories, nothing of none."""
    if not memories:
        return {}
    return {name: torch.cat([each[name] for each in memories]) for name in memories[0]}


def draw(memory: Columns, count: int, generator: torch.Generator) -> Columns:
    """Return `count` rows of a memory, drawn with replacement."""
    length = len(next(iter(memory.values())))
    chosen = torch.randint(length, (count,), generator=generator)
    return {name: column[chosen.to(column.device)] for name, column in memory.items()}
