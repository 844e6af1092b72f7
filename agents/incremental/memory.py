"""What is remembered of finished tasks: rows taken out of the agent's buffer, and batches of them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

__all__ = ["Columns", "RehearsalMemory", "at_rows", "observations_at"]

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


class RehearsalMemory:
    """Rows remembered of each finished stage, and batches drawn from all of them alike.

    False while nothing is remembered.

    Args:
        device: where batches are wanted.
        chance: what they are drawn from.

    Attributes:
        stages: the columns of each stage.
        rows: those of all stages, one after another.
    """

    def __init__(self, device: torch.device, chance: torch.Generator) -> None:
        self._device, self._chance = device, chance
        self._remember([])

    def __bool__(self) -> bool:
        return bool(self.stages)

    def append(self, columns: Columns) -> None:
        """Remember the rows of one more stage."""
        self._remember([*self.stages, columns])

    def draw(self, count: int) -> Columns:
        """Return `count` rows, drawn with replacement."""
        length = len(next(iter(self.rows.values())))
        chosen = torch.randint(length, (count,), generator=self._chance).to(self._device)
        return {name: column[chosen] for name, column in self.rows.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the memory, and where its chance is."""
        return {"memory": list(self.stages), "chance": self._chance.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them."""
        self._remember(
            [{n: c.to(self._device) for n, c in each.items()} for each in state["memory"]]
        )
        self._chance.set_state(state["chance"])

    def _remember(self, stages: list[Columns]) -> None:
        self.stages = stages
        names = stages[0] if stages else ()
        self.rows = {name: torch.cat([each[name] for each in stages]) for name in names}
