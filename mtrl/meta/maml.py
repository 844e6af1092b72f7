"""MAML (Finn, Abbeel, Levine 2017, arXiv:1703.03400): learn the initialisation, fix the step size."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from mtrl.errors import UsageError
from mtrl.meta.inner import expand_to_tasks
from mtrl.nets import Params

__all__ = ["MAML", "MetaLearner", "adapted_names"]


class MetaLearner(Protocol):
    """What distinguishes one gradient-based meta-learner from another: where it starts, and its step sizes."""

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

    def start(self, params: Params, tasks: int) -> Params:
        """Return the per-task parameters that adaptation starts from, those of shared `params` first."""

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
    """MAML: one fixed step size for every parameter, or, which is ours, one per group of parameters."""

    step_size: float = 0.1
    """Step size of the inner loop."""
    step_size_by_prefix: dict[str, float] = field(default_factory=dict)
    """Step sizes of their own for the parameters under a prefix, such as log_std."""
    later_step_scale: float = 1.0
    """Factor on the step size from the second inner step on; the paper halves it at test (0.5)."""
    later_step_decay: float = 1.0
    """Factor from each step size to the next, from the second to the third step on."""
    inner_steps: int = 1
    """Inner steps in meta-training."""
    first_order: bool = False
    """Ignore second derivatives (FOMAML)."""
    adapted: tuple[str, ...] = ()
    """Prefixes of the parameters that adapt, e.g. the last layer's; empty means all."""

    def __post_init__(self) -> None:
        by_prefix = self.step_size_by_prefix.items()
        named = {f"step_size_by_prefix of {prefix}": size for prefix, size in by_prefix}
        for name, size in {"step_size": self.step_size, **named}.items():
            if not size > 0:
                raise UsageError(f"{name} must be positive, got {size}")
        if self.inner_steps < 1:
            raise UsageError(f"inner_steps must be at least 1, got {self.inner_steps}")

    @property
    def name(self) -> str:
        """Short name for tables and file names."""
        return "FOMAML" if self.first_order else "MAML"

    def initial_step_sizes(self, params: Params, generator: torch.Generator) -> Params:
        """Return no tensors: nothing is learned."""
        return {}

    def start(self, params: Params, tasks: int) -> Params:
        """Return the shared parameters, once per task."""
        return expand_to_tasks(params, tasks)

    def step_sizes(self, learned: Params, params: Params, steps: int) -> Sequence[Params]:
        """Return the fixed step size for each adapted parameter and step.

        Raises:
            UsageError: a prefix matches no parameter that adapts.
        """
        names = adapted_names(params, self.adapted)
        sizes = dict.fromkeys(names, self.step_size)
        for prefix in sorted(self.step_size_by_prefix, key=len):  # the longest prefix decides
            under = [name for name in names if name.startswith(prefix)]
            if not under:
                raise UsageError(
                    f"step_size_by_prefix: no parameter that adapts starts with {prefix!r}; "
                    f"there are {', '.join(names)}"
                )
            sizes |= dict.fromkeys(under, self.step_size_by_prefix[prefix])
        some = next(iter(params.values()))
        return [
            {name: some.new_tensor(size * self._scale(step)) for name, size in sizes.items()}
            for step in range(steps)
        ]

    def _scale(self, step: int) -> float:
        """Return the factor on all step sizes at a step, which is 0 for the first."""
        if step == 0:
            return 1.0
        return self.later_step_scale * self.later_step_decay ** (step - 1)
