"""The numbers of a report: estimates with intervals, over runs where there are several.

Every interval has a generator of its own, made from the report's seed: the same files give the same
numbers, whatever else is on the page.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mtrl.evaluation.statistics import Interval, interval, iqm, stratified_interval
from mtrl.metrics import Series
from mtrl.report.grouping import Group
from mtrl.report.reading import RunRecord
from mtrl.seeding import numpy_generator

__all__ = [
    "AFTER",
    "MEAN_RETURN",
    "TASK_RETURN",
    "Curve",
    "adaptation_curves",
    "held_out_tags",
    "shared_scores",
    "statistic_of",
    "tag_curve",
]

Array = NDArray[np.float64]
Statistic = Literal["iqm", "mean"]

AFTER = re.compile(r"adapt/(error|return)_after_(\d+)")
MEAN_RETURN = "eval/mean_return"
TASK_RETURN = "eval/return/"
"""Of runs that do not adapt: over their tasks, and how the tags of single tasks start."""
_MOST_POINTS = 300
"""A curve of more points is thinned, which the eye cannot see."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Estimates along an axis.

    Attributes:
        x: (points,), increasing.
        intervals: (points,), bounds are NaN where nothing is known of them.
        over: what the intervals are over, such as "3 runs"; empty if there is none.
    """

    x: tuple[int, ...]
    intervals: tuple[Interval, ...]
    over: str = ""

    @property
    def bands(self) -> tuple[Array, Array, Array, Array]:
        """Return x, estimate, low and high, each (points,)."""
        rows = [(i.estimate, i.low, i.high) for i in self.intervals]
        estimate, low, high = np.array(rows, dtype=np.float64).T
        return np.array(self.x, dtype=np.float64), estimate, low, high


def held_out_tags(runs: Sequence[RunRecord]) -> list[str]:
    """Return the tags of the score after 0, 1, ... steps that any of the runs logged, in order."""
    found = {tag: found for run in runs for tag in run.metrics if (found := AFTER.fullmatch(tag))}
    return sorted(found, key=lambda tag: (found[tag][1], int(found[tag][2])))


def tag_curve(group: Group, tag: str, seed: int) -> Curve | None:
    """Return the IQM over a group's runs of what they logged under `tag`; None if none did.

    It goes over the steps that all of those runs have.
    """
    series = [run.metrics[tag] for run in group.runs if run.metrics.get(tag, Series([], [])).steps]
    if not series:
        return None
    by_step = [dict(zip(each.steps, each.values, strict=True)) for each in series]
    shared = sorted(set.intersection(*map(set, by_step)))
    if not shared:
        return None
    steps = _thinned(shared)
    points = [_over_runs([each[step] for each in by_step], seed) for step in steps]
    over = f"{len(series)} runs" if len(series) > 1 else ""
    return Curve(x=tuple(steps), intervals=tuple(points), over=over)


def statistic_of(groups: Sequence[Group]) -> Statistic:
    """Return what sums scores up: the IQM if each group has several runs, else the mean.

    A single run has no interval of the IQM over runs, and groups must be summed up alike.
    """
    return "iqm" if all(len(_evaluated(group)) > 1 for group in groups) else "mean"


def adaptation_curves(groups: Sequence[Group], seed: int) -> dict[str, Curve]:
    """Return the score after 0, 1, ... steps by group, from evaluations, else from the last one logged.

    Intervals are over runs where a group has several, else over an evaluation's tasks.
    """
    evaluated = [group for group in groups if _evaluated(group)]
    statistic = statistic_of(evaluated)
    curves = {}
    for group in groups:
        scores = shared_scores(group)
        curve = _logged(group, seed) if scores is None else _measured(scores, statistic, seed)
        if curve is not None:
            curves[group.label] = curve
    return curves


def shared_scores(group: Group) -> Array | None:
    """Return scores (runs, tasks, steps + 1) of the runs evaluated on the first one's tasks and steps."""
    scores = [run.evaluation.scores for run in _evaluated(group) if run.evaluation is not None]
    return np.stack(scores) if scores else None


def _evaluated(group: Group) -> list[RunRecord]:
    """Return the runs that were evaluated on the same tasks and for as many steps as the first."""
    runs = [run for run in group.runs if run.evaluation is not None]
    first = runs[0].evaluation if runs else None
    return [
        run
        for run in runs
        if run.evaluation is not None
        and first is not None
        and run.evaluation.tasks == first.tasks
        and run.evaluation.scores.shape == first.scores.shape
    ]


def _measured(scores: Array, statistic: Statistic, seed: int) -> Curve:
    runs, tasks, points = scores.shape
    if runs == 1:
        intervals = [interval(scores[0, :, k], _generator(seed)) for k in range(points)]
        return Curve(x=tuple(range(points)), intervals=tuple(intervals), over=f"{tasks} tasks")
    reduce = iqm if statistic == "iqm" else _mean
    intervals = [
        stratified_interval(scores[:, :, k], _generator(seed), reduce) for k in range(points)
    ]
    return Curve(x=tuple(range(points)), intervals=tuple(intervals), over=f"{runs} runs")


def _logged(group: Group, seed: int) -> Curve | None:
    """Return the last adaptation curve that all of a group's runs logged."""
    found = {_steps_of(tag): tag_curve(group, tag, seed) for tag in held_out_tags(group.runs)}
    curves = {steps: curve for steps, curve in found.items() if curve is not None}
    if not curves:
        return None
    over = next(iter(curves.values())).over
    last = tuple(curve.intervals[-1] for curve in curves.values())
    return Curve(x=tuple(curves), intervals=last, over=over)


def _steps_of(tag: str) -> int:
    """Return how many adaptation steps a held-out tag is about."""
    return int(tag.rpartition("_")[2])


def _over_runs(values: Sequence[float], seed: int) -> Interval:
    if len(values) == 1 or not np.isfinite(values).all():
        return _certain(values[0] if len(values) == 1 else math.nan)
    return stratified_interval(np.array(values)[:, None], _generator(seed))


def _certain(value: float) -> Interval:
    return Interval(estimate=value, low=math.nan, high=math.nan)


def _thinned(steps: Sequence[int]) -> list[int]:
    stride = -(-len(steps) // _MOST_POINTS)
    # From the end, so that the last point is always there.
    return list(steps)[::-1][::stride][::-1]


def _mean(scores: Array) -> Array:
    means: Array = scores.mean((-2, -1))
    return means


def _generator(seed: int) -> np.random.Generator:
    return numpy_generator(seed, "report")
