"""Measure what a head per task costs as tasks are added, beside other ways to compute it.

    python scripts/benchmark_heads.py
    python scripts/benchmark_heads.py --batch 1024 --features 64 --outputs 2

Forward and backward of an affine head on one batch, in milliseconds of processor time, on one thread.
The ways take turns in one process; the median over turns is printed. All are checked to agree first.
"""

import statistics
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import Tensor
from torch.nn.functional import embedding, linear

from mtrl.agents.networks.layers import Affine
from mtrl.benchmarks.measure import interleaved


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured."""

    tasks: tuple[int, ...] = (2, 10, 50)
    """Numbers of tasks, a row each."""
    batch: int = 2048
    """Samples in the batch."""
    order: Literal["turns", "random"] = "turns"
    """Whether tasks take turns in the batch, as in minibatches of equal shares, or come at random."""
    features: int = 256
    """Inputs of a head."""
    outputs: int = 6
    """Outputs of a head."""
    turns: int = 11
    """How often each way gets its turn."""
    seconds: float = 0.02
    """The least length of a turn, in seconds of processor time."""


def ours(head: Affine, features: Tensor, index: Tensor) -> Tensor:
    """Do what the library does: look whether tasks take turns, else pick or compute blocks."""
    return head.chosen(features, index)


def blocks(head: Affine, features: Tensor, index: Tensor) -> Tensor:
    """Compute blocks of one task each."""
    return head.in_blocks(features, index)


def copies(head: Affine, features: Tensor, index: Tensor) -> Tensor:
    """Gather a copy of the weights for every sample."""
    weight = embedding(index, head.weight.flatten(1)).view(-1, head.outputs, head.inputs)
    bias = embedding(index, head.bias).unsqueeze(-1)
    return torch.baddbmm(bias, weight, features.unsqueeze(-1)).squeeze(-1)


def everything(head: Affine, features: Tensor, index: Tensor) -> Tensor:
    """Compute all heads for every sample and keep one."""
    return head.picked(features, index)


def loop(head: Affine, features: Tensor, index: Tensor) -> Tensor:
    """Loop over tasks."""
    made = features.new_zeros(len(features), head.outputs)
    for task in range(head.groups):
        places = (index == task).nonzero().squeeze(1)
        own = linear(features.index_select(0, places), head.weight[task], head.bias[task])
        made = made.index_copy(0, places, own)
    return made


WAYS = {way.__name__: way for way in (ours, blocks, copies, everything, loop)}


def measure(settings: Settings, tasks: int) -> dict[str, float]:
    """Return the milliseconds of each way."""
    chance = torch.Generator().manual_seed(0)
    head = Affine((tasks, settings.outputs, settings.features), generator=chance)
    features = torch.randn(settings.batch, settings.features, generator=chance, requires_grad=True)
    index = torch.arange(settings.batch) % tasks
    if settings.order == "random":
        index = torch.randint(0, tasks, (settings.batch,), generator=chance)
    of = (features, *head.parameters())
    for way in WAYS.values():
        torch.testing.assert_close(way(head, features, index), loop(head, features, index))
    steps = {
        name: lambda way=way: torch.autograd.grad(way(head, features, index).sum(), of)
        for name, way in WAYS.items()
    }
    times = interleaved(steps, settings.turns, settings.seconds)
    return {name: 1e3 * statistics.median(own for own, _ in turn) for name, turn in times.items()}


def main(settings: Settings) -> None:
    """Print a table in Markdown."""
    torch.set_num_threads(1)
    print(" | ".join(["| tasks", *WAYS]) + " |")
    print("|--:" * (1 + len(WAYS)) + "|")
    for tasks in settings.tasks:
        row = measure(settings, tasks)
        print(" | ".join([f"| {tasks}", *(f"{own:.2f}" for own in row.values())]) + " |")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
