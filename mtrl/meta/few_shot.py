"""A network that adapts to a task from a few labelled points."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mtrl.meta.cavia import check_context
from mtrl.meta.compiled import CompiledByShape
from mtrl.meta.inner import adapt
from mtrl.meta.maml import MetaLearner
from mtrl.meta.parameters import MetaParams
from mtrl.nets import Network, Params

__all__ = ["FewShotAdaptation", "FewShotPredictor"]


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
        """Return the mean error of each task (tasks,) on points x (tasks, shots, ...) and y (tasks, shots, size).

        Raises:
            ValueError: y has not the shape of the outputs.
        """
        x, y = points
        outputs = self.network(params, x)
        if y.shape != outputs.shape:  # which would be broadcast
            raise ValueError(
                f"labels need the shape of the outputs, {tuple(outputs.shape)}, got {tuple(y.shape)}"
            )
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


class FewShotPredictor:
    """Adapts to labelled points of new tasks and predicts at other points of theirs.

    Args:
        how: network and learner.
        meta: what meta-training learnt; copied.
        steps: inner steps.
        compiled: trace and compile it for each combination of shapes that occurs.
    """

    def __init__(
        self, how: FewShotAdaptation, meta: MetaParams, *, steps: int, compiled: bool = False
    ) -> None:
        self._how, self._steps = how, steps
        # Compiled, one argument in place of a dozen: each is looked at before the first kernel starts.
        self._vector = meta.flat()
        self._meta = meta.like(self._vector)
        self._compiled = CompiledByShape(self._traced) if compiled else None

    def __call__(self, points: tuple[Tensor, Tensor], query_x: Tensor) -> Tensor:
        """Return outputs at `query_x` (tasks, queries, ...) after adaptation to points x (tasks, shots, ...) and y.

        Raises:
            ValueError: these do not have the same number of tasks, or x and y not as many points, or y has another
                size than the outputs.
            UsageError: there is no compiler.
        """
        if self._compiled is None:
            return self._outputs(self._meta, points, query_x)
        return self._compiled(self._vector, *points, query_x)[0]

    def _traced(self, *tensors: Tensor) -> list[Tensor]:
        vector, x, y, query_x = tensors
        return [self._outputs(self._meta.like(vector), (x, y), query_x)]

    @torch.no_grad()
    def _outputs(self, meta: MetaParams, points: tuple[Tensor, Tensor], query_x: Tensor) -> Tensor:
        tasks = points[0].shape[0], query_x.shape[0]
        if tasks[0] != tasks[1]:
            raise ValueError("x and query_x need the same tasks, got {} and {}".format(*tasks))
        params = self._how.adapted(meta, points, self._steps)[-1]
        return self._how.network(params, query_x)
