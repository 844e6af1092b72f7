"""No balancing: the plain sum of tasks' gradients, which is what every other method is compared with."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.agents.balancing.balancer import Array, Balancer

__all__ = ["Sum"]


class _Sum(Balancer):
    def __init__(self, tasks: int, *, watch: bool) -> None:
        super().__init__(tasks)
        self.plain = not watch

    def weigh(self, gram: Array, present: NDArray[np.int64], losses: Array | None) -> Array:
        return np.ones(len(gram))


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The sum of tasks' gradients: the gradient of the loss as it is."""

    watch: bool = False
    """Whether tasks' gradients are taken apart all the same, to see their conflicts. It costs what
    balancing costs, and the sum then differs from autograd's by rounding."""

    def build(self, tasks: int, generator: torch.Generator) -> Balancer:
        """Return the balancer; it draws nothing from `generator`."""
        return _Sum(tasks, watch=self.watch)
