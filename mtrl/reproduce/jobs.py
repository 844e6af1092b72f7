"""Trainings that are functions, each in a process of its own, as many at a time as there are cores.

A finished training is a file, whose name ends in a digest of what it was told and of the code: it is not
repeated, and other settings or other code start afresh beside it. An interrupted one begins anew, so
each should take minutes at most.
"""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mtrl.cli import guarded
from mtrl.durable import replace_file, reporting
from mtrl.errors import MtrlError
from mtrl.interrupts import Interrupted, Interrupts, terminate_after

__all__ = ["Finished", "Job", "carry_out_jobs", "main"]

POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a training came to: JSON values, and the seconds that it took."""

    values: Any
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One training.

    Attributes:
        name: what progress and errors call it.
        stem: how its file's name begins.
        function: `module:function`, called with `told` by name; it returns JSON values.
        told: JSON values that decide the training, the seed among them.
        folder: where its file goes.
        code: what identifies the code, so that no numbers of other code are reported as this one's.
    """

    name: str
    stem: str
    function: str
    told: Mapping[str, Any]
    folder: Path
    code: Mapping[str, str]

    @property
    def file(self) -> Path:
        """What is written when it is finished."""
        content = json.dumps([self.function, dict(self.told), dict(self.code)], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        return self.folder / f"{self.stem}-{digest}.json"

    @cached_property
    def request(self) -> str:
        """What the process that trains is told."""
        told = {"function": self.function, "told": dict(self.told), "file": str(self.file)}
        return json.dumps(told)

    def finished(self) -> Finished | None:
        """Return what it came to, or None while it is not finished.

        Raises:
            MtrlError: its file is damaged.
        """
        try:
            found = json.loads(self.file.read_bytes())
            return Finished(values=found["values"], seconds=float(found["seconds"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise MtrlError(
                f"{self.file}: damaged ({error!r}); delete it, and the training is repeated"
            ) from error


def carry_out_jobs(jobs: Sequence[Job], processes: int) -> None:
    """Carry out what is not finished of `jobs`, `processes` at a time, in their order.

    Raises:
        Interrupted: a signal asked to stop; what is finished is kept.
        MtrlError: a training failed; the message names it and its log.
    """
    waiting = deque(job for job in jobs if job.finished() is None)
    _say(f"{len(jobs) - len(waiting)} of {len(jobs)} trainings were finished before")
    running: dict[Job, subprocess.Popen[bytes]] = {}
    with Interrupts() as interrupts:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    job = waiting.popleft()
                    running[job] = _started(job)
                time.sleep(POLL_SECONDS)
                for job in [job for job, process in running.items() if process.poll() is not None]:
                    with running.pop(job) as process:  # closes its standard input
                        code = process.wait()
                    _check(job, code)
                if interrupts.signal_number is not None:
                    raise Interrupted(
                        "stopped; the same command goes on with the trainings that are not finished",
                        interrupts.signal_number,
                    )
        finally:
            for process in running.values():
                with process:
                    process.kill()


def _started(job: Job) -> subprocess.Popen[bytes]:
    _say(f"{job.name}: started")
    # One thread each: these tensors are small, and the processes share the cores.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    log = _log(job)
    with reporting("write", log):
        job.folder.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "mtrl.reproduce.jobs", job.request],
                stdin=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **threads},
                # Ctrl-C in a terminal is for this process, which ends the others.
                start_new_session=True,
            )


def _check(job: Job, code: int) -> None:
    found = job.finished()
    if code != 0 or found is None:
        lines = _log(job).read_text(errors="replace").strip().splitlines() or ["it wrote no error"]
        raise MtrlError(f"{job.name} failed with exit code {code}: {lines[-1]}; see {_log(job)}")
    _log(job).unlink()
    _say(f"{job.name}: finished in {found.seconds:.0f} s")


def _log(job: Job) -> Path:
    return job.file.with_suffix(".log")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    """Train as the request says, in the process that it was made for."""
    # Standard input ends when the process that wants the training dies, and then so does this one.
    terminate_after(sys.stdin.read)
    torch.set_num_threads(1)
    request = json.loads(sys.argv[1])
    module, _, name = request["function"].partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    clock = time.monotonic()
    values = function(**request["told"])
    made = {"seconds": time.monotonic() - clock, "values": values}
    replace_file(Path(request["file"]), json.dumps(made).encode())


if __name__ == "__main__":
    sys.exit(guarded(main))
