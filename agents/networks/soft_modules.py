"""A trunk of modules whose connections the task and the observation choose softly.

Source: Yang et al. 2020, "Multi-Task Reinforcement Learning with Soft Modularization"
(arXiv:2003.13661), equations 2 to 6. Its last layer, the sum of W_j g_j over modules, is a linear head
on the features, which are the last modules' inputs g_j side by side.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mtrl.agents.networks.conditioning import Conditioning, code_of
from mtrl.agents.networks.layers import ACTIVATIONS, Affine, Stack
from mtrl.agents.networks.tasks import TaskInput, TaskSpec
from mtrl.agents.networks.trunk import Trunk, TrunkFields, check_units
from mtrl.config import check_positive

__all__ = ["SoftModules"]


class _SoftModulesTrunk(Trunk):
    def __init__(
        self,
        config: "SoftModules",
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> None:
        n, width, joint = config.modules, config.width, config.encoder[-1]
        super().__init__(shape, n * width)
        self._activation = ACTIVATIONS[config.activation]
        self._modules_per_layer = n
        affine = partial(Affine, initializer=config.initializer, generator=generator)
        code = code_of(conditioning, "soft-modules")
        self.code = code.build(joint, spec, 1.0, generator)
        sizes = (math.prod(shape), *config.encoder)
        self.encoder = Stack(
            1,
            sizes,
            activation=config.activation,
            initializer=config.initializer,
            generator=generator,
        )
        inputs = (joint, *[width] * (config.layers - 1))
        self.layers = nn.ModuleList(affine((n, width, size)) for size in inputs)
        self.to_logits = nn.ModuleList(affine((1, n * n, joint)) for _ in range(config.layers))
        self.from_logits = nn.ModuleList(
            affine((1, joint, n * n)) for _ in range(config.layers - 1)
        )

    def routing(self, observations: Tensor, task: TaskInput) -> list[Tensor]:
        """Return, for each layer, how much module i of the next takes from j: (batch, i, j)."""
        return self._routing(self.encoder(observations.flatten(1))[0], task)

    def _routing(self, encoded: Tensor, task: TaskInput) -> list[Tensor]:
        joint = encoded * self.code(task)
        shares: list[Tensor] = []
        logits = encoded.new_empty(0)
        for layer, to_logits in enumerate(self.to_logits):
            hidden = joint if layer == 0 else _one(self.from_logits[layer - 1], logits) * joint
            logits = _one(to_logits, self._activation(hidden))
            square = logits.view(-1, self._modules_per_layer, self._modules_per_layer)
            shares.append(square.softmax(-1))
        return shares

    def encode(self, observations: Tensor, task: TaskInput) -> Tensor:
        encoded = self.encoder(observations.flatten(1))[0]
        hidden = self._activation(encoded)
        for i, (layer, shares) in enumerate(
            zip(self.layers, self._routing(encoded, task), strict=True)
        ):
            assert isinstance(layer, Affine)
            # The first modules all see the encoded observation, so that one product serves them.
            made = layer.of_one(hidden) if i == 0 else layer(hidden).transpose(0, 1)
            hidden = torch.bmm(shares, self._activation(made)).transpose(0, 1)
        return hidden.transpose(0, 1).flatten(1)


def _one(affine: nn.Module, inputs: Tensor) -> Tensor:
    assert isinstance(affine, Affine)
    return affine.of_one(inputs).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class SoftModules(TrunkFields):
    """Layers of modules, each routed to the next by a softmax over the modules it comes from.

    The routing reads the encoded observation times an encoding of the task's code.
    """

    encoder: tuple[int, ...] = (400, 400)
    """Units of the layers that encode the observation; those of the last encode the code too."""
    layers: int = 2
    """Layers of modules."""
    modules: int = 2
    """Modules in each layer."""
    width: int = 256
    """Units of each module; there are modules * width features."""

    def __post_init__(self) -> None:
        check_units(self, "encoder")
        check_positive(self, "layers", "modules", "width")

    def build(
        self,
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> Trunk:
        """Return the trunk for observations of `shape`; it needs a code."""
        return _SoftModulesTrunk(self, shape, conditioning, spec, generator)
