"""Trainings side by side, each in a process of its own; stopped at any instant, they continue."""

import multiprocessing
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from mtrl.compare.trainings import Scores, Training
from mtrl.compare.worker import work
from mtrl.durable import reporting
from mtrl.errors import MtrlError
from mtrl.interrupts import Interrupted, Interrupts
from mtrl.progress import format_duration

__all__ = ["train_all"]

_POLL_SECONDS = 0.05
# Specialists are many and short, and importing all this takes seconds: processes are forked from one
# that has done so, and done nothing else.
_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = ["mtrl.compare.worker", "torch.utils.tensorboard", "torch._dynamo"]


@dataclass(frozen=True, kw_only=True)
class _Running:
    training: Training
    process: BaseProcess
    wanted: "Connection[None, None]"


def train_all(trainings: Sequence[Training], processes: int, commit: str) -> None:
    """Carry out what is not finished of `trainings`, `processes` at a time.

    Args:
        trainings: in the order in which they are started.
        processes: how many run side by side.
        commit: of the code, for the record.

    Raises:
        Interrupted: a signal asked to stop; every training saved where it was.
        MtrlError: a training failed, or what is in its directory is not its own; the others saved
            where they were.
    """
    waiting = deque(training for training in trainings if training.scores() is None)
    for training in waiting:
        # Before anything is started: a directory that is another's is found now.
        _ = training.stored_config
    _say(f"{len(trainings)} trainings, {len(trainings) - len(waiting)} of them found finished")
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    running: list[_Running] = []
    with Interrupts() as interrupts:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    running.append(_start(waiting.popleft(), commit))
                time.sleep(_POLL_SECONDS)
                for ended in [each for each in running if not each.process.is_alive()]:
                    running.remove(ended)
                    _report(ended)
                if interrupts.signal_number is not None:
                    raise Interrupted(
                        "stopped; every training is saved, and the same command continues them",
                        interrupts.signal_number,
                    )
        finally:
            # Also when one failed: what the others did is kept, and nobody waits for their end.
            _stop(running)


def _start(training: Training, commit: str) -> _Running:
    log = _log(training)
    with reporting("write", log):
        log.parent.mkdir(parents=True, exist_ok=True)
    wanted, held = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=work, args=(training, commit, log, wanted))
    process.start()
    wanted.close()
    return _Running(training=training, process=process, wanted=held)


def _report(ended: _Running) -> None:
    """Say what a training has reached, or raise if it failed."""
    training, code = ended.training, ended.process.exitcode
    ended.wanted.close()
    scores = training.scores()
    if code != 0 or scores is None:
        log = _log(training)
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        last = lines[-1].removeprefix("mtrl: ") if lines else "it wrote no error"
        raise MtrlError(f"{training.name} failed with exit code {code}: {last}; see {log}")
    _log(training).unlink(missing_ok=True)
    _say(f"{training.name}: {_in_words(scores)}")


def _in_words(scores: Scores) -> str:
    duration = format_duration(scores.seconds)
    return f"{scores.steps:,} steps in {duration}, mean return {scores.returns.mean():.2f}"


def _stop(running: Sequence[_Running]) -> None:
    for each in running:
        each.process.terminate()
    for each in running:
        each.process.join()
        each.wanted.close()


def _log(training: Training) -> Path:
    return training.directory.with_name(f"{training.directory.name}.log")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
