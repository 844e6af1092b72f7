"""What a meta-learner has to beat, as learners of the same loops: joint training, and knowing the task.

Both train one network on all tasks as if they were one, without an inner loop. The oracle reads the task beside
what it observes, and is what adaptation could reach at most with this network and training; fine-tuning is not
told, and at test takes from there the steps that a meta-learner takes. Learning from scratch takes the same steps
from parameters that nothing trained, and needs no learner of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mtrl.config import check_positive
from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.maml import MAML
from mtrl.nets import Params

__all__ = ["FineTune", "Oracle"]


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Fine-tuning: joint training on all tasks, then gradient steps on the new one."""

    step_size: float = 0.1
    """Step size at test."""
    later_step_scale: float = 1.0
    """Factor on the step size from the second step on."""

    def __post_init__(self) -> None:
        check_positive(self, "step_size")

    @property
    def name(self) -> str:
        """Short name for tables and file names."""
        return "fine-tuning"

    @property
    def inner_steps(self) -> int:
        """None in training."""
        return 0

    @property
    def first_order(self) -> bool:
        """There is nothing to differentiate through."""
        return True

    def initial_step_sizes(self, params: Params, generator: torch.Generator) -> Params:
        """Return no tensors: nothing is learned."""
        return {}

    def start(self, params: Params, tasks: int) -> Params:
        """Return the shared parameters, once per task."""
        return expand_to_tasks(params, tasks)

    def step_sizes(self, learned: Params, params: Params, steps: int) -> Sequence[Params]:
        """Return the fixed step size for each parameter and step."""
        steady = MAML(step_size=self.step_size, later_step_scale=self.later_step_scale)
        return steady.step_sizes(learned, params, steps)


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """The oracle: joint training of a network that reads the task, and no adaptation."""

    @property
    def name(self) -> str:
        """Short name for tables and file names."""
        return "oracle"

    @property
    def inner_steps(self) -> int:
        """None."""
        return 0

    @property
    def first_order(self) -> bool:
        """There is nothing to differentiate through."""
        return True

    def initial_step_sizes(self, params: Params, generator: torch.Generator) -> Params:
        """Return no tensors: nothing is learned."""
        return {}

    def start(self, params: Params, tasks: int) -> Params:
        """Return the shared parameters, once per task."""
        return expand_to_tasks(params, tasks)

    def step_sizes(self, learned: Params, params: Params, steps: int) -> Sequence[Params]:
        """Return steps in which no parameter moves."""
        return [{} for _ in range(steps)]
