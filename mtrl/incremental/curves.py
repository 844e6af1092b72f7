"""How fast each task of a finished run was learnt, from what the run logged."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl.errors import MtrlError
from mtrl.evaluation.continual import learning_area
from mtrl.incremental.watching import SCORE, STAGE
from mtrl.metrics import Series

__all__ = ["StageCurve", "stage_areas", "stage_curves"]


class StageCurve(NamedTuple):
    """Scores of a stage's task while it was learnt.

    Attributes:
        steps: environment steps of the stage, from 0 to its end.
        scores: at each.
    """

    steps: list[int]
    scores: list[float]


def stage_curves(metrics: Mapping[str, Series], order: Sequence[str]) -> list[StageCurve]:
    """Return the curve of each stage of a finished run.

    A stage begins with the score after the one before, or that before any training.

    Args:
        metrics: all series that the run logged.
        order: the task that each stage trained.

    Raises:
        MtrlError: a stage has not ended, or its task was not scored there.
    """
    stages = metrics[STAGE]
    ends = [
        max(
            (s for s, v in zip(stages.steps, stages.values, strict=True) if v == number), default=-1
        )
        for number in range(len(order) + 1)
    ]
    curves = []
    for stage, task in enumerate(order):
        start, end = ends[stage], ends[stage + 1]
        series = metrics[f"{SCORE}{task}"]
        points = [
            (step - start, score)
            for step, score in zip(series.steps, series.values, strict=True)
            if start <= step <= end
        ]
        if not points or points[0][0] != 0 or points[-1][0] != end - start or end <= start:
            raise MtrlError(f"stage {stage + 1} has not ended, or {task} was not scored at its end")
        curves.append(StageCurve([step for step, _ in points], [score for _, score in points]))
    return curves


def stage_areas(curves: Sequence[StageCurve]) -> NDArray[np.float64]:
    """Return the mean height of each curve (stages,); see `learning_area`."""
    return np.array([float(learning_area(curve.steps, curve.scores)) for curve in curves])
