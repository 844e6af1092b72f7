"""Work in processes side by side, a few at a time; they end when the process that wants it does."""

import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import torch

from mtrl.durable import reporting
from mtrl.errors import MtrlError, guarded
from mtrl.interrupts import Interrupted, Interrupts, terminate_after

__all__ = ["Work", "side_by_side", "work_alone"]

_POLL_SECONDS = 0.05
# Importing all this takes seconds, and a training not always more: processes are forked from one that
# has done so, and done nothing else.
_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = ["mtrl.side_by_side", "torch.utils.tensorboard", "torch._dynamo"]


class Work(Protocol):
    """One thing to do. It can be pickled."""

    @property
    def name(self) -> str:
        """What progress and errors call it."""

    @property
    def log(self) -> Path:
        """Where its process writes errors; deleted once it is done."""

    def carry_out(self) -> None:
        """Do it, and keep what it comes to."""

    def came_to(self) -> str | None:
        """Return in words what was kept, or None while it is not done."""


@dataclass(frozen=True, kw_only=True)
class _Running:
    work: Work
    process: BaseProcess
    wanted: "Connection[None, None]"


def side_by_side(
    works: Sequence[Work], processes: int, *, modules: Sequence[str], kept: str
) -> None:
    """Carry out what is not done of `works`, `processes` at a time, with one thread each.

    Args:
        works: in the order in which they are started.
        processes: how many run side by side.
        modules: what the work imports, which is imported once for all.
        kept: what is kept of work that is stopped, for the message that says how to go on.

    Raises:
        Interrupted: a signal asked to stop. What had begun got SIGTERM, and had its time to save.
        MtrlError: something failed, and the rest was stopped; the message names it and its log.
    """
    waiting = deque(work for work in works if work.came_to() is None)
    _say(f"{len(works)} trainings, {len(works) - len(waiting)} of them found finished")
    _CONTEXT.set_forkserver_preload([*_PRELOADED, *modules])
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
                        f"stopped; {kept}, and the same command continues",
                        interrupts.signal_number,
                    )
        finally:
            # Also when one failed: what the others did is kept, and nobody waits for their end.
            _stop(running)


def _start(work: Work) -> _Running:
    with reporting("write", work.log):
        work.log.parent.mkdir(parents=True, exist_ok=True)
    wanted, held = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=work_alone, args=(work, wanted))
    process.start()
    wanted.close()
    return _Running(work=work, process=process, wanted=held)


def _report(ended: _Running) -> None:
    """Say what it came to, or raise if it failed."""
    work, code = ended.work, ended.process.exitcode
    ended.wanted.close()
    made = work.came_to()
    if code != 0 or made is None:
        found = work.log.read_text(errors="replace") if work.log.exists() else ""
        last = (found.strip().splitlines() or ["it wrote no error"])[-1].removeprefix("mtrl: ")
        raise MtrlError(f"{work.name} failed with exit code {code}: {last}; see {work.log}")
    work.log.unlink(missing_ok=True)
    _say(f"{work.name}: {made}")


def _stop(running: Sequence[_Running]) -> None:
    for each in running:
        each.process.terminate()
    for each in running:
        each.process.join()
        each.wanted.close()


def work_alone(work: Work, wanted: "Connection[None, None]") -> None:
    """Carry out `work` in the process that was made for it, and end the process.

    Args:
        work: what to do.
        wanted: nothing is sent; it ends when the process that wants the work dies.
    """
    # Ctrl-C in a terminal is for the process that wants the work, which passes it on once.
    os.setsid()
    with open(work.log, "wb") as errors:
        os.dup2(errors.fileno(), 2)
    terminate_after(lambda: _until_unwanted(wanted))
    torch.set_num_threads(1)
    sys.exit(guarded(work.carry_out))


def _until_unwanted(wanted: "Connection[None, None]") -> None:
    with suppress(EOFError):
        wanted.recv()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
