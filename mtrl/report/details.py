"""The rest of what a run's files hold: step sizes, other curves, pictures, matrices, time."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mtrl.continual_figures import forgetting_heatmap, performance_heatmap, transfer_table
from mtrl.errors import UsageError
from mtrl.evaluation.continual import (
    MATRIX_MEASURES,
    PerformanceMatrix,
    forgetting_so_far,
    interval_table,
    pooled,
)
from mtrl.evaluation.statistics import Interval
from mtrl.figures import step_size_histograms
from mtrl.metrics import Series
from mtrl.report.curves import AFTER
from mtrl.report.drawing import drawn, literal, svg_picture
from mtrl.report.events import LoggedPicture
from mtrl.report.grouping import Group
from mtrl.report.page import Block, Gallery, Picture, Section, Table, Text, slug
from mtrl.report.reading import RunRecord
from mtrl.report.results import tag_picture, tag_pictures
from mtrl.report.tasks import task_curves
from mtrl.report.words import NONE, cell, number, unit_of
from mtrl.seeding import numpy_generator
from mtrl.tags import find_tag

__all__ = [
    "curves_section",
    "matrices_section",
    "pictures_section",
    "step_sizes_section",
    "time_section",
]

_LOWER_IS_BETTER = ("cw_forgetting", "chaudhry_forgetting")


def step_sizes_section(groups: Sequence[Group]) -> tuple[Section, ...]:
    """Return the learned step sizes of each layer, those of an experiment's runs taken together."""
    pooled = {group.label: _pooled(group) for group in groups}
    rows = [
        (label, layer, *_step_size_cells(values))
        for label, layers in pooled.items()
        for layer, values in layers.items()
    ]
    if not rows:
        return ()
    header = ("experiment", "layer", "mean", "negative", "lowest", "highest", "number")
    caption = "Learned step sizes at the newest checkpoint, of all runs of an experiment together"
    pictures = [
        partial(_histogram, label, layer, values)
        for label, layers in pooled.items()
        for layer, values in layers.items()
    ]
    table = Table(caption=caption, header=header, rows=tuple(rows))
    return (Section(title="Step sizes", blocks=(table, *drawn(*pictures))),)


def curves_section(groups: Sequence[Group], seed: int) -> tuple[Section, ...]:
    """Return every other curve that the runs logged, with what it means."""
    logged = dict.fromkeys(tag for group in groups for run in group.runs for tag in run.metrics)
    tags = sorted(tag for tag in logged if not AFTER.fullmatch(tag))
    if not tags:
        return ()
    rows = dict.fromkeys(map(_tag_row, tags))
    table = Table(
        caption="What the curves show", header=("tag", "unit", "meaning"), rows=tuple(rows)
    )
    of_tasks = [
        partial(tag_picture, "tasks", *each) for each in task_curves(groups, seed) if each[2]
    ]
    pictures = drawn(*tag_pictures(groups, seed), *of_tasks)
    return (Section(title="Training curves", blocks=(*pictures, table)),)


def pictures_section(groups: Sequence[Group]) -> tuple[Section, ...]:
    """Return the newest picture under each tag, of one run of each experiment."""
    galleries: list[Block] = []
    for group in groups:
        run = next((run for run in group.runs if run.pictures), None)
        if run is not None:
            pictures = tuple(_logged_picture(run, picture) for picture in run.pictures)
            galleries += [Text(text=_whose(group, run)), Gallery(pictures=pictures)]
    if not galleries:
        return ()
    return (Section(title="Pictures of the runs", blocks=tuple(galleries)),)


def matrices_section(groups: Sequence[Group], seed: int) -> tuple[Section, ...]:
    """Return what learning tasks one after another kept and carried over, of each matrix found.

    Matrices of an experiment's runs that tell of the same stages are taken together, as seeds of one.
    """
    blocks = [
        block
        for group in groups
        for name, matrix in _matrices_of(group).items()
        for block in _matrix_blocks(name, matrix, seed)
    ]
    return (Section(title="Transfer and forgetting", blocks=tuple(blocks)),) if blocks else ()


def time_section(runs: Sequence[RunRecord]) -> Section:
    """Return what was recorded of time and memory."""
    rows = [
        (run.name, tag, unit_of(tag), *_spread(series))
        for run in runs
        for tag, series in run.timings.items()
        if series.values
    ]
    memory = any("memory" in tag for run in runs for tag in [*run.timings, *run.metrics])
    remark = "These depend on the machine." + ("" if memory else " No run recorded its memory.")
    if not rows:
        return Section(title="Time and memory", blocks=(Text(text="No run recorded its time."),))
    table = Table(
        caption="What the runs recorded of the machine, over their logged steps",
        header=("run", "tag", "unit", "median", "lowest", "highest", "points"),
        rows=tuple(rows),
    )
    return Section(title="Time and memory", blocks=(Text(text=remark), table))


def _pooled(group: Group) -> dict[str, NDArray[np.float64]]:
    layers = dict.fromkeys(layer for run in group.runs for layer in run.step_sizes)
    return {
        layer: np.concatenate(
            [run.step_sizes[layer].ravel() for run in group.runs if layer in run.step_sizes]
        )
        for layer in layers
    }


