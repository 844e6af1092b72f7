"""What learning tasks one after another kept and carried over: measures by published definition.

The input is the full `PerformanceMatrix`: R[i, j], the score on task j after stage i, for every
seed, with stage 0 before any training, so that indices are those of the papers. Each function
computes one definition, is named after it, and returns a `Measure`: a value per seed and stage, and
which of them the definition averages. Definitions divide by different numbers; never put two of
them into one column.

Below, j(i) is the task learnt in stage i and N the number of stages. A task that returns later in
the sequence counts once for every stage that trains it, as in Continual World's CW20; a task that
is never trained is part of the matrix and of no measure. NaN stands for what is undefined or was
not measured, and is never skipped: a mean of terms one of which is NaN is NaN, and so is the
interval of seeds one of which is NaN.

Sources: Wołczyk et al. 2021 (arXiv:2105.10919, Continual World), Lopez-Paz and Ranzato 2017
(arXiv:1706.08840, GEM), Chaudhry et al. 2018 (arXiv:1801.10112).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from mtrl.evaluation.statistics import Interval, interval, probability_of_improvement

__all__ = [
    "MATRIX_MEASURES",
    "Measure",
    "PerformanceMatrix",
    "average_performance",
    "chaudhry_forgetting",
    "cw_backward_transfer",
    "cw_forgetting",
    "cw_forward_transfer",
    "forgetting_so_far",
    "gem_backward_transfer",
    "gem_forward_transfer",
    "interval_table",
    "learning_area",
    "negative_transfer",
    "pooled",
]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PerformanceMatrix:
    """Scores on every task after every stage of training, for every seed.

    Attributes:
        tasks: names of the columns, each once.
        order: the task that each stage trains, (stages,), out of `tasks`.
        seeds: names of the runs, each once.
        scores: (seeds, 1 + stages, tasks), higher is better, stage 0 before any training; NaN where
            nothing was measured. It is copied and made read-only.

    Raises:
        ValueError: names, order and scores do not fit, or a score is infinite.
    """

    tasks: tuple[str, ...]
    order: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Array

    def __post_init__(self) -> None:
        scores = np.array(self.scores, dtype=np.float64)
        _check_names(self.tasks, self.order, self.seeds)
        shape = (len(self.seeds), 1 + len(self.order), len(self.tasks))
        if scores.shape != shape:
            raise ValueError(
                f"scores must have shape {shape} (seeds, 1 + stages, tasks), got {scores.shape}; "
                "the first row of each seed is the policy before any training"
            )
        if np.isinf(scores).any():
            seed, stage, task = np.argwhere(np.isinf(scores))[0]
            raise ValueError(
                f"the score of seed {self.seeds[seed]} after stage {stage} on task "
                f"{self.tasks[task]!r} is infinite: give a diverged run the worst score"
            )
        scores.flags.writeable = False
        object.__setattr__(self, "scores", scores)

    @property
    def by_stage(self) -> Array:
        """Return R[i, j(k)], (seeds, 1 + stages, stages): a column for the task of each stage k."""
        columns = [self.tasks.index(task) for task in self.order]
        return self.scores[:, :, columns]

    def through(self, stage: int) -> "PerformanceMatrix":
        """Return the matrix of the first `stage` stages, as if training had ended there.

        Raises:
            ValueError: there is no such stage.
        """
        if not 1 <= stage <= len(self.order):
            raise ValueError(f"stage must be between 1 and {len(self.order)}, got {stage}")
        return PerformanceMatrix(
            tasks=self.tasks,
            order=self.order[:stage],
            seeds=self.seeds,
            scores=self.scores[:, : stage + 1],
        )


def pooled(matrices: Sequence[PerformanceMatrix]) -> PerformanceMatrix | None:
    """Return one matrix of all seeds, or None where tasks or stages differ or a seed is there twice."""
    first = matrices[0]
    seeds = tuple(seed for matrix in matrices for seed in matrix.seeds)
    alike = all((each.tasks, each.order) == (first.tasks, first.order) for each in matrices)
    if not alike or len(set(seeds)) < len(seeds):
        return None
    scores = np.concatenate([matrix.scores for matrix in matrices])
    return PerformanceMatrix(tasks=first.tasks, order=first.order, seeds=seeds, scores=scores)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measure:
    """One definition's values.

    Attributes:
        name: of the definition, for the tag or column that shows it.
        values: (seeds, stages); NaN where undefined.
        counted: the stages that the definition averages.
    """

    name: str
    values: Array
    counted: slice = field(default_factory=lambda: slice(None))

    @property
    def means(self) -> Array:
        """Return each seed's mean over the counted stages (seeds,); NaN where there are none."""
        terms = self.values[:, self.counted]
        if terms.shape[1] == 0:
            return np.full(len(terms), math.nan)
        means: Array = terms.mean(1)
        return means

    def interval(
        self, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
    ) -> Interval:
        """Return the mean over seeds with its BCa bootstrap interval; all NaN if a seed's is."""
        return _seed_interval(self.means, rng, confidence, resamples)

    def stage_intervals(
        self, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
    ) -> list[Interval]:
        """Return the same for each stage."""
        return [_seed_interval(stage, rng, confidence, resamples) for stage in self.values.T]


