"""What a benchmark of time and memory reports: whether results agree, and tables of rows."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Agreement", "Row", "csv_text", "table"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant of one piece of work.

    Attributes:
        work: what is done.
        variant: by whom and how.
        cpu, wall: seconds per step, one value per turn.
        speedups: how often the processor time goes into the baseline's, one value per turn.
        memory: peak growth of resident memory during a step, MiB; None if unknown.
        first: seconds until the first step was done, compilation included.
        tasks: that a step adapts to, where adaptations per second are asked for.
        by_wall: whether speed-ups and rates are of wall time, as on an accelerator, and not of processor time.
    """

    work: str
    variant: str
    cpu: Sequence[float]
    wall: Sequence[float]
    speedups: Sequence[float]
    memory: float | None
    first: float
    tasks: int | None = None
    by_wall: bool = False

    @property
    def rate(self) -> float | None:
        """Adaptations per second."""
        seconds = statistics.median(self.wall if self.by_wall else self.cpu)
        return None if self.tasks is None else self.tasks / seconds


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two variants' results are apart, relative to the largest entry."""

    what: str
    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """False for NaN, too."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "agree" if self.holds else "DISAGREE"
        return f"{self.what}: {verdict}, {self.difference:.1e} (at most {self.tolerance:.0e})"


COLUMNS = ("work", "variant", "CPU ms", "wall ms", "speed-up", "memory MiB", "first s")
RATE = "adaptations/s"


def table(rows: Sequence[Row]) -> str:
    """Return the rows in Markdown: medians over the turns, and the range of the speed-up.

    Where a row says how many tasks it adapts to, adaptations per second are in a column of their own.
    """
    rated = any(row.tasks is not None for row in rows)
    columns = (*COLUMNS, *([RATE] * rated))
    cells = [
        (
            row.work,
            row.variant,
            f"{statistics.median(row.cpu) * 1e3:,.2f}",
            f"{statistics.median(row.wall) * 1e3:,.2f}",
            f"{statistics.median(row.speedups):.1f} ({_range(row.speedups)})",
            "-" if row.memory is None else f"{row.memory:,.1f}",
            f"{row.first:,.1f}",
            *([_rate(row.rate)] * rated),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    rules = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join(_line(line, widths) for line in (columns, rules, *cells))


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if i < 2 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def csv_text(rows: Sequence[Row]) -> str:
    """Return every turn of every row, times in seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["work", "variant", "turn", "cpu_s", "wall_s", "speedup", "memory_mib"])
    for row in rows:
        for turn, values in enumerate(zip(row.cpu, row.wall, row.speedups, strict=True)):
            memory = "" if row.memory is None else f"{row.memory:.1f}"
            writer.writerow([row.work, row.variant, turn, *(f"{v:.6g}" for v in values), memory])
    return text.getvalue()
