"""One network for many tasks: a trunk they share, told of the task, and a head for each or for all."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mtrl.agents.networks.compositions import ParameterCompositions
from mtrl.agents.networks.conditioning import Embedding, Film, OneHot, TaskParameters
from mtrl.agents.networks.heads import Head, PerTask, Shared
from mtrl.agents.networks.mixture import MixtureOfExperts
from mtrl.agents.networks.plain import CNN, MLP
from mtrl.agents.networks.soft_modules import SoftModules
from mtrl.agents.networks.tasks import TaskInput, TaskSpec
from mtrl.agents.networks.trunk import Trunk
from mtrl.agents.networks.unshared import Unshared
from mtrl.errors import UsageError

__all__ = ["MultiTaskNetwork", "NetworkConfig", "TrunkConfig"]

TrunkConfig = MLP | CNN | SoftModules | MixtureOfExperts | ParameterCompositions | Unshared


class MultiTaskNetwork(nn.Module):
    """A trunk and a head.

    Both can be called on their own, without the check of values, which reads them back from the
    device and which `torch.func` cannot trace.

    Args:
        trunk: from observations to features.
        head: from features to outputs.
        spec: the tasks they were built for.
    """

    def __init__(self, trunk: Trunk, head: Head, spec: TaskSpec) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.spec = spec

    def forward(self, observations: Tensor, task: TaskInput) -> Tensor:
        """Map observations (batch, *shape) of tasks to outputs (batch, outputs).

        Raises:
            UsageError: shapes that do not fit, an index that is no task's, a context that is missing
                or not finite.
        """
        self.spec.check(task)
        outputs: Tensor = self.head(self.trunk(observations, task), task)
        return outputs

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over what tasks share and may want to move differently: all but the head.

        Rows of a one-hot table or an embedding are among them; another task's gradient is 0 there.
        """
        return self.trunk.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters of the head, with a leading axis of tasks if it is per task."""
        return self.head.parameters()


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network for many tasks."""

    trunk: TrunkConfig = field(default_factory=MLP)
    """What tasks share."""
    conditioning: OneHot | Embedding | TaskParameters | Film | None = None
    """What the trunk is told of the task."""
    head: Shared | PerTask = field(default_factory=PerTask)
    """Whether tasks share the last layer."""

    def build(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> MultiTaskNetwork:
        """Return the network, its float32 parameters drawn from `generator`, on its device.

        Args:
            shape: of one observation.
            outputs: length of an output.
            spec: the tasks.
            generator: the only source of chance.

        Raises:
            UsageError: parts that do not go together, or do not fit the observation or the tasks.
        """
        if outputs < 1 or not all(size > 0 for size in shape):
            raise UsageError(
                f"shape is {shape} and outputs {outputs}; every size must be at least 1"
            )
        trunk = self.trunk.build(shape, self.conditioning, spec, generator)
        head = self.head.build(trunk.features, outputs, spec, generator)
        return MultiTaskNetwork(trunk, head, spec)
