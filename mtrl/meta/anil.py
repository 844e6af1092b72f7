"""ANIL (Raghu, Raghu, Bengio, Vinyals 2020, arXiv:1909.09157): MAML whose inner loop moves the head only.

The head is the network's last layer. Its body is learned by the outer loop, through the inner steps, and is the
same for all tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mtrl.config import check_positive
from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.maml import MAML
from mtrl.nets import Params, output_layer

__all__ = ["ANIL"]


@dataclass(frozen=True, kw_only=True)
class ANIL:
    """ANIL: MAML on the last layer."""

    step_size: float = 0.1
    """Step size of the inner loop."""
    later_step_scale: float = 1.0
    """Factor on the step size from the second inner step on."""
    inner_steps: int = 1
    """Inner steps in meta-training."""
    first_order: bool = False
    """Ignore second derivatives."""
    adapt_log_std: bool = True
    """Let a Gaussian policy's log_std, which belongs to no layer, adapt beside the last layer."""

    def __post_init__(self) -> None:
        check_positive(self, "step_size", "inner_steps")

    @property
    def name(self) -> str:
        """Short name for tables and file names."""
        return "ANIL"

    def head(self, params: Params) -> list[str]:
        """Return the names of the parameters that adapt.

        Raises:
            UsageError: the parameters are no layers'.
        """
        names = output_layer(params)
        return [*names, "log_std"] if self.adapt_log_std and "log_std" in params else names

    def initial_step_sizes(self, params: Params, generator: torch.Generator) -> Params:
        """Return no tensors: nothing is learned."""
        return {}

    def start(self, params: Params, tasks: int) -> Params:
        """Return the shared parameters, once per task."""
        return expand_to_tasks(params, tasks)

    def step_sizes(self, learned: Params, params: Params, steps: int) -> Sequence[Params]:
        """Return the fixed step size for each parameter of the head and step."""
        inner = MAML(
            step_size=self.step_size,
            later_step_scale=self.later_step_scale,
            adapted=tuple(self.head(params)),
        )
        return inner.step_sizes(learned, params, steps)
