"""What a trunk is told of the task, and how: one linear map of the task's code.

The code is a unit vector, a learned vector or the task's own parameters. Appending a code c to an
input x adds W_c c to the first layer's W_x x, and the W_c c of a unit vector is a row of a table, so
that no network's cost per sample depends on the number of tasks.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mtrl.agents.networks.tasks import TaskInput, TaskSpec, require_context, require_index
from mtrl.config import check_positive
from mtrl.errors import UsageError

__all__ = [
    "Code",
    "Conditioning",
    "Embedding",
    "Film",
    "OneHot",
    "TaskParameters",
    "code_of",
    "modulated",
]


def _normal(shape: tuple[int, int], std: float, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(std * torch.randn(shape, generator=generator, device=generator.device))


class _RowMap(nn.Module):
    def __init__(self, tasks: int, outputs: int, std: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = _normal((tasks, outputs), std, generator)

    def forward(self, task: TaskInput) -> Tensor:
        return nn.functional.embedding(require_index(task, "one-hot conditioning"), self.weight)


class _EmbeddingMap(nn.Module):
    def __init__(self, shape: tuple[int, int, int], std: float, generator: torch.Generator) -> None:
        super().__init__()
        tasks, size, outputs = shape
        self.embedding = _normal((tasks, size), 1.0, generator)
        self.weight = _normal((outputs, size), std / math.sqrt(size), generator)

    def forward(self, task: TaskInput) -> Tensor:
        index = require_index(task, "embedding conditioning")
        return nn.functional.linear(nn.functional.embedding(index, self.embedding), self.weight)


class _ContextMap(nn.Module):
    def __init__(self, size: int, outputs: int, std: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = _normal((outputs, size), std / math.sqrt(size), generator)

    def forward(self, task: TaskInput) -> Tensor:
        size = self.weight.shape[1]
        context = require_context(task, size, "conditioning on task parameters")
        return nn.functional.linear(context, self.weight)


@dataclass(frozen=True, kw_only=True)
class OneHot:
    """The code is the unit vector of the task: a free vector of parameters for every task."""

    def build(
        self, outputs: int, spec: TaskSpec, std: float, generator: torch.Generator
    ) -> nn.Module:
        """Return the map from a TaskInput to (batch, outputs), of deviation `std` at the start."""
        return _RowMap(spec.tasks, outputs, std, generator)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The code is a vector learned for every task."""

    size: int = 16
    """Length of the vector."""

    def __post_init__(self) -> None:
        check_positive(self, "size")

    def build(
        self, outputs: int, spec: TaskSpec, std: float, generator: torch.Generator
    ) -> nn.Module:
        """Return the map from a TaskInput to (batch, outputs), of deviation `std` at the start."""
        return _EmbeddingMap((spec.tasks, self.size, outputs), std, generator)


@dataclass(frozen=True, kw_only=True)
class TaskParameters:
    """The code is the task's context vector, which should be of order 1; new tasks have one too."""

    def build(
        self, outputs: int, spec: TaskSpec, std: float, generator: torch.Generator
    ) -> nn.Module:
        """Return the map from a TaskInput to (batch, outputs).

        It has deviation `std` at the start for standard normal contexts.

        Raises:
            UsageError: the tasks have no context.
        """
        if spec.context == 0:
            raise UsageError(
                "conditioning is task-parameters and the tasks' context has length 0; give the "
                "length of the context, or use one-hot or embedding"
            )
        return _ContextMap(spec.context, outputs, std, generator)


Code = OneHot | Embedding | TaskParameters


@dataclass(frozen=True, kw_only=True)
class Film:
    """The code scales and shifts every hidden layer before its activation.

    h -> (1 + gamma) h + beta with gamma and beta linear in the code and zero at the start, so that
    training starts from the unconditioned network. Source: Perez et al. 2018 (arXiv:1709.07871),
    equation 2 and section 7.2 for 1 + gamma.
    """

    code: Code = field(default_factory=OneHot)
    """What gamma and beta are linear in."""


Conditioning = OneHot | Embedding | TaskParameters | Film
"""How a trunk is conditioned; None where it is not."""


def code_of(conditioning: Conditioning | None, trunk: str) -> Code:
    """Return the code for a trunk that routes by it.

    Raises:
        UsageError: there is none, or it is to modulate layers.
    """
    if conditioning is None or isinstance(conditioning, Film):
        given = "none" if conditioning is None else "film"
        raise UsageError(
            f"conditioning is {given} with the trunk {trunk}, which chooses its weights by the "
            "task; use one-hot, embedding or task-parameters"
        )
    return conditioning


def modulated(hidden: Tensor, modulation: Tensor) -> Tensor:
    """Return (1 + gamma) h + beta for h (batch, units, ...) and [gamma, beta] (batch, 2 units)."""
    gamma, beta = modulation.chunk(2, dim=-1)
    shape = (*gamma.shape, *[1] * (hidden.ndim - gamma.ndim))
    return torch.addcmul(beta.view(shape), 1 + gamma.view(shape), hidden)
