"""Meta-SGD (Li, Zhou, Chen, Li 2017, arXiv:1707.09835): learn the initialisation and the step sizes.

The paper's rule is theta' = theta - alpha * grad L(theta) with alpha shaped like theta, both trained by the
outer loss, and alpha free in sign, so that it learns direction as well as length. Granularity coarser than a
value per parameter and a value per inner step are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mtrl.errors import UsageError
from mtrl.meta.maml import adapted_names
from mtrl.nets import Params

__all__ = ["Granularity", "MetaSGD"]

Granularity = Literal["parameter", "tensor", "layer", "scalar"]


@dataclass(frozen=True, kw_only=True)
class MetaSGD:
    """Meta-SGD: step sizes are learned with the parameters."""

    initial_step_size: tuple[float, float] = (0.005, 0.1)
    """Range from which the one value that fills all step sizes at the start is drawn, once per run."""
    granularity: Granularity = "parameter"
    """What shares a step size: a single parameter, a tensor, a layer, or everything (scalar)."""
    per_step: bool = False
    """Learn separate step sizes for each inner step; later test steps use the last."""
    positive: bool = False
    """Keep step sizes positive by learning their logarithm; the paper leaves the sign free."""
    later_step_scale: float = 1.0
    """Factor on the step sizes from the second inner step on, if they are shared between steps."""
    inner_steps: int = 1
    """Inner steps in meta-training; the paper takes one."""
    first_order: bool = False
    """Ignore second derivatives; step sizes are trained all the same."""
    adapted: tuple[str, ...] = ()
    """Prefixes of the parameters that adapt; the others are frozen in the inner loop. Empty means all."""

    def __post_init__(self) -> None:
        low, high = self.initial_step_size
        if not low <= high:
            raise UsageError(
                f"initial_step_size must be (low, high) with low <= high, got {low}, {high}"
            )
        if self.positive and not low > 0:
            raise UsageError(f"initial_step_size must be positive if positive is set, got {low}")
        if self.per_step and self.later_step_scale != 1:
            raise UsageError(
                f"later_step_scale is {self.later_step_scale}, which per_step would ignore: "
                "each inner step has step sizes of its own; leave one of the two out"
            )
        if self.inner_steps < 1:
            raise UsageError(f"inner_steps must be at least 1, got {self.inner_steps}")

    @property
    def name(self) -> str:
        """Short name for tables and file names."""
        return "Meta-SGD" if self.granularity == "parameter" else f"Meta-SGD ({self.granularity})"

    def _group(self, name: str) -> str:
        if self.granularity == "layer":
            return name.rsplit(".", 1)[0]
        return "all" if self.granularity == "scalar" else name

    def initial_step_sizes(self, params: Params, generator: torch.Generator) -> Params:
        """Fill all step sizes with one value drawn uniformly from `initial_step_size`."""
        low, high = self.initial_step_size
        unit = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
        value = low + (high - low) * unit.item()
        start = math.log(value) if self.positive else value
        learned: Params = {}
        for name in adapted_names(params, self.adapted):
            shape = tuple(params[name].shape) if self.granularity == "parameter" else ()
            shape = (self.inner_steps, *shape) if self.per_step else shape
            learned.setdefault(self._group(name), params[name].new_full(shape, start))
        return learned

    def step_sizes(self, learned: Params, params: Params, steps: int) -> Sequence[Params]:
        """Return, for each inner step, the step size of each adapted parameter."""
        names = adapted_names(params, self.adapted)
        return [
            {name: self._step_size(learned[self._group(name)], step) for name in names}
            for step in range(steps)
        ]

    def _step_size(self, learned: Tensor, step: int) -> Tensor:
        if self.per_step:
            learned = learned[min(step, self.inner_steps - 1)]
        alpha = learned.exp() if self.positive else learned
        return alpha if step == 0 or self.per_step else alpha * self.later_step_scale
