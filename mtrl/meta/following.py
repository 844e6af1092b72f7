"""What the processes beside the first have in place of an open run directory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from mtrl.checkpoint import CheckpointStore
from mtrl.interrupts import Interrupts
from mtrl.meta.distributed import Processes
from mtrl.runs import CHECKPOINTS, Run

__all__ = ["Follower", "open_together"]


class _Unwritten:
    """Takes every call and does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Follower(Run):
    """A run that another process records: it starts from the same checkpoint and writes nothing.

    Args:
        directory: of the run, opened by that process.
    """

    def __init__(self, directory: Path | str) -> None:
        # Not Run's own, which opens the files for writing.
        self.directory = Path(directory)
        checkpoints = CheckpointStore(self.directory / CHECKPOINTS)
        self.restored = checkpoints.load() if checkpoints.steps() else None
        self._saved_step = -1 if self.restored is None else self.restored.step
        self._interrupts = Interrupts()
        nothing: Any = _Unwritten()
        self.manifest, self.tracker = nothing, nothing

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._interrupts.__exit__(kind, error, traceback)

    def close(self) -> None:
        """Do nothing: no file is open."""

    def log(self, step: int, values: Mapping[str, float | torch.Tensor]) -> None:
        """Do nothing."""

    def log_time(self, step: int, values: Mapping[str, float | torch.Tensor]) -> None:
        """Do nothing."""

    def save(
        self, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]
    ) -> None:
        """Note that the first process saves `step`."""
        self._saved_step = step


def open_together(
    processes: Processes, directory: Path, *, config: Any, kind: str, resume: bool
) -> Run:
    """Open a run in the first process, as `Run.open` does, and follow it in the others.

    All of them see the directory: it is on one machine, or on a disk that they share.

    Raises:
        UsageError, MtrlError: see `Run.open`; in the others, that the first one is gone.
    """
    if not processes.leads:
        processes.wait()
        return Follower(directory)
    run = Run.open(directory, config=config, kind=kind, resume=resume)
    try:
        processes.wait()
    except BaseException:
        run.close()
        raise
    return run
