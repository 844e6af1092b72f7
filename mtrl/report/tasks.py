"""Single tasks: how scores spread over them, and curves that a run logs for each of its own tasks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtrl.errors import UsageError
from mtrl.evaluation.statistics import interval
from mtrl.report.curves import TASK_RETURN, Curve, shared_scores, tag_curve
from mtrl.report.grouping import Group
from mtrl.report.page import Block, Section, Table, Text
from mtrl.report.reading import RunRecord
from mtrl.report.words import NONE, after, cell, number, plural
from mtrl.seeding import numpy_generator
from mtrl.tags import find_tag

__all__ = ["task_curves", "task_pattern", "tasks_section"]

Array = NDArray[np.float64]

_MOST_CURVES = 12
_MOST_TASKS = 40
_QUANTILES = {"lowest": 0.0, "quarter": 0.25, "median": 0.5, "three quarters": 0.75, "highest": 1.0}


def tasks_section(groups: Sequence[Group], seed: int) -> Section:
    """Return the scores on single tasks of those runs that were evaluated."""
    evaluated = [
        (group, scores) for group in groups if (scores := shared_scores(group)) is not None
    ]
    blocks: list[Block] = []
    for group, scores in evaluated:
        first = next(run.evaluation for run in group.runs if run.evaluation is not None)
        blocks += _task_tables(group.label, first.tasks, scores.mean(0), len(scores))
    blocks += _own_task_tables([run for group in groups for run in group.runs], seed)
    if not blocks:
        text = (
            "No run was evaluated task by task: `mtrl evaluate` does it, and a new report shows it."
        )
        blocks = [Text(text=text)]
    return Section(title="Tasks", blocks=tuple(blocks))


def task_curves(groups: Sequence[Group], seed: int) -> list[tuple[str, str, dict[str, Curve]]]:
    """Return for each experiment and kind of tag its name, the tag and a curve for each task.

    Of many tasks there are the first only, and the name says so.
    """
    return [
        _curves_of_tasks(group, pattern, seed)
        for group in groups
        for pattern in dict.fromkeys(filter(None, map(task_pattern, _tags(group))))
    ]


def task_pattern(tag: str) -> str:
    """Return how the tags of all tasks start where `tag` is that of one, else nothing."""
    try:
        pattern = find_tag(tag).pattern
    except UsageError:  # of a run that another version made
        return ""
    return pattern.removesuffix("{task}") if pattern.endswith("/{task}") else ""


def _tags(group: Group) -> list[str]:
    return sorted({tag for run in group.runs for tag in run.metrics})


def _curves_of_tasks(group: Group, pattern: str, seed: int) -> tuple[str, str, dict[str, Curve]]:
    tags = [tag for tag in _tags(group) if task_pattern(tag) == pattern]
    shown = {tag.removeprefix(pattern): tag_curve(group, tag, seed) for tag in tags[:_MOST_CURVES]}
    curves = {task: curve for task, curve in shown.items() if curve is not None}
    some = f", {len(shown)} of {len(tags)} tasks" if len(tags) > len(shown) else ""
    return f"{group.label}{some}", f"{pattern}...", curves


def _task_tables(label: str, tasks: Sequence[str], scores: Array, runs: int) -> list[Block]:
    """Return the quantiles of scores (tasks, steps + 1), and the tasks that gained least and most."""
    steps = range(scores.shape[1])
    header = tuple(after(k) for k in steps)
    quantiles = tuple(
        (name, *(number(float(np.quantile(scores[:, k], level))) for k in steps))
        for name, level in _QUANTILES.items()
    )
    over = f" (mean of {plural(runs, 'run')})" if runs > 1 else ""
    spread = Table(
        caption=f"{label}: how scores spread over {plural(len(tasks), 'task')}{over}",
        header=("over tasks", *header),
        rows=quantiles,
    )
    change = scores[:, -1] - scores[:, 0]
    order = np.argsort(change, kind="stable")
    half = _MOST_TASKS // 2
    shown = order if len(order) <= _MOST_TASKS else np.concatenate([order[:half], order[-half:]])
    rows = tuple(
        (tasks[i], *(number(float(score)) for score in scores[i]), number(float(change[i])))
        for i in shown
    )
    which = (
        "" if len(shown) == len(order) else f"; the {half} least and {half} most of {len(order)}"
    )
    single = Table(
        caption=f"{label}: single tasks{over}, by what adaptation changed{which}",
        header=("task", *header, "change"),
        rows=rows,
    )
    return [spread, single]


def _own_task_tables(runs: Sequence[RunRecord], seed: int) -> list[Block]:
    """Return the returns of runs that do not adapt on each of their own tasks."""
    tables: list[Block] = []
    evaluated = {
        run.name: {task: _episodes_cell(returns, seed) for task, returns in run.episodes.items()}
        for run in runs
        if run.episodes
    }
    logged = {
        run.name: {
            tag.removeprefix(TASK_RETURN): number(series.values[-1])
            for tag, series in run.metrics.items()
            if tag.startswith(TASK_RETURN)
        }
        for run in runs
    }
    captions = {
        "Mean return on each task as evaluated, [95% interval over episodes]": evaluated,
        "Mean return on each task in the last evaluation that training logged": logged,
    }
    for caption, cells in captions.items():
        cells = {name: by_task for name, by_task in cells.items() if by_task}
        tasks = dict.fromkeys(task for by_task in cells.values() for task in by_task)
        rows = tuple((t, *(by_task.get(t, NONE) for by_task in cells.values())) for t in tasks)
        if rows:
            tables.append(Table(caption=caption, header=("task", *cells), rows=rows))
    return tables


def _episodes_cell(returns: Array, seed: int) -> str:
    if not np.isfinite(returns).all():
        return "not finite"
    return cell(interval(returns, numpy_generator(seed, "report")))
