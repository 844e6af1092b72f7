"""A run directory: everything needed to know what was run, to watch it, and to continue it exactly.

    config.toml     the configuration, complete
    manifest.json   kind, versions, command line, and what the loop adds (task ids, device)
    metrics.csv     step,tag,value; byte-equal whether or not the run was killed and resumed
    timings.csv     the same for what depends on the machine's speed
    checkpoints/    one folder per step
    events.out...   TensorBoard

A step is logged before it is checkpointed, so that dropping the rows beyond the newest checkpoint
gives the file as it was when that checkpoint was made.
"""

import math
import shlex
import signal
import tomllib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from filelock import FileLock, Timeout

from mtrl.checkpoint import Checkpoint, CheckpointStore
from mtrl.config import differing_fields, to_dict, to_toml
from mtrl.durable import replace_file, reporting
from mtrl.errors import MtrlError, RunLockedError, UsageError
from mtrl.interrupts import Interrupted, Interrupts
from mtrl.manifest import Manifest
from mtrl.metrics import MetricsFile
from mtrl.tags import find_tag
from mtrl.tracking import Tracker

__all__ = ["Run"]

CONFIG = "config.toml"
MANIFEST = "manifest.json"
METRICS = "metrics.csv"
TIMINGS = "timings.csv"
CHECKPOINTS = "checkpoints"
LOCK = "run.lock"


class Run:
    """An open run directory; make one with `Run.open` and use it in a `with` statement.

    Attributes:
        directory: where everything is.
        manifest: what is known about the run; `manifest.update(...)` adds to it.
        restored: the checkpoint to continue from, None to start from scratch.
        tracker: TensorBoard, for what is not a scalar.
    """

    def __init__(
        self, directory: Path, manifest: Manifest, checkpoints: CheckpointStore, lock: FileLock
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.restored: Checkpoint | None = checkpoints.load() if checkpoints.steps() else None
        self._checkpoints = checkpoints
        self._lock = lock
        self._saved_step = -1 if self.restored is None else self.restored.step
        self._logged_step = self._saved_step
        self._metrics = MetricsFile(directory / METRICS, through=self._saved_step)
        self._timings = MetricsFile(directory / TIMINGS, through=self._saved_step)
        self._interrupts = Interrupts()
        self.tracker = Tracker(directory, purge_step=self._saved_step + 1)

    @classmethod
    def open(
        cls, directory: Path | str, *, config: Any, kind: str, resume: bool = False, keep: int = 2
    ) -> "Run":
        """Start a run in `directory`, or with `resume` continue the one that is there.

        Args:
            directory: made if missing.
            config: a frozen dataclass; on resume it equals the stored one but for fields whose
                metadata says `resumable=True`.
            kind: what runs here, such as "supervised".
            resume: continue from the newest good checkpoint.
            keep: how many checkpoints to keep.

        Raises:
            UsageError: there is a run and `resume` is off, there is none and it is on, or the
                configuration differs.
            RunLockedError: another process is running here.
            CheckpointError: there are checkpoints and none is good.
        """
        path = Path(directory)
        if resume and not (path / MANIFEST).exists():
            raise UsageError(f"no run to resume in {path}; leave out --resume to start one")
        lock = _acquire_lock(path)
        try:
            manifest = _reopen(path, config, kind) if resume else _start(path, config, kind)
            return cls(path, manifest, CheckpointStore(path / CHECKPOINTS, keep), lock)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Self:
        self._interrupts.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._interrupts.__exit__(kind, error, traceback)
        self.close()

    def close(self) -> None:
        """Close the files and let another process have the directory."""
        with ExitStack() as stack:
            for release in (self._lock.release, self._timings.close, self._metrics.close):
                stack.callback(release)
            self.tracker.close()

    def log(self, step: int, values: Mapping[str, float | torch.Tensor]) -> None:
        """Record reproducible scalars of `step` in metrics.csv and TensorBoard.

        Steps do not decrease, and a step is logged before it is saved.

        Raises:
            MtrlError: a value is NaN or infinite where its tag does not allow it; nothing is
                recorded.
            UsageError: a tag is not in the registry or depends on wall-clock time, or steps are
                out of order.
        """
        self._record(self._metrics, step, values, wall_clock=False)

    def log_time(self, step: int, values: Mapping[str, float | torch.Tensor]) -> None:
        """Record scalars that depend on the machine's speed, in timings.csv; otherwise as `log`."""
        self._record(self._timings, step, values, wall_clock=True)

    def save(
        self, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]
    ) -> None:
        """Make the checkpoint of `step` durable, with all rows logged so far.

        Saving the step that was saved or restored last does nothing: a step determines its state.

        Raises:
            UsageError: a later step was logged or saved already, or the content cannot be stored.
            MtrlError: the disk refuses; the checkpoints before this one are untouched.
        """
        if step == self._saved_step:
            return
        if step < max(self._logged_step, self._saved_step):
            raise UsageError(f"cannot save step {step} after logging step {self._logged_step}")
        self._metrics.sync()
        self._timings.sync()
        self.tracker.flush()
        self._checkpoints.save(step, tensors, state)
        self._saved_step = step

    @property
    def stop_requested(self) -> bool:
        """Whether a signal asks the loop to finish its step, save, and raise `interruption()`."""
        return self._interrupts.signal_number is not None

    def interruption(self) -> Interrupted:
        """Return the error for a loop to raise once it has saved; it carries the exit code."""
        number = self._interrupts.signal_number or signal.SIGTERM
        command = shlex.join(["mtrl", "train", "--resume", str(self.directory)])
        name = signal.Signals(number).name
        message = f"{name}: stopped after saving step {self._saved_step}; resume with: {command}"
        return Interrupted(message, number)

    def _record(
        self,
        file: MetricsFile,
        step: int,
        values: Mapping[str, float | torch.Tensor],
        *,
        wall_clock: bool,
    ) -> None:
        # A row logged after the checkpoint of its step would be there twice after a resume.
        if step < self._logged_step or step <= self._saved_step:
            last = max(self._logged_step, self._saved_step + 1)
            raise UsageError(
                f"cannot log step {step}, the next is {last} or later: log before saving"
            )
        numbers = {tag: float(value) for tag, value in values.items()}
        for tag, number in numbers.items():
            _check_scalar(step, tag, number, wall_clock=wall_clock)
        file.append(step, numbers)
        self.tracker.scalars(step, numbers)
        self._logged_step = step


