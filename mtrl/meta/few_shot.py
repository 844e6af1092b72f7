"""A regressor that adapts to a task from a few labelled points."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.meta.cavia import check_context
from mtrl.meta.inner import adapt
from mtrl.meta.maml import MetaLearner
from mtrl.meta.parameters import MetaParams
from mtrl.nets import MLP, Params

__all__ = ["FewShotAdaptation"]


@dataclass(frozen=True)
class FewShotAdaptation:
    """How a network adapts to labelled points: the network, the learner, the squared error."""

    network: MLP
    learner: MetaLearner

    def __post_init__(self) -> None:
        check_context(self.learner, self.network.context)

    def loss(self, params: Params, points: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean squared error of each task (tasks,) on points x and y (tasks, shots, size)."""
        x, y = points
        return (self.network(params, x) - y).square().mean((1, 2))

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
