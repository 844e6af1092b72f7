"""A trunk of experts that each task mixes, on request made orthogonal to one another.

Source: Hendawy et al. 2024, "Multi-Task Reinforcement Learning with Mixture of Orthogonal Experts"
(MOORE, arXiv:2311.11385), section 4 and algorithm 1.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mtrl.agents.networks.conditioning import Conditioning, code_of
from mtrl.agents.networks.layers import Stack
from mtrl.agents.networks.tasks import TaskInput, TaskSpec
from mtrl.agents.networks.trunk import Trunk, TrunkFields, check_units
from mtrl.config import check_positive
from mtrl.errors import UsageError

__all__ = ["MixtureOfExperts", "orthonormal"]


def orthonormal(vectors: Tensor) -> Tensor:
    """Return the Gram-Schmidt basis of each sample's vectors (batch, vectors, size), in their order.

    A vector within rounding of the span of those before it becomes one shorter than 1, and zero
    where nothing is left of it, so that its gradient stays finite.
    """
    floor = math.sqrt(torch.finfo(vectors.dtype).eps)
    basis = vectors[:, :0]
    for place in range(vectors.shape[1]):
        vector = rest = vectors[:, place : place + 1]
        # Once loses digits where vectors are nearly parallel; twice is enough (Giraud et al. 2005).
        for _ in range(2):
            rest = rest - torch.bmm(torch.bmm(rest, basis.transpose(1, 2)), basis)
        least = floor * torch.linalg.vector_norm(vector.detach(), dim=-1, keepdim=True)
        length = torch.linalg.vector_norm(rest, dim=-1, keepdim=True).maximum(least)
        basis = torch.cat([basis, rest / length.masked_fill(length == 0, 1.0)], 1)
    return basis


class _MixtureTrunk(Trunk):
    def __init__(
        self,
        config: "MixtureOfExperts",
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> None:
        super().__init__(shape, config.hidden[-1])
        self._orthogonal = config.orthogonal
        self._softmax = config.gate == "softmax"
        code = code_of(conditioning, "mixture-of-experts")
        self.gate = code.build(config.experts, spec, 1.0, generator)
        self.experts = Stack(
            config.experts,
            (math.prod(shape), *config.hidden),
            activation=config.activation,
            initializer=config.initializer,
            generator=generator,
        )

    def expert_features(self, observations: Tensor) -> Tensor:
        """Return what each expert says, (batch, experts, features)."""
        said: Tensor = self.experts(observations.flatten(1)).transpose(0, 1)
        return orthonormal(said) if self._orthogonal else said

    def encode(self, observations: Tensor, task: TaskInput) -> Tensor:
        weights = self.gate(task)
        if self._softmax:
            weights = weights.softmax(-1)
        return torch.bmm(weights.unsqueeze(1), self.expert_features(observations)).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts(TrunkFields):
    """Experts on the same observation, mixed with weights that depend on the task's code."""

    experts: int = 4
    """How many experts there are."""
    hidden: tuple[int, ...] = (256, 256)
    """Units of each expert's layers; the last, which has no activation, are the features."""
    orthogonal: bool = True
    """Whether the experts' features are made orthonormal for every sample (MOORE)."""
    gate: Literal["linear", "softmax"] = "linear"
    """`linear`: weights of any sign, linear in the code (MOORE); `softmax`: positive, of sum 1."""

    def __post_init__(self) -> None:
        check_units(self, "hidden")
        check_positive(self, "experts")
        if self.orthogonal and self.experts > self.hidden[-1]:
            raise UsageError(
                f"experts is {self.experts} with {self.hidden[-1]} features; no more vectors than "
                "features can be orthogonal, widen hidden or set orthogonal to false"
            )

    def build(
        self,
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> Trunk:
        """Return the trunk for observations of `shape`; it needs a code."""
        return _MixtureTrunk(self, shape, conditioning, spec, generator)
