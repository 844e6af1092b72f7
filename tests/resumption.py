"""Runs that are stopped, killed and resumed, and the uninterrupted ones that they are to equal."""

import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.checkpoint import CheckpointStore
from mtrl.errors import guarded
from mtrl.interrupts import Interrupted
from mtrl.meta import watching
from mtrl.runs import Run

Train = Callable[..., Any]
"""Called with a directory, a configuration and whether to resume."""
_PROCESSES = multiprocessing.get_context("forkserver")


def no_matplotlib(name: str) -> None:
    """Find no module: pictures change nothing and take time."""


@contextmanager
def uninterrupted(root: Path, train: Train) -> Iterator[Callable[[Any], Path]]:
    """Hand out the directory of a configuration's uninterrupted run, trained when first asked for."""
    done = dict[str, Path]()

    def reference(config: Any) -> Path:
        key = repr(config)
        if key not in done:
            done[key] = root / str(len(done))
            train(done[key], config)
        return done[key]

    yield reference
    shutil.rmtree(root)


def final_files(directory: Path, *more: str) -> dict[str, bytes]:
    """Return the newest checkpoint's files, the metrics and `more` of the directory, as bytes."""
    step = CheckpointStore(directory / "checkpoints").steps()[-1]
    newest = directory / "checkpoints" / f"{step:012d}"
    files = [newest / "tensors.safetensors", newest / "state.json"]
    files += [directory / name for name in ("metrics.csv", *more)]
    return {file.name: file.read_bytes() for file in files}


def assert_same_end(directory: Path, reference: Path, *more: str) -> None:
    ours, theirs = (final_files(each, *more) for each in (directory, reference))
    for name in theirs:
        assert ours[name] == theirs[name], f"{name} differs"


def train_with_stops(
    train: Train,
    directory: Path,
    config: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    every: int,
    first: int,
) -> int:
    """Train to the end, resuming each time; return how often the run was stopped.

    Args:
        train: what trains.
        directory: of the run, which begins here.
        config: its settings.
        monkeypatch: undoes the stops.
        every: the run is stopped at each so-many-th question whether it should.
        first: and the first time at this question, from 1.
    """
    asked, stops = [0], 0

    def stop(run: Run) -> bool:
        asked[0] += 1
        return asked[0] % every == first

    with monkeypatch.context() as patched:
        patched.setattr(Run, "stop_requested", property(stop))
        while True:
            try:
                train(directory, config, stops > 0)
                return stops
            except Interrupted:
                stops += 1
                # What a stopped run leaves in the global streams must not matter.
                torch.rand(3)
                np.random.rand(3)  # noqa: NPY002


def _child(train: Train, directory: Path, config: Any, pause: float) -> None:
    torch.set_num_threads(1)
    watching.find_spec = no_matplotlib  # type: ignore[assignment]
    log = Run.log

    def paused(run: Run, step: int, values: Any) -> None:
        log(run, step, values)
        time.sleep(pause)

    Run.log = paused  # type: ignore[method-assign]
    resume = (directory / "manifest.json").exists()
    with open(directory.with_suffix(".stderr"), "a") as file, redirect_stderr(file):
        code = guarded(lambda: train(directory, config, resume) and None)
    sys.exit(code)


@contextmanager
def children(train: Train, preloaded: Sequence[str]) -> Iterator[Callable[..., BaseProcess]]:
    """Start processes that train, or go on where a directory holds a run, and end with the context.

    What is handed out takes a directory, a configuration and how many seconds to wait after each
    point of the curves; standard error goes to the directory's name with `.stderr`.

    Args:
        train: a function of a module.
        preloaded: modules that all of them need.
    """
    _PROCESSES.set_forkserver_preload(list(preloaded))
    started: list[BaseProcess] = []

    def start(directory: Path, config: Any, pause: float) -> BaseProcess:
        child = _PROCESSES.Process(target=_child, args=(train, directory, config, pause))
        child.start()
        started.append(child)
        return child

    try:
        yield start
    finally:
        for child in started:
            child.kill()
            child.join()
