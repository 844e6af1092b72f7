"""MAML (Finn, Abbeel, Levine 2017, arXiv:1703.03400): learn the initialisation, fix the step size.

Restricting `adapted` to the last layer gives ANIL's inner loop (Raghu et al. 2020, arXiv:1909.09157).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mtrl.errors import UsageError
from mtrl.nets import Params

__all__ = ["MAML", "MetaLearner", "adapted_names"]


class MetaLearner(Protocol):
    """What distinguishes one gradient-based meta-learner from another: its step sizes."""

    @property
    def name(self) -> str:
        """Short name for tables and file names."""

    @property
    def inner_steps(self) -> int:
        """Inner steps in meta-training."""

    @property
    def first_order(self) -> bool:
        """Whether the inner gradient is a constant in the outer derivative."""

    def initial_step_sizes(self, params: Params, generator: torch.Generator) -> Params:
        """Return the learned step-size tensors for shared `params`; empty if none is learned."""

    def step_sizes(self, learned: Params, params: Params, steps: int) -> Sequence[Params]:
        """Return, for each of `steps` inner steps, a step size for each parameter that adapts."""


def adapted_names(params: Params, prefixes: Sequence[str]) -> list[str]:
    """Return the parameters that the inner loop moves: all, or those under one of `prefixes`.

    Raises:
        UsageError: a prefix matches no parameter.
    """
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in params):
            raise UsageError(
                f"adapted: no parameter starts with {prefix!r}; there are {', '.join(params)}"
            )
    return [name for name in params if not prefixes or name.startswith(tuple(prefixes))]


@dataclass(frozen=True, kw_only=True)
class MAML:
    """MAML: the same fixed step size for every parameter."""

    step_size: float = 0.1
    """Step size of the inner loop."""
    later_step_scale: float = 1.0
    """Factor on the step size from the second inner step on; the paper halves it at test (0.5)."""
    inner_steps: int = 1
    """Inner steps in meta-training."""
    first_order: bool = False
    """Ignore second derivatives (FOMAML)."""
    adapted: tuple[str, ...] = ()
    """Prefixes of the parameters that adapt, e.g. the last layer's; empty means all."""

    def __post_init__(self) -> None:
        if not self.step_size > 0:
            raise UsageError(f"step_size must be positive, got {self.step_size}")
        if self.inner_steps < 1:
            raise UsageError(f"inner_steps must be at least 1, got {self.inner_steps}")

    @property
    def name(self) -> str:
        """Short name for tables and file names."""
        return "MAML"

    def initial_step_sizes(self, params: Params, generator: torch.Generator) -> Params:
        """Return no tensors: nothing is learned."""
        return {}

    def step_sizes(self, learned: Params, params: Params, steps: int) -> Sequence[Params]:
        """Return the fixed step size for each adapted parameter and step."""
        some = next(iter(params.values()))
        first = some.new_tensor(self.step_size)
        later = first * self.later_step_scale
        names = adapted_names(params, self.adapted)
        return [dict.fromkeys(names, first if step == 0 else later) for step in range(steps)]
