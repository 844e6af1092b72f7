"""The trainings of `mtrl reproduce dex`: a process each, as many at a time as there are cores.

A finished training is a file, whose name ends in a digest of settings and code: it is not repeated,
and other settings or other code start afresh beside it. An interrupted one begins anew; each takes a
minute at most.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from mtrl.cli import guarded
from mtrl.durable import replace_file, reporting
from mtrl.errors import MtrlError
from mtrl.interrupts import Interrupted, Interrupts, terminate_after
from mtrl.reproduce.dex.courses import Course, DexSettings, courses
from mtrl.reproduce.dex.training import Taken, take

__all__ = ["Job", "carry_out_jobs", "jobs_of", "train"]

_POLL_SECONDS = 0.05
# Importing all this takes seconds, and a training not many more: processes are forked from one that
# has done so, and done nothing else.
_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = ["mtrl.reproduce.dex.jobs", "torch._dynamo"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training.

    Attributes:
        course: what the agent is trained on.
        seed: of all its random streams.
        settings: that decide it.
        folder: where its file goes.
        code: what identifies the code, so that no numbers of other code are reported as this one's.
    """

    course: Course
    seed: int
    settings: DexSettings
    folder: Path
    code: Mapping[str, str]

    @property
    def name(self) -> str:
        """What progress and errors call it."""
        return f"{self.course.name}, seed {self.seed}"

    @property
    def file(self) -> Path:
        """What is written when it is finished."""
        # Which levels are trained for longer decides the course, and nothing else.
        settings = asdict(replace(self.settings, goals=()))
        content = json.dumps([self.course.stages, settings, dict(self.code)], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        level = self.course.stages[-1].replace(" ", "-")
        return self.folder / f"{self.course.kind}-{level}-seed-{self.seed}-{digest}.json"

    def finished(self) -> Taken | None:
        """Return what it came to, or None while it is not finished.

        Raises:
            MtrlError: its file is damaged.
        """
        try:
            values = json.loads(self.file.read_bytes())
            return Taken.from_json(values, len(self.course.stages))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise MtrlError(
                f"{self.file}: damaged ({error!r}); delete it, and the training is repeated"
            ) from error


def jobs_of(
    settings: DexSettings, seeds: Sequence[int], folder: Path, code: Mapping[str, str]
) -> list[Job]:
    """Return all trainings, the long ones first, so that no process idles at the end."""
    return [
        Job(course=course, seed=seed, settings=settings, folder=folder, code=code)
        for course in courses(settings)
        for seed in seeds
    ]


def train(job: Job) -> None:
    """Carry out one training in this process, and keep what it came to."""
    made = take(job.course, job.settings, job.seed)
    replace_file(job.file, json.dumps(made.to_json()).encode())


@dataclass(frozen=True, kw_only=True)
class _Running:
    job: Job
    process: BaseProcess
    wanted: "Connection[None, None]"


def carry_out_jobs(jobs: Sequence[Job], processes: int) -> None:
    """Carry out what is not finished of `jobs`, `processes` at a time.

    Raises:
        Interrupted: a signal asked to stop; what is finished is kept.
        MtrlError: a training failed; the message names it and its log.
    """
    waiting = deque(job for job in jobs if job.finished() is None)
    _say(f"{len(jobs)} trainings, {len(jobs) - len(waiting)} of them found finished")
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    running: list[_Running] = []
    with Interrupts() as interrupts:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    running.append(_start(waiting.popleft()))
                time.sleep(_POLL_SECONDS)
                for ended in [each for each in running if not each.process.is_alive()]:
                    running.remove(ended)
                    _report(ended)
                if interrupts.signal_number is not None:
                    raise Interrupted(
                        "stopped; the same command goes on with the trainings that are not finished",
                        interrupts.signal_number,
                    )
        finally:
            for each in running:
                each.process.kill()
                each.process.join()
                each.wanted.close()


def _start(job: Job) -> _Running:
    with reporting("write", job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
    wanted, held = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(job, wanted))
    process.start()
    wanted.close()
    return _Running(job=job, process=process, wanted=held)


def _report(ended: _Running) -> None:
    """Say what a training has reached, or raise if it failed."""
    job, code = ended.job, ended.process.exitcode
    ended.wanted.close()
    made = job.finished()
    if code != 0 or made is None:
        log = _log(job)
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        last = lines[-1].removeprefix("mtrl: ") if lines else "it wrote no error"
        raise MtrlError(f"{job.name} failed with exit code {code}: {last}; see {log}")
    _log(job).unlink(missing_ok=True)
    reached = f"survives {made.after[-1]:.0f} steps in {job.course.stages[-1]}"
    _say(f"{job.name}: {reached} after {sum(made.steps):,} steps in {sum(made.seconds):.0f} s")


def _work(job: Job, wanted: "Connection[None, None]") -> None:
    """Train in a process that was made for it, which ends when the one that wants it does."""
    # Ctrl-C in a terminal is for the process that wants the training, which ends the others.
    os.setsid()
    with open(_log(job), "wb") as errors:
        os.dup2(errors.fileno(), 2)
    terminate_after(lambda: _until_unwanted(wanted))
    torch.set_num_threads(1)
    sys.exit(guarded(lambda: train(job)))


def _until_unwanted(wanted: "Connection[None, None]") -> None:
    with suppress(EOFError):
        wanted.recv()


def _log(job: Job) -> Path:
    return job.file.with_suffix(".log")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
