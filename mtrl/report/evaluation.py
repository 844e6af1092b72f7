"""What `mtrl evaluate` wrote into a run's directory, read back."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.durable import reporting
from mtrl.errors import MtrlError

__all__ = ["Evaluation", "read_episodes", "read_evaluation"]

SCORES = "evaluation.csv"
FACTS = "evaluation.json"
_HEADER = ["learner", "task", "steps", "score"]
_EPISODES = ["task", "id", "episode", "return"]
"""Of a run that does not adapt."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Scores on unseen tasks.

    Attributes:
        tasks: ids.
        scores: (tasks, steps + 1), the run's own, after 0, 1, ... steps of adaptation.
        anchors: the same by name, of what needs no learner, such as the best possible.
        iteration: of the run when it was measured; None if that was not recorded.
        facts: how it was measured; empty if that was not recorded.
    """

    tasks: tuple[str, ...]
    scores: NDArray[np.float64]
    anchors: dict[str, NDArray[np.float64]]
    iteration: int | None
    facts: dict[str, Any]


def read_evaluation(directory: Path) -> Evaluation | None:
    """Return the evaluation in a run's directory, None if there is none.

    Raises:
        MtrlError: a file is damaged; the message names it.
    """
    path = directory / SCORES
    rows = _rows(path)
    if rows[0] in ([], _EPISODES):
        return None
    try:
        tasks, scores = _tables(rows)
    except ValueError as error:
        raise MtrlError(f"{path} is damaged: {error}") from error
    facts = _facts(directory / FACTS)
    # The run comes first, then what it was compared with, then the anchors.
    runs = facts.get("runs") or [{}]
    own = next(iter(scores.values()))
    anchors = dict(list(scores.items())[len(runs) :])
    return Evaluation(
        tasks=tasks, scores=own, anchors=anchors, iteration=runs[0].get("iteration"), facts=facts
    )


def read_episodes(directory: Path) -> dict[str, NDArray[np.float64]]:
    """Return by task the returns of the episodes (episodes,) of a run that does not adapt.

    There are none unless it was evaluated.

    Raises:
        MtrlError: the file is damaged; the message names it.
    """
    path = directory / SCORES
    header, *rows = _rows(path)
    if header != _EPISODES:
        return {}
    returns: dict[str, list[float]] = {}
    try:
        for task, _, _, value in rows:
            returns.setdefault(task, []).append(float(value))
    except ValueError as error:
        raise MtrlError(f"{path} is damaged: {error}") from error
    return {task: np.array(values) for task, values in returns.items()}


def _rows(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file, first its header; one empty row if there is no file."""
    if not path.exists():
        return [[]]
    with reporting("read", path):
        content = path.read_bytes()
    try:
        return list(csv.reader(content.decode().splitlines(), strict=True)) or [[""]]
    except (ValueError, csv.Error) as error:
        raise MtrlError(f"{path} is damaged: {error}") from error


def _tables(
    table: list[list[str]],
) -> tuple[tuple[str, ...], dict[str, NDArray[np.float64]]]:
    header, *rows = table
    if header != _HEADER:
        raise ValueError(f"it does not start with {','.join(_HEADER)!r}")
    learners: dict[str, dict[str, list[float]]] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != len(_HEADER):
            raise ValueError(f"line {number} has {len(row)} cells, not {len(_HEADER)}")
        learner, task, steps, score = row
        trail = learners.setdefault(learner, {}).setdefault(task, [])
        if int(steps) != len(trail) or not np.isfinite(float(score)):
            raise ValueError(f"line {number} is not the finite score after {len(trail)} steps")
        trail.append(float(score))
    if not learners:
        raise ValueError("it holds no score")
    tasks = tuple(next(iter(learners.values())))
    return tasks, {name: _table(name, trails, tasks) for name, trails in learners.items()}


def _table(
    name: str, trails: dict[str, list[float]], tasks: tuple[str, ...]
) -> NDArray[np.float64]:
    lengths = {len(trail) for trail in trails.values()}
    if tuple(trails) != tasks or len(lengths) > 1:
        raise ValueError(f"the scores of {name} are not on the same tasks and steps as the first")
    return np.array(list(trails.values()))


def _facts(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with reporting("read", path):
        content = path.read_bytes()
    try:
        facts = json.loads(content)
        runs = facts["runs"]
        if not (isinstance(runs, list) and all(isinstance(run, dict) for run in runs)):
            raise ValueError("its runs are not a list of tables")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MtrlError(f"{path} is damaged: {error}") from error
    return dict(facts)
