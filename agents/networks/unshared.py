"""Nothing shared: every task has a multi-layer perceptron of its own, all computed at once.

With a head per task it is as many single-task networks, trained by the loop and on the batches of a
shared trunk: what sharing alone does is the difference between the two.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtrl.agents.networks.conditioning import Conditioning
from mtrl.agents.networks.layers import ACTIVATIONS, Affine
from mtrl.agents.networks.tasks import TaskInput, TaskSpec, require_index
from mtrl.agents.networks.trunk import Trunk, TrunkFields, check_units
from mtrl.config import kind_name
from mtrl.errors import UsageError

__all__ = ["Unshared"]


class _UnsharedTrunk(Trunk):
    def __init__(
        self, config: "Unshared", shape: tuple[int, ...], tasks: int, generator: torch.Generator
    ) -> None:
        super().__init__(shape, config.hidden[-1])
        self._activation = ACTIVATIONS[config.activation]
        sizes = (math.prod(shape), *config.hidden)
        self.layers = nn.ModuleList(
            Affine((tasks, outputs, inputs), initializer=config.initializer, generator=generator)
            for inputs, outputs in itertools.pairwise(sizes)
        )

    def encode(self, observations: Tensor, task: TaskInput) -> Tensor:
        index = require_index(task, "a trunk per task")
        hidden = observations.flatten(1)
        for layer in self.layers:
            assert isinstance(layer, Affine)
            hidden = self._activation(layer.chosen(hidden, index))
        return hidden


@dataclass(frozen=True, kw_only=True)
class Unshared(TrunkFields):
    """A multi-layer perceptron for every task; a layer costs a sample at most twice what one task's does.

    Layers of at most 128 units of all tasks together are computed for all, which is faster; see
    `Affine.chosen`.
    """

    hidden: tuple[int, ...] = (256, 256)
    """Units of each task's layers; the last are the features."""

    def __post_init__(self) -> None:
        check_units(self, "hidden")

    def build(
        self,
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> Trunk:
        """Return the trunk for observations of `shape`.

        Raises:
            UsageError: there is a conditioning, which would tell a network the one task that it has.
        """
        if conditioning is not None:
            raise UsageError(
                f"conditioning is {kind_name(type(conditioning))} with the trunk unshared, in which "
                "every task has a network of its own; leave conditioning out"
            )
        return _UnsharedTrunk(self, shape, spec.tasks, generator)
