"""`metrics.csv`: a run's numbers in rows `step,tag,value`, exact across a kill and a resume.

Values are written by `repr`, which gives back every bit. Rows come in order of step, so that what a
resumed run keeps is a prefix of the file.
"""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mtrl.durable import replace_file, reporting
from mtrl.errors import MtrlError

__all__ = ["MetricsFile", "Series", "logged_seconds", "read_metrics"]

HEADER = b"step,tag,value\n"


class Series(NamedTuple):
    """The `values` of one tag and the `steps` at which they were logged, in file order."""

    steps: list[int]
    values: list[float]


class MetricsFile:
    """An append-only file of metrics that keeps the rows it has up to step `through`.

    Args:
        path: the file; made if missing.
        through: the last step to keep; -1 keeps the header only.
    """

    def __init__(self, path: Path, through: int = -1) -> None:
        self.path = path
        old = path.read_bytes() if path.exists() else b""
        replace_file(path, kept_prefix(old, through))
        with reporting("open", path):
            # Unbuffered: after a failed write nothing is left over for `close` to fail on again.
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Add one row per tag; a process killed later loses none of them."""
        rows = "".join(f"{step},{tag},{value!r}\n" for tag, value in values.items())
        left = memoryview(rows.encode())
        with reporting("write", self.path):
            while left:
                left = left[os.write(self._descriptor, left) :]

    def sync(self) -> None:
        """Flush the rows to the disk, so that a power cut loses none of them either."""
        with reporting("write", self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def kept_prefix(content: bytes, through: int) -> bytes:
    """Return the header and the whole rows of `content` up to the first beyond step `through`."""
    kept = [HEADER]
    for line in content.splitlines(keepends=True)[1:]:
        step = line.partition(b",")[0]
        if not (line.endswith(b"\n") and step.isdigit() and int(step) <= through):
            break
        kept.append(line)
    return b"".join(kept)


def read_metrics(path: Path | str) -> dict[str, Series]:
    """Return every tag's series; a cut last row, left by a killed process, is dropped.

    Raises:
        MtrlError: the file is missing or not a metrics file; the message names the file and the
        line.
    """
    with reporting("read", Path(path)):
        content = Path(path).read_bytes()
    whole = content[: content.rfind(b"\n") + 1].decode()
    if not whole.startswith(HEADER.decode()):
        raise MtrlError(
            f"{path} is not a metrics file: it does not start with {HEADER.decode().strip()!r}"
        )
    series: dict[str, Series] = {}
    for number, row in enumerate(csv.reader(whole.splitlines()[1:]), start=2):
        try:
            step, tag, value = row
            steps, values = series.setdefault(tag, Series([], []))
            steps.append(int(step))
            values.append(float(value))
        except ValueError as error:
            raise MtrlError(f"{path}, line {number}: {error}") from error
    return series


def logged_seconds(path: Path, tag: str) -> float:
    """Return the time that a run took, over all sessions, from its speeds in steps per second.

    Args:
        path: the file.
        tag: of a speed, each since the point before.

    Raises:
        MtrlError: the file cannot be read.
    """
    speeds = read_metrics(path)[tag]
    starts = [0, *speeds.steps[:-1]]
    return sum(
        (step - start) / speed
        for start, step, speed in zip(starts, speeds.steps, speeds.values, strict=True)
    )
