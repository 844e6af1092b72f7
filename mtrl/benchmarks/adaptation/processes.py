"""Other libraries, each in a process of its own environment that answers requests."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from mtrl.benchmarks.adaptation.peers import worker
from mtrl.benchmarks.adaptation.problem import LearnerName, Problem, WorkName
from mtrl.errors import MtrlError

__all__ = ["PEERS", "Library", "PeerProcess", "find_peers"]

_ALL: tuple[LearnerName, ...] = ("maml", "fomaml", "meta-sgd")


@dataclass(frozen=True, kw_only=True)
class Library:
    """A library that is compared with.

    Attributes:
        name: of its folder, too.
        module: beside `worker.py`.
        learners: that it has.
        works: that it takes part in.
        own_environment: whether it has a Python of its own; otherwise it is run by ours.
        installed: a file in its folder that is there when it is; None if it needs nothing.
    """

    name: str
    module: str
    learners: tuple[LearnerName, ...] = _ALL
    works: tuple[WorkName, ...] = get_args(WorkName)
    own_environment: bool = True
    # Written last: an environment that is half made has its Python.
    installed: str | None = "installed.txt"

    def folder(self, peers: Path) -> Path:
        """Return its folder."""
        return peers / self.name

    def is_there(self, peers: Path) -> bool:
        """Return whether it is installed in the folder `peers`."""
        return self.installed is None or (self.folder(peers) / self.installed).exists()

    def python(self, peers: Path) -> str:
        """Return the Python that runs it."""
        return (
            str(self.folder(peers) / "bin" / "python") if self.own_environment else sys.executable
        )


PEERS = MappingProxyType(
    {
        library.name: library
        for library in (
            Library(
                name="learn2learn",
                module="by_learn2learn",
                own_environment=False,
                installed="learn2learn/algorithms/meta_sgd.py",
            ),
            Library(name="torchopt", module="by_torchopt", learners=("maml", "meta-sgd")),
            Library(name="higher", module="by_higher", learners=("maml", "meta-sgd")),
            # Not images: `vmap` makes grouped convolutions of theirs, which take XLA 15 s a step on a CPU.
            Library(name="jax", module="by_jax", works=("sinusoid", "policy")),
            Library(name="loop", module="by_loop", own_environment=False, installed=None),
        )
    }
)
"""By name; `loop` is written by hand on torch."""


def find_peers(problem: Problem, wanted: tuple[str, ...], peers: Path) -> list[Library]:
    """Return the libraries among `wanted` that are installed and have the learner and the work of `problem`."""
    found = (PEERS[name] for name in wanted if PEERS[name].is_there(peers))
    return [
        each for each in found if problem.learner in each.learners and problem.work in each.works
    ]


class PeerProcess:
    """A library's process at work on one problem; use it in a `with` statement.

    Args:
        library: which.
        problem: the size of the work.
        peers: folder of all libraries.

    Raises:
        MtrlError: the library does not run; the message has its own words.
    """

    def __init__(self, library: Library, problem: Problem, peers: Path) -> None:
        self.library = library
        self._folder = tempfile.TemporaryDirectory(prefix="mtrl-peer-")
        place = Path(self._folder.name)
        described = json.dumps(problem.described(library.folder(peers).resolve()))
        arrays: dict[str, Any] = {"problem": np.array(described), **problem.arrays()}
        np.savez(place / "problem.npz", **arrays)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(problem.threads))
        self._errors = place / "errors.txt"
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                [library.python(peers), worker.__file__, library.module, place / "problem.npz"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **threads},
            )
        try:
            self.version: str = self._answer()["version"]
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The library and its version."""
        name = "hand-written loop, torch" if self.library.name == "loop" else self.library.name
        return f"{name} {self.version}"

    def gradient(self) -> list[NDArray[np.float64]]:
        """Return its meta-gradient's arrays, parameters first."""
        path = Path(self._folder.name) / "gradient.npz"
        self._ask({"do": "gradient", "path": str(path)})
        with np.load(path) as found:
            return [found[f"arr_{i}"] for i in range(len(found.files))]

    def first(self, work: str) -> float:
        """Do `work` for the first time; return the seconds that it took, compilation included."""
        seconds: float = self._ask({"do": "first", "work": work})["seconds"]
        return seconds

    def turn(self, work: str, seconds: float) -> tuple[float, float]:
        """Do `work` for so long; return the (processor, wall) seconds of one time."""
        answer = self._ask({"do": "turn", "work": work, "seconds": seconds})
        return answer["cpu"], answer["wall"]

    def memory(self, work: str) -> float | None:
        """Return how many MiB `work` needs at its peak; for a process that has done nothing else."""
        found: float | None = self._ask({"do": "memory", "work": work})["mib"]
        return found

    def close(self) -> None:
        """End the process."""
        # Its input ends, and with that its loop.
        self._process.communicate()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise MtrlError(self._last_words()) from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MtrlError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MtrlError(
                f"{self.library.name} does not run: {answer['error']}; install it anew with "
                f"`python scripts/install_peers.py {self.library.name}`"
            )
        return answer

    def _last_words(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return f"{self.library.name} failed: {lines[-1] if lines else 'it wrote no error'}"
