"""Time and memory of variants of the same work, in this process or others."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from mtrl.benchmarks.adaptation.peers.worker import CLEAR, growth, turn

__all__ = [
    "CLEAR",
    "Build",
    "Turn",
    "Variant",
    "interleaved",
    "memory_growth",
    "speedups",
    "take_turns",
]

Step = Callable[[], Any]
Turn = Callable[[float], tuple[float, float]]
"""Works for so many processor seconds; returns the (processor, wall) seconds of one step."""


@dataclass(frozen=True)
class Build:
    """Makes a step; can be sent to another process.

    Attributes:
        function: at the top level of a module.
        arguments: of the function.
    """

    function: Callable[..., Step]
    arguments: tuple[Any, ...] = ()

    def __call__(self) -> Step:
        return self.function(*self.arguments)


@dataclass(frozen=True)
class Variant:
    """One way to do the work, ready to run.

    Attributes:
        step: does it once.
        first: seconds of wall time that making and first running it took, compilation included.
    """

    step: Step
    first: float

    @classmethod
    def ready(cls, build: Build) -> "Variant":
        """Make the step and run it for the first time."""
        start = time.perf_counter()
        step = build()
        step()
        return cls(step, time.perf_counter() - start)


def interleaved(
    steps: Mapping[str, Step],
    turns: int,
    seconds: float,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, list[tuple[float, float]]]:
    """Run all steps in turns; return for each the (processor, wall) seconds per step of every turn.

    Everything runs on one thread of one process, so that processor time is the work done, whatever else
    the machine does meanwhile.

    Args:
        steps: what to run.
        turns: how often each gets its turn.
        seconds: a turn's least length in processor time.
        synchronize: waits for the device.
    """

    def timed(step: Step) -> Turn:
        return lambda seconds: turn(step, seconds, synchronize)

    return take_turns({name: timed(step) for name, step in steps.items()}, turns, seconds)


def take_turns(
    variants: Mapping[str, Turn], turns: int, seconds: float
) -> dict[str, list[tuple[float, float]]]:
    """Give every variant its turn, again and again, so that what else the machine does falls on all."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(turns):
        for name, variant in variants.items():
            times[name].append(variant(seconds))
    return times


def speedups(
    times: Mapping[str, list[tuple[float, float]]], baseline: str, *, wall: bool = False
) -> dict[str, list[float]]:
    """Return, for each turn, how often each step's processor time goes into the baseline's.

    With `wall` it is wall time, which is what counts where an accelerator does the work.
    """
    return {
        name: [base[wall] / own[wall] for base, own in zip(times[baseline], turns, strict=True)]
        for name, turns in times.items()
    }


def memory_growth(build: Build) -> float | None:
    """Return by how many MiB one step raises a fresh process's resident memory at its peak.

    None where the system does not tell (it does on Linux).
    """
    if not CLEAR.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_growth, build).result()


def _growth(build: Build) -> float | None:
    import torch

    torch.set_num_threads(1)
    return growth(build())
