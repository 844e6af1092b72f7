"""What is a task's own: the affine map from features to outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtrl.agents.networks.layers import Affine, Initializer
from mtrl.agents.networks.tasks import TaskInput, TaskSpec, require_index
from mtrl.config import check_positive

__all__ = ["Head", "HeadConfig", "PerTask", "Shared"]


class Head(nn.Module):
    """An affine map from features to outputs, for each task or for all.

    Attributes:
        affine: parameters with a leading axis of tasks, or of 1 where tasks share them.
    """

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.affine = affine

    @property
    def outputs(self) -> int:
        """Length of an output."""
        return self.affine.outputs


class _SharedHead(Head):
    def forward(self, features: Tensor, task: TaskInput) -> Tensor:
        return nn.functional.linear(features, self.affine.weight[0], self.affine.bias[0])


class _PerTaskHead(Head):
    def forward(self, features: Tensor, task: TaskInput) -> Tensor:
        return self.affine.chosen(features, require_index(task, "a head per task"))


@dataclass(frozen=True, kw_only=True)
class _HeadFields:
    initializer: Initializer = "fan-in"
    """How parameters are drawn."""
    scale: float = 1.0
    """Factor on the drawn parameters; small for the last layer of a policy."""

    def __post_init__(self) -> None:
        check_positive(self, "scale")

    def _affine(self, groups: int, sizes: tuple[int, int], generator: torch.Generator) -> Affine:
        features, outputs = sizes
        return Affine(
            (groups, outputs, features),
            initializer=self.initializer,
            scale=self.scale,
            generator=generator,
        )


@dataclass(frozen=True, kw_only=True)
class Shared(_HeadFields):
    """One head for all tasks."""

    def build(
        self, features: int, outputs: int, spec: TaskSpec, generator: torch.Generator
    ) -> Head:
        """Return the head, called with features (batch, features) and a TaskInput."""
        return _SharedHead(self._affine(1, (features, outputs), generator))


@dataclass(frozen=True, kw_only=True)
class PerTask(_HeadFields):
    """A head for every task; the cost of a sample is that of one."""

    def build(
        self, features: int, outputs: int, spec: TaskSpec, generator: torch.Generator
    ) -> Head:
        """Return the heads, called with features (batch, features) and a TaskInput with index."""
        return _PerTaskHead(self._affine(spec.tasks, (features, outputs), generator))


HeadConfig = Shared | PerTask
