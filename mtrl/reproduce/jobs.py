"""Trainings that are functions, each in a process of its own, as many at a time as there are cores.

A finished training is a file, whose name ends in a digest of what it was told and of the code: it is not
repeated, and other settings or other code start afresh beside it. An interrupted one begins anew, so
each should take minutes at most.
"""

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrl.durable import replace_file
from mtrl.errors import MtrlError
from mtrl.side_by_side import side_by_side

__all__ = ["Finished", "Job", "carry_out_jobs"]


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

    @property
    def log(self) -> Path:
        """Where its process writes errors."""
        return self.file.with_suffix(".log")

    def carry_out(self) -> None:
        """Train, in this process."""
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        clock = time.monotonic()
        values = function(**self.told)
        made = {"seconds": time.monotonic() - clock, "values": values}
        replace_file(self.file, json.dumps(made).encode())

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

    def came_to(self) -> str | None:
        """Return in words how long it took, or None while it is not finished."""
        found = self.finished()
        return None if found is None else f"finished in {found.seconds:.0f} s"


def carry_out_jobs(jobs: Sequence[Job], processes: int) -> None:
    """Carry out what is not finished of `jobs`, `processes` at a time, in their order.

    Raises:
        Interrupted: a signal asked to stop; what is finished is kept.
        MtrlError: a training failed; the message names it and its log.
    """
    modules = sorted({job.function.partition(":")[0] for job in jobs})
    side_by_side(jobs, processes, modules=modules, kept="finished trainings are kept")
