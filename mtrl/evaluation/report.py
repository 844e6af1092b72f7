"""Scores of learners on the same unseen tasks: as a table, as CSV and as a figure."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtrl.durable import replace_file, reporting
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.evaluation.statistics import Interval, interval, paired_difference
from mtrl.figures import adaptation_curves, save
from mtrl.seeding import numpy_generator

__all__ = ["adaptation_table", "aligned", "draw_curves", "paired_rows", "write_scores"]

Scores = Mapping[str, NDArray[np.float64]]
"""By learner's name: one score per task and number of adaptation steps, (tasks, steps + 1)."""


def adaptation_table(scores: Scores, seed: int) -> str:
    """Return the mean over tasks with its 95 % interval, a learner a row, a number of steps a column.

    `seed` decides the bootstrap's resamples, here and below.
    """
    rows = [[name, *map(str, _intervals(table, seed))] for name, table in scores.items()]
    return aligned(_columns(scores), rows)


def paired_rows(first: str, second: str, scores: Scores, seed: int) -> str:
    """Return the mean of `first` minus `second`, task by task, with its interval at each number of steps.

    Raises:
        UsageError: they are not scores of the same tasks and steps.
    """
    a, b = scores[first], scores[second]
    if a.shape != b.shape:
        raise UsageError(f"{first} has scores {a.shape}, {second} {b.shape}: they do not pair up")
    rows = []
    for steps in range(a.shape[1]):
        pair = paired_difference(a[:, steps], b[:, steps], _resamples(seed))
        share = f"above in {pair.share_above:.0%}"
        mean = Interval(estimate=pair.mean, low=pair.low, high=pair.high)
        rows.append([f"after {steps}", str(mean), share, f"p = {pair.p_value:.2g}"])
    return aligned([f"{first} minus {second}", "mean difference", "of the tasks", ""], rows)


def write_scores(path: Path, scores: Scores, tasks: Sequence[Task]) -> None:
    """Write every single score as CSV: learner, task, steps, score.

    Raises:
        MtrlError: the disk refuses.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["learner", "task", "steps", "score"])
    for name, table in scores.items():
        for task, row in zip(tasks, table.tolist(), strict=True):
            writer.writerows([name, task.id, steps, repr(score)] for steps, score in enumerate(row))
    with reporting("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.getvalue().encode())


def draw_curves(path: Path, scores: Scores, seed: int, *, title: str, ylabel: str) -> None:
    """Draw mean scores against adaptation steps, with their intervals, as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
        MtrlError: the disk refuses.
    """
    curves = {}
    for name, table in scores.items():
        bands = [(i.estimate, i.low, i.high) for i in _intervals(table, seed)]
        mean, low, high = np.array(bands).T
        curves[name] = (np.arange(len(mean)), mean, low, high)
    figure = adaptation_curves(curves, ylabel=ylabel, title=title)
    with reporting("write", path):
        save(figure, path)


def _resamples(seed: int) -> np.random.Generator:
    # The same for every cell: what does not change from step to step has one interval.
    return numpy_generator(seed, "bootstrap")


def _intervals(table: NDArray[np.float64], seed: int) -> list[Interval]:
    return [interval(column, _resamples(seed)) for column in table.T]


def _columns(scores: Scores) -> list[str]:
    points = next(iter(scores.values())).shape[1]
    return ["", "before", *(f"after {k}" for k in range(1, points))]


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal: columns as wide as their widest cell, two spaces apart."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)