def _step_size_cells(values: NDArray[np.float64]) -> tuple[str, ...]:
    share = f"{np.mean(values < 0):.1%}"
    ends = number(float(values.min())), number(float(values.max()))
    return (number(float(values.mean())), share, *ends, f"{values.size:,}")


def _histogram(label: str, layer: str, values: NDArray[np.float64]) -> Picture:
    figure = step_size_histograms({literal(layer): values})
    mean, share, low, high, _ = _step_size_cells(values)
    alt = (
        f"Histogram of the step sizes of {layer} in {label}: mean {mean}, {share} negative, "
        f"from {low} to {high}."
    )
    return svg_picture(figure, f"step-sizes-{label}-{layer}", alt, caption=f"{label}, {layer}")


def _tag_row(tag: str) -> tuple[str, str, str]:
    try:
        entry = find_tag(tag)
    except UsageError:  # of a run that another version made
        return (tag, "", "unknown to this version of mtrl")
    return (entry.pattern, entry.unit, entry.description)


def _logged_picture(run: RunRecord, picture: LoggedPicture) -> Picture:
    return Picture(
        name=slug(f"{run.name}-{picture.tag}"),
        content=picture.content,
        format=picture.format,
        alt=f"{_tag_row(picture.tag)[2]} {picture.tag} of {run.name} at step {picture.step:,}.",
        caption=f"{picture.tag} at step {picture.step:,}",
    )


def _whose(group: Group, run: RunRecord) -> str:
    others = f" (the first of {len(group.runs)} runs that has any)" if len(group.runs) > 1 else ""
    return f"{group.label}: the newest pictures that {run.name}{others} logged."


def _spread(series: Series) -> tuple[str, ...]:
    values = np.array(series.values)
    ends = (np.median(values), values.min(), values.max())
    return (*(number(float(value)) for value in ends), f"{len(values):,}")


def _matrices_of(group: Group) -> dict[str, PerformanceMatrix]:
    """Return by name those of each run, or one of all runs where they fit together."""
    found = {}
    for file in dict.fromkeys(file for run in group.runs for file in run.matrices):
        holders = [run for run in group.runs if file in run.matrices]
        together = pooled([run.matrices[file] for run in holders])
        if together is not None and len(holders) > 1:
            found[f"{group.label}, {file} of {len(holders)} runs"] = together
        else:
            found |= {f"{run.name}, {file}": run.matrices[file] for run in holders}
    return found


def _matrix_blocks(name: str, matrix: PerformanceMatrix, seed: int) -> list[Block]:
    measures = [measure(matrix) for measure in MATRIX_MEASURES.values()]
    cells = interval_table(measures, numpy_generator(seed, "report"))
    stages = [f"{i}: {task}" for i, task in enumerate(matrix.order, start=1)]
    rows = [*stages, "mean as the definition takes it"]
    table = Table(
        caption=f"{name}: measures of transfer and forgetting, [95% interval] over seeds",
        header=("stage", *MATRIX_MEASURES),
        rows=tuple(
            (row, *(_measure_cell(part) for part in line))
            for row, line in zip(rows, cells, strict=True)
        ),
    )
    scores = matrix.scores.mean(0)
    measured = Table(
        caption=f"{name}: score on every task after every stage, mean over the seeds",
        header=("after stage", *matrix.tasks),
        rows=tuple(
            (stage, *(NONE if np.isnan(score) else number(float(score)) for score in line))
            for stage, line in zip(["before training", *stages], scores, strict=True)
        ),
    )
    return [
        *drawn(
            partial(_performance_picture, name, matrix),
            partial(_forgetting_picture, name, matrix),
            partial(_measures_picture, name, cells, rows),
        ),
        measured,
        table,
    ]


def _measure_cell(part: NDArray[np.float64]) -> str:
    estimate, low, high = (float(value) for value in part)
    if np.isnan(estimate):
        return "undefined"
    return cell(Interval(estimate=estimate, low=low, high=high))


def _performance_picture(name: str, matrix: PerformanceMatrix) -> Picture:
    names = [literal(task) for task in matrix.tasks]
    order = [literal(task) for task in matrix.order]
    figure = performance_heatmap(matrix.scores.mean(0), tasks=names, order=order)
    alt = f"Heat map of {name}: score on each task after each stage, in the table below."
    return svg_picture(figure, f"{name}-scores", alt, caption=f"{name}: scores", themed=False)


def _forgetting_picture(name: str, matrix: PerformanceMatrix) -> Picture:
    order = [literal(task) for task in matrix.order]
    figure = forgetting_heatmap(forgetting_so_far(matrix).mean(0), order=order)
    alt = f"Heat map of {name}: how much of each task was lost after each later stage."
    return svg_picture(figure, f"{name}-forgetting", alt, caption=f"{name}: lost", themed=False)


def _measures_picture(name: str, cells: NDArray[np.float64], rows: Sequence[str]) -> Picture:
    columns: Mapping[str, bool] = {
        measure: measure not in _LOWER_IS_BETTER for measure in MATRIX_MEASURES
    }
    figure = transfer_table(
        cells, rows=[literal(row) for row in rows], columns=columns, negative=[False] * len(rows)
    )
    alt = f"Coloured table of the measures of {name}, in the table below."
    return svg_picture(figure, f"{name}-measures", alt, caption=f"{name}: measures", themed=False)
