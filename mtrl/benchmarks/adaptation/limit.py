"""How far our meta-step is from what the machine can do: its arithmetic per second, and that of a matrix product."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mtrl.benchmarks.adaptation.ours import meta_step
from mtrl.benchmarks.adaptation.problem import Problem
from mtrl.benchmarks.report import Row

__all__ = ["Limit", "limits_of", "matrix_product", "operations_of"]

# Large enough that a larger product is not done at a higher rate, on a core and on an accelerator.
SIDE, ACCELERATOR_SIDE = 1024, 8192


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The arithmetic of one variant of a meta-step.

    Attributes:
        work: what is done.
        variant: how.
        operations: floating-point operations of its matrix products and convolutions; a product of two numbers
            and its addition are two.
        seconds: that it takes.
        peak: operations per second of one large matrix product.
    """

    work: str
    variant: str
    operations: int
    seconds: float
    peak: float

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds

    @property
    def share(self) -> float:
        """Of the peak."""
        return self.rate / self.peak


def operations_of(step: Callable[[], Any]) -> int:
    """Return the floating-point operations of the matrix products and convolutions in one `step`."""
    step()  # the first one may do more, to measure what it takes
    with FlopCounterMode(display=False) as counter:
        step()
    operations: int = counter.get_total_flops()
    return operations


def matrix_product(problem: Problem) -> Callable[[], Any]:
    """Return a large matrix product with the problem's precision, on its device."""
    side = SIDE if problem.device == "cpu" else ACCELERATOR_SIDE
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, side, side, generator=generator).to(problem.device, problem.dtype)
    out = torch.empty_like(one)
    return lambda: torch.mm(one, other, out=out)


def limits_of(problem: Problem, rows: Sequence[Row], product: float) -> list[Limit]:
    """Return how far the meta-steps among `rows`, variants of ours for `problem`, are from the peak.

    Args:
        problem: the work.
        rows: its times.
        product: seconds of its `matrix_product`, measured in the same run.
    """
    operations = operations_of(meta_step(problem, False))
    peak = operations_of(matrix_product(problem)) / product
    return [
        Limit(
            work=row.work,
            variant=row.variant,
            operations=operations,
            seconds=statistics.median(row.wall if row.by_wall else row.cpu),
            peak=peak,
        )
        for row in rows
    ]
