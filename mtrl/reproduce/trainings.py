"""Trainings side by side, a process and a CPU core each; stopped at any instant, they continue.

A run directory's name ends in a digest of configuration and code: the same training finds what it
did before, and a changed one starts afresh beside it.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrl.checkpoint import CheckpointStore
from mtrl.config import to_dict
from mtrl.errors import MtrlError
from mtrl.interrupts import Interrupted, Interrupts
from mtrl.meta.kinds import kind_of
from mtrl.metrics import logged_seconds
from mtrl.reproduce.experiment import Config
from mtrl.runs import CHECKPOINTS, TIMINGS

__all__ = ["Training", "cpu_count", "train_all"]

POLL_SECONDS = 0.2


def cpu_count() -> int:
    """Return the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Training:
    """One meta-training of a reproduction.

    Attributes:
        name: what progress and errors call it.
        config: its settings.
        folder: where its run directory goes.
        code: what identifies the code, so that no numbers of other code are reported as this one's.
    """

    name: str
    config: Config
    folder: Path
    code: Mapping[str, str]

    @property
    def kind(self) -> str:
        """The kind of run."""
        return kind_of(self.config).name

    @property
    def directory(self) -> Path:
        """The run directory."""
        content = json.dumps([to_dict(self.config), dict(self.code)], sort_keys=True)
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return self.folder / f"{slug}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    @property
    def iterations_done(self) -> int:
        """Meta-iterations in the newest good checkpoint."""
        store = CheckpointStore(self.directory / CHECKPOINTS)
        return store.load().step if store.steps() else 0

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.iterations_done == self.config.iterations

    @property
    def seconds(self) -> float:
        """Time that the iterations took, over all sessions, from the speeds that the run logged."""
        return logged_seconds(self.directory / TIMINGS, "time/iterations_per_second")


def train_all(trainings: Sequence[Training], processes: int) -> None:
    """Carry out what is not finished of `trainings`, `processes` at a time.

    Raises:
        Interrupted: a signal asked to stop; every training saved where it was.
        MtrlError: a training failed; the others saved where they were.
    """
    for training in trainings:
        if training.finished:
            _say(f"{training.name}: finished before, in {training.directory}")
    pending = [training for training in trainings if not training.finished]
    if not pending:
        return
    workers = _Workers()
    with Interrupts() as interrupts, ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(workers.train, training) for training in pending]
        try:
            _await(futures, interrupts)
        finally:
            # Also when one failed: what the others did is kept, and nobody waits for their end.
            workers.stop()


def _await(futures: Sequence[Future[None]], interrupts: Interrupts) -> None:
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, POLL_SECONDS)
        for future in done:
            future.result()
        if interrupts.signal_number is not None:
            raise Interrupted(
                "stopped; every training is saved, and the same command continues them",
                interrupts.signal_number,
            )


class _Workers:
    """The processes that train; `stop` ends them after their current step, saved."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def train(self, training: Training) -> None:
        """Train in a process of its own and wait for it."""
        with self._started(training) as process:
            if process is None:
                return
            assert process.stderr is not None
            last: deque[str] = deque(["it wrote no error"], maxlen=1)
            for line in map(str.strip, process.stderr):
                if line and not self._stopped:
                    last.append(line.removeprefix(f"{training.config.learner.name}: "))
                    _say(f"{training.name}: {last[0]}")
            code = process.wait()
        if code != 0 and not self._stopped:
            raise MtrlError(
                f"{training.name} failed with exit code {code}: {last[0].removeprefix('mtrl: ')}"
            )

    def stop(self) -> None:
        """End all processes, and start no more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    @contextmanager
    def _started(self, training: Training) -> Iterator[subprocess.Popen[str] | None]:
        with self._lock:
            if self._stopped:
                yield None
                return
            process = _spawn(training)
            self._running.add(process)
        try:
            with process:
                yield process
        finally:
            with self._lock:
                self._running.discard(process)


def _request(training: Training) -> str:
    request: dict[str, Any] = {
        "kind": training.kind,
        "directory": str(training.directory),
        "config": to_dict(training.config),
    }
    return json.dumps(request)


def _spawn(training: Training) -> subprocess.Popen[str]:
    # One thread each: these tensors are small, and the processes share the cores.
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"), "1"
    )
    return subprocess.Popen(
        [sys.executable, "-m", "mtrl.reproduce.worker", _request(training)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **threads},
        # Ctrl-C in a terminal goes to a whole session: it must reach this process only, which
        # passes it on once. A second signal would quit without saving.
        start_new_session=True,
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
