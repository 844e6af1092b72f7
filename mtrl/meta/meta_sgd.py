"""Meta-SGD (Li, Zhou, Chen, Li 2017, arXiv:1707.09835): learn the initialisation and the step sizes.

The paper's rule is theta' = theta - alpha * grad L(theta) with alpha shaped like theta, both trained by the
outer loss, and alpha free in sign, so that it learns direction as well as length. Granularity coarser than a
value per parameter and a value per inner step are ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor

from mtrl.errors import UsageError
from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.maml import adapted_names
from mtrl.nets import Params

__all__ = ["Granularity", "MetaSGD"]

Granularity = Literal["parameter", "tensor", "layer", "scalar"]
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class MetaSGD:
    """Meta-SGD: step sizes are learned with the parameters."""

    initial_step_size: tuple[float, float] = (0.005, 0.1)
    """Range from which the one value that fills all step sizes at the start is drawn, once per run."""
    initial_by_prefix: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Ranges of their own for the parameters under a prefix, such as log_std."""
    unit: float = 1.0
    """Step sizes are learned in multiples of this: an outer update moves them this many times further."""
    unit_by_prefix: dict[str, float] = field(default_factory=dict)
    """Units of their own for the parameters under a prefix."""
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
        for name, (low, high) in self._ranges().items():
            if not low <= high:
                raise UsageError(f"{name} must be (low, high) with low <= high, got {low}, {high}")
            if self.positive and not low > 0:
                raise UsageError(f"{name} must be positive if positive is set, got {low}")
        for name, unit in {"unit": self.unit, **self.unit_by_prefix}.items():
            if not unit > 0:
                raise UsageError(f"the unit of step sizes must be positive, got {unit} for {name}")
        self._check_combinations()

    def _ranges(self) -> dict[str, tuple[float, float]]:
        by_prefix = self.initial_by_prefix.items()
        named = {f"initial_by_prefix of {prefix}": limits for prefix, limits in by_prefix}
        return {"initial_step_size": self.initial_step_size, **named}

    def _check_combinations(self) -> None:
        by_prefix = self.initial_by_prefix or self.unit_by_prefix
        if self.positive and (self.unit != 1 or self.unit_by_prefix):
            raise UsageError(
                "positive learns logarithms, which have no unit; leave out one of the two"
            )
        if self.granularity == "scalar" and by_prefix:
            raise UsageError(
                "granularity is scalar, so all parameters share one step size; leave out "
                "initial_by_prefix and unit_by_prefix"
            )
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

    def _prefixed(self, values: Mapping[str, Value], group: str, default: Value) -> Value:
        """Return the value of the longest prefix of `group`."""
        matching = [prefix for prefix in values if group.startswith(prefix)]
        return values[max(matching, key=len)] if matching else default

    def _unit(self, group: str) -> float:
        return self._prefixed(self.unit_by_prefix, group, self.unit)

    def initial_step_sizes(self, params: Params, generator: torch.Generator) -> Params:
        """Fill the step sizes of each range with one value of it, drawn uniformly.

        Raises:
            UsageError: a prefix matches no parameter that adapts.
        """
        names = adapted_names(params, self.adapted)
        for prefix in {**self.initial_by_prefix, **self.unit_by_prefix}:
            if not any(name.startswith(prefix) for name in names):
                raise UsageError(
                    f"no parameter that adapts starts with {prefix!r}: {', '.join(names)}"
                )
        share = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
        learned: Params = {}
        for name in names:
            group = self._group(name)
            shape = tuple(params[name].shape) if self.granularity == "parameter" else ()
            shape = (self.inner_steps, *shape) if self.per_step else shape
            start = self._start(group, share.item())
            learned.setdefault(group, params[name].new_full(shape, start))
        return learned

    def _start(self, group: str, share: float) -> float:
        low, high = self._prefixed(self.initial_by_prefix, group, self.initial_step_size)
        value = low + (high - low) * share
        return math.log(value) if self.positive else value / self._unit(group)

    def start(self, params: Params, tasks: int) -> Params:
        """Return the shared parameters, once per task."""
        return expand_to_tasks(params, tasks)

    def step_sizes(self, learned: Params, params: Params, steps: int) -> Sequence[Params]:
        """Return, for each inner step, the step size of each adapted parameter."""
        groups = {name: self._group(name) for name in adapted_names(params, self.adapted)}
        return [
            {name: self._step_size(learned[group], group, step) for name, group in groups.items()}
            for step in range(steps)
        ]

    def _step_size(self, learned: Tensor, group: str, step: int) -> Tensor:
        if self.per_step:
            learned = learned[min(step, self.inner_steps - 1)]
        # Factors of one are left out: each costs a pass over all step sizes.
        unit = self._unit(group)
        alpha = learned.exp() if self.positive else learned if unit == 1 else learned * unit
        later = step > 0 and self.later_step_scale != 1
        return alpha * self.later_step_scale if later else alpha