def average_performance(matrix: PerformanceMatrix) -> Measure:
    """Return R[N, j(i)], averaged over all i: Continual World's P(T) and GEM's ACC."""
    return Measure(name="average_performance", values=matrix.by_stage[:, -1])


def cw_forgetting(matrix: PerformanceMatrix) -> Measure:
    """Return R[i, j(i)] - R[N, j(i)], averaged over all N stages: the last adds 0."""
    return Measure(name="cw_forgetting", values=_just_learnt(matrix) - matrix.by_stage[:, -1])


def cw_backward_transfer(matrix: PerformanceMatrix) -> Measure:
    """Return minus `cw_forgetting`, averaged over all N stages."""
    return Measure(name="cw_backward_transfer", values=-cw_forgetting(matrix).values)


def chaudhry_forgetting(matrix: PerformanceMatrix) -> Measure:
    """Return max over 1 <= l < N of R[l, j(i)], less R[N, j(i)], averaged over i < N.

    The maximum includes stages before i, as published: it is NaN unless the task was measured after
    every stage. Undefined for the last stage, and hence for a single one.
    """
    scores = matrix.by_stage
    values = np.full_like(scores[:, -1], math.nan)
    if len(matrix.order) > 1:
        values[:, :-1] = (scores[:, 1:-1].max(1) - scores[:, -1])[:, :-1]
    return Measure(name="chaudhry_forgetting", values=values, counted=slice(0, -1))


def gem_backward_transfer(matrix: PerformanceMatrix) -> Measure:
    """Return R[N, j(i)] - R[i, j(i)], averaged over i < N; undefined for the last stage."""
    values = matrix.by_stage[:, -1] - _just_learnt(matrix)
    values[:, -1] = math.nan
    return Measure(name="gem_backward_transfer", values=values, counted=slice(0, -1))


def gem_forward_transfer(matrix: PerformanceMatrix) -> Measure:
    """Return R[i - 1, j(i)] - R[0, j(i)], averaged over i >= 2; undefined for the first stage.

    It is what the score on a task gained before its own training began.
    """
    scores = matrix.by_stage
    values = np.diagonal(scores[:, :-1], axis1=1, axis2=2) - scores[:, 0]
    values[:, 0] = math.nan
    return Measure(name="gem_forward_transfer", values=values, counted=slice(1, None))


MATRIX_MEASURES: Mapping[str, Callable[[PerformanceMatrix], Measure]] = MappingProxyType(
    {
        "average_performance": average_performance,
        "cw_forgetting": cw_forgetting,
        "chaudhry_forgetting": chaudhry_forgetting,
        "cw_backward_transfer": cw_backward_transfer,
        "gem_backward_transfer": gem_backward_transfer,
        "gem_forward_transfer": gem_forward_transfer,
    }
)
"""By name: every measure that needs the matrix only."""


