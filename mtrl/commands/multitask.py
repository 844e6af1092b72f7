"""What `mtrl evaluate` prints of a multi-task run."""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.durable import replace_file
from mtrl.envs.task import Task
from mtrl.evaluation.report import aligned
from mtrl.evaluation.statistics import interval
from mtrl.multitask.evaluation import TaskScores
from mtrl.multitask.tasks import task_names
from mtrl.multitask.trained import load_multitask_run
from mtrl.seeding import numpy_generator

__all__ = ["episodes_csv", "evaluate_multitask", "mean_cell", "returns_table"]

_EPISODES = 100


def evaluate_multitask(
    directory: Path,
    *,
    episodes: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    output: Path | None = None,
) -> None:
    """Print each task's mean return with its 95 % bootstrap interval, and write every return as CSV.

    Raises:
        UsageError: `directory` holds no multi-task run.
        CheckpointError: it has no good checkpoint.
    """
    trained = load_multitask_run(directory, device=device)
    count = episodes or _EPISODES
    scores = trained.scores(count, seed)
    algorithm = type(trained.config.algorithm).__name__
    print(
        f"{directory} ({algorithm}, {trained.step:,} environment steps)\n"
        f"{trained.family.name}, {len(trained.tasks)} training tasks, {count} episodes of each, "
        f"seed {seed}\nundiscounted return (higher is better), mean over episodes [95% interval]\n"
    )
    print(returns_table(trained.tasks, scores, seed))
    path = (output or directory) / "evaluation.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = task_names(trained.tasks)
    replace_file(path, episodes_csv(names, trained.tasks, scores).encode())
    print(f"\nwritten to {path}", file=sys.stderr)


def returns_table(tasks: Sequence[Task], scores: TaskScores, seed: int) -> str:
    """Return a row for each task, with the parameters in which tasks differ, and one for their mean."""
    rows = []
    for name, task, returns, share in zip(
        task_names(list(tasks)), tasks, scores.returns, scores.successes, strict=True
    ):
        rows.append([name, mean_cell(returns, seed), _percent(share), _differing(task, tasks)])
    means = scores.returns.mean(1)
    # The tasks are fixed: only their episodes are a sample.
    rows.append(
        ["mean", mean_cell(scores.returns.mean(0), seed), _percent(scores.successes.mean()), ""]
    )
    rows.append(["worst", f"{means.min():.2f}", "", ""])
    return aligned(["task", "mean return", "success", "parameters"], rows)


def mean_cell(returns: Any, seed: int) -> str:
    """Return the mean of returns (episodes,) with its 95 % bootstrap interval."""
    if not np.isfinite(returns).all():
        return "not finite"
    return str(interval(returns, numpy_generator(seed, "bootstrap")))


def _percent(share: float) -> str:
    return f"{share:.0%}" if np.isfinite(share) else "-"


def _differing(task: Task, tasks: Sequence[Task]) -> str:
    shown = []
    for name, value in task.params.items():
        if any(other.params[name] != value for other in tasks):
            values = value if isinstance(value, tuple) else (value,)
            shown.append(f"{name} {' '.join(f'{number:.4g}' for number in values)}")
    return ", ".join(shown)


def episodes_csv(names: Sequence[str], tasks: Sequence[Task], scores: TaskScores) -> str:
    """Return every episode's return as CSV, a row for each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "id", "episode", "return"])
    for name, task, row in zip(names, tasks, scores.returns, strict=True):
        writer.writerows([name, task.id, i, repr(value)] for i, value in enumerate(row.tolist()))
    return text.getvalue()
