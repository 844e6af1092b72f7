"""Which directories hold a run, and what to call them."""

import os
from collections.abc import Sequence
from pathlib import Path

from mtrl.errors import UsageError
from mtrl.runs import CHECKPOINTS, CONFIG, MANIFEST, METRICS

__all__ = ["find_runs", "run_names"]


def find_runs(directories: Sequence[Path]) -> list[Path]:
    """Return the run directories among `directories` and below them, each once, in order.

    Raises:
        UsageError: a directory is missing, or holds no run.
    """
    found: dict[Path, Path] = {}
    for directory in directories:
        if not directory.is_dir():
            raise UsageError(f"no directory {directory}; name one that `mtrl train` made")
        runs = _below(directory)
        if not runs:
            raise UsageError(f"no run in {directory}; `mtrl train` makes one")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def run_names(directories: Sequence[Path]) -> list[str]:
    """Return what to call runs: their directories' names, the whole path where two agree."""
    short = [directory.resolve().name for directory in directories]
    return [
        name if short.count(name) == 1 else str(directory)
        for name, directory in zip(short, directories, strict=True)
    ]


def _below(directory: Path) -> list[Path]:
    runs = []
    for place, folders, _ in os.walk(directory):
        if _is_run(Path(place)):
            runs.append(Path(place))
            # A checkpoint has a manifest too, and is no run.
            folders.clear()
        folders.sort()
    return runs


def _is_run(directory: Path) -> bool:
    """Return whether it looks like a run; any file of one may be lost, and then the report says so."""
    names = (CONFIG, MANIFEST, METRICS, CHECKPOINTS)
    return sum((directory / name).exists() for name in names) >= 2
