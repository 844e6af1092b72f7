"""What `mtrl evaluate` prints of a run on tasks one after another."""

import sys
from pathlib import Path

import numpy as np

from mtrl.commands.multitask import episodes_csv, mean_cell
from mtrl.config import kind_name
from mtrl.durable import replace_file
from mtrl.evaluation.continual import MATRIX_MEASURES, PerformanceMatrix
from mtrl.evaluation.report import aligned
from mtrl.incremental.trained import TrainedSequence, load_incremental_run
from mtrl.multitask.evaluation import TaskScores

__all__ = ["evaluate_incremental", "matrix_table", "measures_table"]

_EPISODES = 100


def evaluate_incremental(
    directory: Path,
    *,
    episodes: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    output: Path | None = None,
) -> None:
    """Print the performance matrix, its measures, and each task's mean return by new episodes.

    The returns go to `evaluation.csv`.

    Raises:
        UsageError: `directory` holds no such run.
        CheckpointError: it has no good checkpoint.
    """
    trained = load_incremental_run(directory, device=device)
    count = episodes or _EPISODES
    scores = trained.scores(count, seed)
    print(
        f"{directory} ({_described(trained)}, {trained.step:,} environment steps)\n\n"
        f"{trained.config.score} on every task after every stage, "
        f"{trained.config.eval_episodes} episodes each\n{matrix_table(trained.runner.matrix)}\n\n"
        f"measures of the stages that are done\n{measures_table(trained.runner.matrix)}\n\n"
        f"undiscounted return of the agent as it is now, mean over {count} new episodes "
        f"[95% interval], seed {seed}\n{_returns_table(trained, scores, seed)}"
    )
    path = (output or directory) / "evaluation.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    names, tasks = [each.name for each in trained.learnt], [each.task for each in trained.learnt]
    replace_file(path, episodes_csv(names, tasks, scores).encode())
    print(f"\nwritten to {path}", file=sys.stderr)


def matrix_table(matrix: PerformanceMatrix) -> str:
    """Return the scores of one seed: a row for each stage, empty where nothing was measured."""
    names = ["before training", *(f"{i}: {task}" for i, task in enumerate(matrix.order, start=1))]
    rows = []
    for name, scores in zip(names, matrix.scores[0], strict=True):
        rows.append([name, *("" if np.isnan(score) else f"{score:.2f}" for score in scores)])
    return aligned(["after stage", *matrix.tasks], rows)


def measures_table(matrix: PerformanceMatrix) -> str:
    """Return every measure of the stages that are done, for one seed."""
    done = int((~np.isnan(matrix.scores[0]).any(1)).sum()) - 1
    if done < 1:
        return "no stage is done"
    ended = matrix.through(done)
    found = {name: float(measure(ended).means[0]) for name, measure in MATRIX_MEASURES.items()}
    (first, *rest) = (
        [name, "undefined" if np.isnan(value) else f"{value:.2f}"] for name, value in found.items()
    )
    return aligned(first, rest)


def _described(trained: TrainedSequence) -> str:
    config = trained.config
    names = [kind_name(type(each)) for each in (config.algorithm, config.method)]
    return f"{names[0]}, {names[1]}"


def _returns_table(trained: TrainedSequence, scores: TaskScores, seed: int) -> str:
    rows = []
    for learnt, returns in zip(trained.learnt, scores.returns, strict=True):
        rows.append([learnt.name, learnt.task.family, mean_cell(returns, seed)])
    return aligned(["task", "family", "mean return"], rows)
