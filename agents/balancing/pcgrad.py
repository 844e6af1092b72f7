"""PCGrad: each task's gradient gives up the part that points against another's.

Source: Yu et al. 2020, "Gradient Surgery for Multi-Task Learning" (arXiv:2001.06782), algorithm 1.

Scale: the sum of the projected gradients, as in the paper. It is the plain sum where no two tasks
conflict, and a conflict only takes parts of gradients away.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.agents.balancing.balancer import Array, Balancer, check_state
from mtrl.errors import CheckpointError

__all__ = ["PCGrad", "surgery_weights"]


def surgery_weights(gram: Array, orders: NDArray[np.int64]) -> Array:
    """Return the weights (tasks,) of the sum of projected gradients.

    Args:
        gram: (tasks, tasks), with a positive diagonal.
        orders: (tasks, tasks), for each task a permutation of all: whom it meets, one after another.
    """
    own = np.arange(len(gram))
    # Row i holds the projected gradient of task i as a combination of all tasks' gradients.
    parts = np.eye(len(gram))
    for others in orders.T:
        products = (parts * gram[others]).sum(1)
        met = (products < 0) & (others != own)
        parts[own, others] -= np.where(met, products / gram[others, others], 0.0)
    weights: Array = parts.sum(0)
    return weights


class _PCGrad(Balancer):
    def __init__(self, tasks: int, generator: torch.Generator) -> None:
        super().__init__(tasks)
        self._generator = generator

    def weigh(self, gram: Array, present: NDArray[np.int64], losses: Array | None) -> Array:
        chance = self._generator
        keys = torch.rand(gram.shape, generator=chance, device=chance.device, dtype=torch.float64)
        return surgery_weights(gram, keys.argsort(1).cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state().numpy().tobytes().hex()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state(state, self.state_dict())
        try:
            found = torch.frombuffer(bytearray.fromhex(state["generator"]), dtype=torch.uint8)
            self._generator.set_state(found)
        except (RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                "the balancer's checkpoint holds no state of a generator on "
                f"{self._generator.device}: resume on the device that it was made on"
            ) from error


@dataclass(frozen=True, kw_only=True)
class PCGrad:
    """Projects a task's gradient off every gradient that it conflicts with, in random order."""

    def build(self, tasks: int, generator: torch.Generator) -> Balancer:
        """Return the balancer, which draws orders from `generator` and saves its state."""
        return _PCGrad(tasks, generator)
