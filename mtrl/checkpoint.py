"""Checkpoints that survive a kill at any instant: `<directory>/<step>/`, newest good one wins.

A checkpoint is written under a temporary name that no loader matches, flushed, and renamed, so that
a folder with a step for its name is complete. Older ones are pruned only after that. A damaged one
is reported by name and the one before it is used.
"""

import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mtrl.checkpoint_format import Checkpoint, encode_checkpoint, folder_name, read_checkpoint
from mtrl.durable import reporting, sync_directory, write_file
from mtrl.errors import CheckpointError, UsageError

__all__ = ["Checkpoint", "CheckpointStore"]

logger = logging.getLogger(__name__)

TEMPORARY_PREFIX = ".tmp-"
STEP_NAME = re.compile(r"\d{12,}")


class CheckpointStore:
    """The checkpoints in `directory`, of which the newest `keep` are kept.

    One process at a time may save (a `Run` holds the lock that sees to it).

    Attributes:
        rejected: the damaged checkpoints met by `load`, newest first; each error names the file.
    """

    def __init__(self, directory: Path | str, keep: int = 2) -> None:
        if keep < 1:
            raise UsageError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory)
        self.keep = keep
        self.rejected: list[CheckpointError] = []

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, good or damaged, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(name) for name in os.listdir(self.directory) if STEP_NAME.fullmatch(name))

    def save(
        self, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]
    ) -> Path:
        """Store the checkpoint of `step` durably, then prune; return its folder.

        Raises:
            UsageError: `step` already has a good checkpoint, or the content cannot be stored.
            MtrlError: the disk refuses; the checkpoints before this one are untouched.
        """
        if step < 0:
            raise UsageError(f"step must not be negative, got {step}")
        target = self.directory / folder_name(step)
        files = encode_checkpoint(step, tensors, state)
        with reporting("save the checkpoint", target):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_temporaries()
            self._set_aside_damaged(target)
            self._write(target, files)
        self._prune(step)
        return target

    def load(self, step: int | None = None) -> Checkpoint:
        """Return the checkpoint of `step`, or without one the newest that is good.

        Raises:
            CheckpointError: there is none, or the one asked for is damaged; the message names the
                file and the newest good step.
        """
        self.rejected = []
        if step is not None:
            return self._load_exactly(step)
        newest = self._newest_good(self.steps())
        if newest is not None:
            return newest
        problems = "; ".join(str(error) for error in self.rejected) or "it has none"
        raise CheckpointError(f"no good checkpoint in {self.directory}: {problems}")

    def _load_exactly(self, step: int) -> Checkpoint:
        steps = self.steps()
        if step not in steps:
            raise CheckpointError(
                f"no checkpoint for step {step} in {self.directory}; it has {steps}"
            )
        try:
            return read_checkpoint(self.directory / folder_name(step))
        except CheckpointError as error:
            other = self._newest_good([other for other in steps if other != step])
            advice = (
                "no other is good" if other is None else f"the newest good one is step {other.step}"
            )
            raise CheckpointError(f"{error}; {advice}") from error

    def _newest_good(self, steps: list[int]) -> Checkpoint | None:
        for step in reversed(steps):
            try:
                return read_checkpoint(self.directory / folder_name(step))
            except CheckpointError as error:
                self.rejected.append(error)
                logger.warning("refused a damaged checkpoint: %s; trying the one before it", error)
        return None

    def _write(self, target: Path, files: Mapping[str, bytes]) -> None:
        temporary = self._temporary(target)
        try:
            temporary.mkdir()
            for name, data in files.items():
                write_file(temporary / name, data)
            sync_directory(temporary)
            os.rename(temporary, target)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_directory(self.directory)

    def _set_aside_damaged(self, target: Path) -> None:
        if not os.path.lexists(target):
            return
        try:
            read_checkpoint(target)
        except CheckpointError as error:
            logger.warning("replacing a damaged checkpoint: %s", error)
            self._remove(target)
        else:
            raise UsageError(f"{target} exists already; a step is saved once")

    def _prune(self, newest: int) -> None:
        # Steps beyond `newest` were refused by the resume: they must not push out good ones.
        for step in [step for step in self.steps() if step <= newest][: -self.keep]:
            try:
                self._remove(self.directory / folder_name(step))
            except OSError as error:
                logger.warning("cannot prune the checkpoint of step %d: %s", step, error)

    def _remove(self, folder: Path) -> None:
        # Renamed first: a folder half deleted would look like a damaged checkpoint.
        temporary = self._temporary(folder)
        os.rename(folder, temporary)
        _delete(temporary)

    def _remove_temporaries(self) -> None:
        for name in os.listdir(self.directory):
            if name.startswith(TEMPORARY_PREFIX):
                _delete(self.directory / name)

    def _temporary(self, target: Path) -> Path:
        return target.with_name(f"{TEMPORARY_PREFIX}{target.name}")


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
