"""What every trunk has: its settings, its shapes and its call."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from mtrl.agents.networks.layers import Activation, Initializer
from mtrl.agents.networks.tasks import TaskInput
from mtrl.errors import UsageError

__all__ = ["Trunk", "TrunkFields", "check_units"]


@dataclass(frozen=True, kw_only=True)
class TrunkFields:
    """What all kinds of trunk can be told."""

    activation: Activation = "relu"
    """Of the hidden layers."""
    initializer: Initializer = "fan-in"
    """How parameters are drawn."""


class Trunk(nn.Module, ABC):
    """Maps observations (batch, *shape) and their tasks to features (batch, features).

    Args:
        shape: of one observation.
        features: length of a feature vector.
    """

    def __init__(self, shape: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.shape = shape
        self.features = features

    def forward(self, observations: Tensor, task: TaskInput) -> Tensor:
        """Return the features (batch, features).

        Raises:
            UsageError: observations of another shape, or a task without what the conditioning needs.
        """
        if tuple(observations.shape[1:]) != self.shape or observations.ndim == 0:
            expected = ", ".join(map(str, ("batch", *self.shape)))
            raise UsageError(
                f"observations have shape {tuple(observations.shape)}; the network was built for "
                f"({expected})"
            )
        for name, part in (("index", task.index), ("context", task.context)):
            if part is not None and (part.ndim == 0 or part.shape[0] != observations.shape[0]):
                raise UsageError(
                    f"task.{name} has shape {tuple(part.shape)} beside {observations.shape[0]} "
                    "observations; each observation has one task"
                )
        return self.encode(observations, task)

    @abstractmethod
    def encode(self, observations: Tensor, task: TaskInput) -> Tensor:
        """Compute the features of observations whose shape is right."""


def check_units(config: object, *names: str) -> None:
    """Raise UsageError unless each named field is a non-empty tuple of positive counts."""
    for name in names:
        units = getattr(config, name)
        if not units or min(units) < 1:
            raise UsageError(
                f"{name} is {units}; it must list at least one layer of 1 unit or more"
            )
