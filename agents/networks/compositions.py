"""A trunk whose every weight is a combination of a few sets of weights, chosen by the task.

Source: Sun et al. 2022, "PaCo: Parameter-Compositional Multi-Task Reinforcement Learning"
(arXiv:2210.11653), equation 4: theta_task = Phi w_task. Left out: the resetting of a task's w when its
loss explodes, which belongs to an algorithm.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtrl.agents.networks.conditioning import Conditioning, code_of
from mtrl.agents.networks.layers import ACTIVATIONS, Affine
from mtrl.agents.networks.tasks import TaskInput, TaskSpec
from mtrl.agents.networks.trunk import Trunk, TrunkFields, check_units
from mtrl.config import check_positive

__all__ = ["ParameterCompositions"]


class _CompositionsTrunk(Trunk):
    def __init__(
        self,
        config: "ParameterCompositions",
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> None:
        super().__init__(shape, config.hidden[-1])
        self._activation = ACTIVATIONS[config.activation]
        code = code_of(conditioning, "parameter-compositions")
        # Deviation 1/sqrt(sets), so that composed weights are as large as those of one set.
        self.composition = code.build(config.sets, spec, 1 / math.sqrt(config.sets), generator)
        sizes = (math.prod(shape), *config.hidden)
        self.layers = nn.ModuleList(
            Affine(
                (config.sets, outputs, inputs), initializer=config.initializer, generator=generator
            )
            for inputs, outputs in itertools.pairwise(sizes)
        )

    def encode(self, observations: Tensor, task: TaskInput) -> Tensor:
        weights = self.composition(task).unsqueeze(1)
        hidden = observations.flatten(1)
        for layer in self.layers:
            assert isinstance(layer, Affine)
            # Outputs are combined in place of weights: the same sum, with no weights per sample.
            hidden = self._activation(torch.bmm(weights, layer.of_one(hidden)).squeeze(1))
        return hidden


@dataclass(frozen=True, kw_only=True)
class ParameterCompositions(TrunkFields):
    """A multi-layer perceptron with parameters sum_k w_k theta_k; w is linear in the task's code."""

    sets: int = 5
    """How many sets of parameters tasks combine."""
    hidden: tuple[int, ...] = (400, 400, 400)
    """Units of the layers; the last are the features."""

    def __post_init__(self) -> None:
        check_units(self, "hidden")
        check_positive(self, "sets")

    def build(
        self,
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> Trunk:
        """Return the trunk for observations of `shape`; it needs a code."""
        return _CompositionsTrunk(self, shape, conditioning, spec, generator)
