"""Time and memory of variants of the same work."""

import ctypes
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

__all__ = ["Build", "Variant", "interleaved", "memory_growth", "speedups"]

Step = Callable[[], Any]
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
    steps: Mapping[str, Step], turns: int, seconds: float
) -> dict[str, list[tuple[float, float]]]:
    """Run all steps in turns; return for each the (processor, wall) seconds per step of every turn.

    Everything runs on one thread of one process, so that processor time is the work done, whatever else
    the machine does meanwhile.

    Args:
        steps: what to run.
        turns: how often each gets its turn.
        seconds: a turn's least length in processor time.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            times[name].append(_turn(step, seconds))
    return times


def _turn(step: Step, seconds: float) -> tuple[float, float]:
    count, wall, start = 0, time.perf_counter(), time.process_time()
    while count == 0 or time.process_time() < start + seconds:
        step()
        count += 1
    return (time.process_time() - start) / count, (time.perf_counter() - wall) / count


def speedups(
    times: Mapping[str, list[tuple[float, float]]], baseline: str
) -> dict[str, list[float]]:
    """Return, for each turn, how often each step's processor time goes into the baseline's."""
    return {
        name: [base / own for (base, _), (own, _) in zip(times[baseline], turns, strict=True)]
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


def _growth(build: Build) -> float:
    import torch

    torch.set_num_threads(1)
    step = build()
    step()
    # Without this, what the first step freed would still count as resident, and hide the second one's need.
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5")  # sets the peak back to the present
    before = _kibibytes("VmRSS")
    step()
    return (_kibibytes("VmHWM") - before) / 1024


def _kibibytes(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])
