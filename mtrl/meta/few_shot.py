"""A network that adapts to a task from a few labelled points."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mtrl.meta.cavia import check_context
from mtrl.meta.inner import adapt
from mtrl.meta.maml import MetaLearner
from mtrl.meta.parameters import MetaParams
from mtrl.nets import Network, Params

__all__ = ["FewShotAdaptation"]


@dataclass(frozen=True)
class FewShotAdaptation:
    """How a network adapts to labelled points.

    Attributes:
        network: gives the outputs.
        learner: gives the step sizes.
        error: the mean squared one, or the cross entropy of classes of which y holds the chances, 1 for the right.
    """

    network: Network
    learner: MetaLearner
    error: Literal["squared", "cross-entropy"] = "squared"

    def __post_init__(self) -> None:
        check_context(self.learner, self.network.context)

    def loss(self, params: Params, points: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean error of each task (tasks,) on points x (tasks, shots, ...) and y (tasks, shots, size)."""
        x, y = points
        outputs = self.network(params, x)
        if self.error == "squared":
            return (outputs - y).square().mean((1, 2))
        return -(y * outputs.log_softmax(-1)).sum(-1).mean(1)

    def initial(self, generator: torch.Generator) -> MetaParams:
        """Draw the meta-parameters that training starts from."""
        params = self.network.initial(generator)
        return MetaParams(params, self.learner.initial_step_sizes(params, generator))

    def adapted(
        self, meta: MetaParams, points: tuple[Tensor, Tensor], steps: int
    ) -> Sequence[Params]:
        """Return per-task parameters after 0, 1, ... `steps` inner steps on the same points, no graph."""
        params = self.learner.start(meta.params, points[0].shape[0])
        trail = [params]
        for alpha in self.learner.step_sizes(meta.step_sizes, meta.params, steps):
            params = adapt(params, [alpha], self.loss, [points], first_order=True)
            trail.append(params)
        return trail
