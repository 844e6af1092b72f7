"""One library's meta-step in a process of its own: `PYTHON worker.py MODULE PROBLEM.npz`.

It runs under the library's own Python, where mtrl is not, and so it imports nothing of mtrl. Requests come line by
line on standard input, answers go line by line to standard output, all JSON:

    {"do": "gradient", "path": P}      writes the meta-gradient's arrays, in order, to P
    {"do": "first", "work": W}         does W once, and says how long it took, compilation included
    {"do": "turn", "work": W, "seconds": S}   does W again and again for S processor seconds
    {"do": "memory", "work": W}        how far W raises the resident memory at its peak, in a fresh process

W is "train", a whole meta-step, or "adapt" and "adapt one", adaptation of all tasks or of one without derivatives.
The first answer says which version of the library is there, or why it cannot be used. The process ends with its
standard input.
"""

import ctypes
import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = ["Peer", "growth", "main", "turn"]

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peer(Protocol):
    """A library's way to do the work of a problem."""

    version: str

    def gradient(self) -> Iterable[Any]:
        """Return the meta-gradient's arrays, parameters first, then step sizes."""

    def step(self) -> Any:
        """Take a meta-step: gradient and Adam."""

    def adapt(self, tasks: int) -> Any:
        """Adapt to the first `tasks` tasks and predict their query points, without derivatives."""

    def synchronize(self) -> None:
        """Wait for the device."""


def turn(
    work: Callable[[], Any], seconds: float, synchronize: Callable[[], None]
) -> tuple[float, float]:
    """Do `work` for at least `seconds` of processor time, or wall time if that is longer.

    Returns the (processor, wall) seconds of one time.
    """
    synchronize()
    count, wall, start = 0, time.perf_counter(), time.process_time()
    while count == 0 or (
        time.process_time() < start + seconds and time.perf_counter() < wall + 10 * seconds
    ):
        work()
        count += 1
    synchronize()
    return (time.process_time() - start) / count, (time.perf_counter() - wall) / count


def growth(work: Callable[[], Any]) -> float | None:
    """Return by how many MiB `work` raises this process's resident memory at its peak.

    It is done once before. None where the system does not tell (it does on Linux).
    """
    work()
    if not CLEAR.exists():
        return None
    # Without this, what the first time freed would still count as resident, and hide the second one's need.
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5")  # sets the peak back to the present
    before = _kibibytes("VmRSS")
    work()
    return (_kibibytes("VmHWM") - before) / 1024


def _kibibytes(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def _load(name: str) -> Any:
    """Import a module beside this file, whatever else goes by its name."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _works(peer: Peer, tasks: int) -> dict[str, Callable[[], Any]]:
    return {
        "train": peer.step,
        "adapt": lambda: peer.adapt(tasks),
        "adapt one": lambda: peer.adapt(1),
    }


def _answer(request: dict[str, Any], peer: Peer, works: dict[str, Callable[[], Any]]) -> Any:
    if request["do"] == "gradient":
        arrays = [np.asarray(each, np.float64) for each in peer.gradient()]
        np.savez(request["path"], *arrays)
        return {}
    work = works[request["work"]]
    if request["do"] == "first":
        start = time.perf_counter()
        work()
        peer.synchronize()
        return {"seconds": time.perf_counter() - start}
    if request["do"] == "memory":

        def finished() -> None:
            work()
            peer.synchronize()

        return {"mib": growth(finished)}
    cpu, wall = turn(work, request["seconds"], peer.synchronize)
    return {"cpu": cpu, "wall": wall}


def main(name: str, path: str) -> None:
    """Answer requests until there are no more."""

    def say(values: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()

    with np.load(path) as content:
        arrays = {key: content[key] for key in content.files if key != "problem"}
        problem = json.loads(str(content["problem"]))
    try:
        if name != "by_jax":
            _load("torch_parts")
        peer: Peer = _load(name).build(problem, arrays)
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
        say({"error": f"{type(error).__name__}: {error}"})
        return
    say({"version": peer.version})
    works = _works(peer, problem["tasks"])
    for line in sys.stdin:
        say(_answer(json.loads(line), peer, works))


if __name__ == "__main__":
    main(*sys.argv[1:3])