def learning_area(steps: npt.ArrayLike, curves: npt.ArrayLike) -> Array:
    """Return the mean height of learning curves over a task's own training period.

    It is (1 / Δ) ∫ p dt from 0 to Δ by the trapezoidal rule, with Δ the last step.

    Args:
        steps: (points,), training steps on the task, from 0 and increasing.
        curves: (..., points), success rates; one that holds a NaN has an area of NaN.

    Raises:
        ValueError: the steps are not as said, or do not fit the curves.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(curves, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or x[0] != 0 or not (np.diff(x) > 0).all():
        raise ValueError(f"steps must increase from 0 to the end of the period, got {x}")
    if y.ndim == 0 or y.shape[-1] != len(x):
        raise ValueError(f"curves {y.shape} must hold a point for each of the {len(x)} steps")
    area = (y[..., 1:] + y[..., :-1]) @ np.diff(x) / (2 * x[-1])
    # No mean is above its largest term, and after rounding either: an area of 1 has a meaning.
    bounded: Array = np.clip(area, y.min(-1), y.max(-1))
    return bounded


def cw_forward_transfer(areas: npt.ArrayLike, scratch: npt.ArrayLike) -> Measure:
    """Return (AUC_i - AUC_i^b) / (1 - AUC_i^b), averaged over all stages (Continual World).

    AUC_i^b is the mean over the reference's seeds; `Measure.interval` takes it as given, so that the
    reference's own spread is not in the interval. A value has no lower bound, and is NaN where
    AUC_i^b is 1: what is learnt at once from scratch cannot be learnt faster.

    Args:
        areas: (seeds, stages), `learning_area` of each stage's task while it was trained.
        scratch: (reference seeds, stages), the same of training each task alone, from scratch and
            for as many steps.

    Raises:
        ValueError: the shapes do not fit, or an area is not between 0 and 1.
    """
    own, alone = _areas("areas", areas), _areas("scratch", scratch)
    _check_same_stages(own, alone)
    reference = alone.mean(0)
    room = np.where(reference < 1, 1 - reference, math.nan)
    return Measure(name="cw_forward_transfer", values=(own - reference) / room)


def negative_transfer(
    areas: npt.ArrayLike,
    scratch: npt.ArrayLike,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> npt.NDArray[np.bool_]:
    """Return the stages that were learnt worse than from scratch, as far as the seeds can tell.

    A stage is flagged where the mean area is below the reference's and the interval of the chance
    that a run of the sequence has the larger area lies below one half. That interval resamples both
    sides' seeds; with a single seed on either side, or a NaN, nothing is flagged.

    Args:
        areas: (seeds, stages), as for `cw_forward_transfer`.
        scratch: (reference seeds, stages).
        rng: the generator of the resamples.
        confidence: of the interval.
        resamples: number of resampled chances.

    Raises:
        ValueError: as for `cw_forward_transfer`.
    """
    own, alone = _areas("areas", areas), _areas("scratch", scratch)
    _check_same_stages(own, alone)
    flags = np.zeros(own.shape[1], dtype=np.bool_)
    for stage in np.flatnonzero(own.mean(0) < alone.mean(0)):
        pair = own[:, [stage]], alone[:, [stage]]
        chance = probability_of_improvement(*pair, rng, confidence, resamples)
        flags[stage] = chance.high < 0.5
    return flags


def forgetting_so_far(matrix: PerformanceMatrix) -> Array:
    """Return R[k, j(k)] - R[i, j(k)], (seeds, stages i, stages k); NaN where i < k.

    The last row is `cw_forgetting`.
    """
    lost = _just_learnt(matrix)[:, None] - matrix.by_stage[:, 1:]
    count = len(matrix.order)
    lost[:, np.triu(np.ones((count, count), dtype=np.bool_), k=1)] = math.nan
    return lost


def interval_table(
    measures: Sequence[Measure],
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Array:
    """Return (stages + 1, measures, 3): estimate, low, high of each stage, then of the mean."""
    columns = [
        [
            *measure.stage_intervals(rng, confidence, resamples),
            measure.interval(rng, confidence, resamples),
        ]
        for measure in measures
    ]
    cells = [[(cell.estimate, cell.low, cell.high) for cell in column] for column in columns]
    return np.array(cells).swapaxes(0, 1)


def _just_learnt(matrix: PerformanceMatrix) -> Array:
    """Return R[i, j(i)] (seeds, stages)."""
    diagonal: Array = np.diagonal(matrix.by_stage[:, 1:], axis1=1, axis2=2)
    return diagonal


def _seed_interval(
    values: Array, rng: np.random.Generator, confidence: float, resamples: int
) -> Interval:
    if np.isnan(values).any():
        return Interval(estimate=math.nan, low=math.nan, high=math.nan)
    return interval(values, rng, confidence, resamples)


def _areas(name: str, values: npt.ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must have shape (seeds, stages), got {array.shape}")
    if ((array < 0) | (array > 1)).any():
        raise ValueError(
            f"{name} must be between 0 and 1, got {np.nanmin(array)} to {np.nanmax(array)}: "
            "forward transfer is defined for success rates"
        )
    return array


def _check_same_stages(own: Array, alone: Array) -> None:
    if own.shape[1] != alone.shape[1]:
        raise ValueError(
            f"areas {own.shape} and scratch {alone.shape} must cover the same stages (second axis)"
        )


def _check_names(tasks: tuple[str, ...], order: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    for label, names in (("tasks", tasks), ("order", order), ("seeds", seeds)):
        if not names:
            raise ValueError(f"{label} must not be empty")
    for label, unique in (("tasks", tasks), ("seeds", seeds)):
        if len(set(unique)) < len(unique):
            raise ValueError(f"{label} must differ from each other, got {unique}")
    for task in tasks:
        if task.strip() != task or not task.isprintable() or task.lower() in ("", "nan"):
            raise ValueError(
                f"{task!r} cannot name a task: it must be printable, without spaces at its ends, "
                "neither empty nor 'nan'"
            )
    if min(seeds) < 0:
        raise ValueError(f"seeds must not be negative, got {seeds}")
    strangers = [task for task in order if task not in tasks]
    if strangers:
        raise ValueError(f"order trains {strangers[0]!r}, which is not one of the tasks {tasks}")
