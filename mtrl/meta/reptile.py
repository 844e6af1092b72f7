"""Reptile (Nichol, Achiam, Schulman 2018, arXiv:1803.02999): move towards what tasks' own training makes of theta.

Each task takes k plain gradient steps on its own data from theta to theta_k, all without a held-out set, and theta
moves towards their mean (algorithm 2):

    theta <- theta + epsilon * mean over tasks of (theta_k - theta)

so that theta - theta_k takes the meta-gradient's place; the paper also hands it to Adam as such. Nothing is
differentiated twice. Inner steps are plain ones here, as in the paper's sinusoids. There are no published results in
reinforcement learning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mtrl.config import check_positive
from mtrl.meta.compiled import TensorFunction
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.inner import adapt, expand_to_tasks
from mtrl.meta.maml import MAML
from mtrl.meta.parameters import MetaParams, flatten
from mtrl.nets import Params

__all__ = ["Reptile", "ReptileGradient", "minibatches"]


@dataclass(frozen=True, kw_only=True)
class Reptile:
    """Reptile: theta follows the mean of the tasks' trained parameters."""

    step_size: float = 0.02
    """Step size of the inner loop."""
    inner_steps: int = 5
    """Inner steps in meta-training, each on the next `shots` of the task's points; one alone is joint training."""
    outer: Literal["adam", "interpolation"] = "adam"
    """What takes theta - theta_k: Adam, or theta goes the share `learning_rate` of the way to theta_k."""

    def __post_init__(self) -> None:
        check_positive(self, "step_size", "inner_steps")

    @property
    def name(self) -> str:
        """Short name for tables and file names."""
        return "Reptile"

    @property
    def first_order(self) -> bool:
        """Always: inner gradients are constants."""
        return True

    def initial_step_sizes(self, params: Params, generator: torch.Generator) -> Params:
        """Return no tensors: nothing is learned."""
        return {}

    def start(self, params: Params, tasks: int) -> Params:
        """Return the shared parameters, once per task."""
        return expand_to_tasks(params, tasks)

    def step_sizes(self, learned: Params, params: Params, steps: int) -> Sequence[Params]:
        """Return the fixed step size for each parameter and step."""
        return MAML(step_size=self.step_size).step_sizes(learned, params, steps)


def minibatches(x: Tensor, y: Tensor, size: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Cut `count` minibatches of `size` points from x and y (tasks, points, ...), in order and round again."""
    points = torch.arange(size, device=x.device)
    chosen = [(points + size * number) % x.shape[1] for number in range(count)]
    return [(x[:, some], y[:, some]) for some in chosen]


class ReptileGradient(MetaGradient):
    """Computes mean(theta - theta_k) of a batch of tasks; arguments as for `MetaGradient`.

    A task's own data are its support and query points together; the losses returned are those of the query points,
    which the steps may have seen.
    """

    def _function(self, names: Sequence[str]) -> TensorFunction:
        def difference(*arguments: Tensor) -> list[Tensor]:
            current = MetaParams.from_named(dict(zip(names, arguments[: len(names)], strict=True)))
            trained, query = self._trained(current, arguments[len(names) :])
            losses = self._loss(trained, query)
            moved = {name: (value - trained[name]).sum(0) for name, value in current.params.items()}
            return [losses, flatten(moved)]

        return difference

    def _trained(
        self, meta: MetaParams, data: Sequence[Tensor]
    ) -> tuple[Params, tuple[Tensor, Tensor]]:
        support_x, support_y, *query = data
        learner, steps = self._learner, self._learner.inner_steps
        tasks, shots = support_x.shape[:2]
        x, y = (torch.cat(parts, 1) for parts in zip((support_x, support_y), query, strict=True))
        trained = adapt(
            learner.start(meta.params, tasks),
            learner.step_sizes(meta.step_sizes, meta.params, steps),
            self._loss,
            minibatches(x, y, shots, steps),
            first_order=True,
        )
        return trained, (query[0], query[1])