def _check_scalar(step: int, tag: str, number: float, *, wall_clock: bool) -> None:
    entry = find_tag(tag)
    if entry.wall_clock != wall_clock:
        method = "log_time" if entry.wall_clock else "log"
        raise UsageError(f"tag {tag} is recorded with Run.{method}")
    if not (entry.allow_nan or math.isfinite(number)):
        raise MtrlError(
            f"{tag} is {number} at step {step}; lower the learning rate or check the rewards"
        )


def _acquire_lock(directory: Path) -> FileLock:
    with reporting("use", directory):
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunLockedError(
                f"another process is running in {directory}; wait for it or use another directory"
            ) from error
    return lock


def _start(directory: Path, config: Any, kind: str) -> Manifest:
    if any((directory / name).exists() for name in (MANIFEST, METRICS, CHECKPOINTS)):
        raise UsageError(
            f"{directory} holds a run; continue it with --resume or use another directory"
        )
    replace_file(directory / CONFIG, to_toml(config).encode())
    # Last: a directory without a manifest holds no run, wherever a kill falls.
    return Manifest.create(directory / MANIFEST, kind)


def _reopen(directory: Path, config: Any, kind: str) -> Manifest:
    path = directory / CONFIG
    with reporting("read", path):
        content = path.read_bytes()
    try:
        stored = tomllib.loads(content.decode())
    except ValueError as error:
        raise MtrlError(f"{path} is damaged: {error}") from error
    for name in differing_fields(type(config), stored, to_dict(config)):
        raise UsageError(
            f"{name} differs from {path}; resume with the stored value "
            "or start in another directory"
        )
    manifest = Manifest.reopen(directory / MANIFEST, kind)
    if content != to_toml(config).encode():
        replace_file(path, to_toml(config).encode())
    return manifest
