"""What TensorBoard shows of a run that learns tasks one after another: scores, forgetting, transfer."""

from typing import TYPE_CHECKING

import numpy as np

from mtrl.continual_figures import forgetting_heatmap, performance_heatmap, transfer_table
from mtrl.evaluation.continual import (
    MATRIX_MEASURES,
    PerformanceMatrix,
    forgetting_so_far,
    interval_table,
)
from mtrl.meta.watching import Charts, Drawing
from mtrl.seeding import numpy_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CHARTS", "SCORE", "STAGE", "measure_values", "pictures", "score_values"]

SCORE = "incremental/score/"
STAGE = "incremental/stage"

CHARTS: Charts = {
    "Sequence": {
        "Score of every task": [f"{SCORE}.+"],
        "Average performance": ["incremental/average_performance"],
        "Forgetting": ["incremental/(cw|chaudhry)_forgetting"],
        "Transfer": [
            "incremental/(cw|gem)_backward_transfer",
            "incremental/gem_forward_transfer",
        ],
        "Training: return of every task": ["multitask/return/.+"],
        "Stage": [STAGE],
    },
    "Gradients": {"Norm in trunk and heads": ["gradient/trunk_norm", "gradient/head_norm"]},
    "Speed": {"Environment steps per second": ["time/env_steps_per_second"]},
}
"""The CUSTOM SCALARS page."""

_LOWER_IS_BETTER = ("cw_forgetting", "chaudhry_forgetting")


def score_values(matrix: PerformanceMatrix, stage: int) -> dict[str, float]:
    """Return by its tag the score of every task after `stage`, 0 being before any training."""
    scores = matrix.scores[0, stage].tolist()
    return {f"{SCORE}{task}": score for task, score in zip(matrix.tasks, scores, strict=True)}


def measure_values(matrix: PerformanceMatrix, stage: int) -> dict[str, float]:
    """Return by its tag every measure that is defined if training ends after `stage`."""
    ended = matrix.through(stage)
    found = {name: float(measure(ended).means[0]) for name, measure in MATRIX_MEASURES.items()}
    return {f"incremental/{name}": value for name, value in found.items() if np.isfinite(value)}


def pictures(matrix: PerformanceMatrix, stage: int, *, score: str) -> dict[str, Drawing]:
    """Return drawings by tag of a run that has ended `stage`.

    Args:
        matrix: of one seed, the scores of stages to come being NaN.
        stage: the last that ended, from 1.
        score: what is in the matrix.
    """
    ended = matrix.through(stage)
    title = f"after stage {stage} of {len(matrix.order)}"

    def performance() -> "Figure":
        return performance_heatmap(
            ended.scores[0], tasks=ended.tasks, order=ended.order, score=score, title=title
        )

    def forgetting() -> "Figure":
        lost = forgetting_so_far(ended)[0]
        return forgetting_heatmap(lost, order=ended.order, loss=f"{score} lost", title=title)

    def transfer() -> "Figure":
        measures = [measure(ended) for measure in MATRIX_MEASURES.values()]
        cells = interval_table(measures, numpy_generator(0, "transfer table"), resamples=1)
        rows = [*(f"{i}: {task}" for i, task in enumerate(ended.order, start=1)), "mean"]
        columns = {name: name not in _LOWER_IS_BETTER for name in MATRIX_MEASURES}
        return transfer_table(
            cells, rows=rows, columns=columns, negative=[False] * len(rows), title=title
        )

    return {
        "figures/performance": performance,
        "figures/forgetting": forgetting,
        "figures/transfer": transfer,
    }
