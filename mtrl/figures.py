"""Figures for reports and TensorBoard, drawn without pyplot: no global state, no display.

Every function returns a matplotlib `Figure`, which `save` writes and `to_image` rasterises. The
colours are Okabe and Ito's, which stay apart under colour blindness; learners differ by marker too.
Their order decides the look, so keep it from figure to figure. matplotlib is optional and imported
when a figure is made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mtrl.figure_style import (
    GREY,
    INK,
    LARGE,
    MARKERS,
    MEDIUM,
    PALETTE,
    dress,
    finish_multiples,
    legend_below,
    new_figure,
    small_multiples,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FewShotFit",
    "adaptation_curves",
    "comparison_grid",
    "few_shot_fits",
    "navigation_trajectories",
    "save",
    "step_size_histograms",
    "to_image",
]

_DPI = 150


@dataclass(frozen=True, kw_only=True)
class FewShotFit:
    """One regression task before and after adaptation, for `few_shot_fits`.

    Attributes:
        x: (points,), increasing.
        truth: (points,), the task's curve.
        before: (points,), the prediction of the meta-trained parameters.
        after: (points,), the prediction after adaptation.
        support_x: (shots,).
        support_y: (shots,).
    """

    x: npt.ArrayLike
    truth: npt.ArrayLike
    before: npt.ArrayLike
    after: npt.ArrayLike
    support_x: npt.ArrayLike
    support_y: npt.ArrayLike


def adaptation_curves(
    curves: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]],
    *,
    ylabel: str,
    title: str = "",
    xlabel: str = "adaptation steps",
) -> "Figure":
    """Draw score against adaptation steps, with intervals as bands.

    Args:
        curves: name to (steps, mean, low, high), each (points,).
        ylabel: what the score is, with its direction or unit.
        title: may be empty.
        xlabel: what is counted.
    """
    figure = new_figure(6.0, 3.7)
    axes = figure.subplots()
    for index, (name, (steps, mean, low, high)) in enumerate(curves.items()):
        colour, marker = _look(index)
        axes.fill_between(
            np.asarray(steps), np.asarray(low), np.asarray(high), color=colour, alpha=0.18, lw=0
        )
        axes.plot(steps, mean, color=colour, marker=marker, ms=5, lw=1.8, label=name)
    axes.locator_params(axis="x", integer=True)
    dress(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    legend_below(figure, axes)
    return figure


def comparison_grid(
    results: Mapping[str, Mapping[str, npt.ArrayLike]],
    *,
    panels: Sequence[str],
    columns: Sequence[str],
    ylabel: str,
    title: str = "",
) -> "Figure":
    """Draw published numbers beside ours, one panel per row of the table.

    Args:
        results: learner to source to (panels, columns, 3) of estimate, low, high. Bounds may be
            NaN. The source "paper" is drawn hollow, others filled; where there is nothing but
            "ours", that is not said.
        panels: label of each panel, for instance how the learner was trained.
        columns: label of each group of marks, for instance how it was tested.
        ylabel: what the score is, with its direction or unit.
        title: may be empty.

    Raises:
        ValueError: a table does not have the shape that the labels say.
    """
    figure = new_figure(max(4.5, 1.2 + 2.3 * len(panels)), 3.7)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    series = [
        (
            learner if tuple(sources) == ("ours",) else f"{learner}, {source}",
            _look(index),
            np.asarray(table, dtype=np.float64),
        )
        for index, (learner, sources) in enumerate(results.items())
        for source, table in sources.items()
    ]
    spread = min(0.13, 0.8 / len(series)) * (np.arange(len(series)) - (len(series) - 1) / 2)
    for offset, (label, look, table) in zip(spread, series, strict=True):
        if table.shape != (len(panels), len(columns), 3):
            raise ValueError(
                f"{label}: table of shape {table.shape} does not fit {len(panels)} panels and "
                f"{len(columns)} columns of estimate, low and high"
            )
        for axes, rows in zip(grid, table, strict=True):
            _marks(axes, np.arange(len(columns)) + offset, rows, look, label)
    for axes, panel in zip(grid, panels, strict=True):
        axes.set_xticks(range(len(columns)), columns)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        dress(axes, title=panel, ylabel=ylabel if axes is grid[0] else "")
    if title:
        figure.suptitle(title, fontsize=LARGE, color=INK)
    legend_below(figure, grid[0])
    return figure


def navigation_trajectories(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    goals: npt.ArrayLike,
    *,
    title: str = "",
    per_row: int = 4,
) -> "Figure":
    """Draw paths in the plane before and after adaptation, one small panel per task.

    Args:
        before: (tasks, time, 2) positions; NaN after an episode's end.
        after: (tasks, time, 2).
        goals: (tasks, 2).
        title: may be empty.
        per_row: panels beside each other at most.
    """
    paths, adapted, targets = (np.asarray(x, dtype=np.float64) for x in (before, after, goals))
    figure, panels = small_multiples(len(targets), 2.0, 2.0, share=True, per_row=per_row)
    reach = 1.08 * max(float(np.nanmax(np.abs(x))) for x in (paths, adapted, targets))
    for axes, path, better, goal in zip(panels, paths, adapted, targets, strict=True):
        axes.plot(*path.T, color=GREY, lw=1.2, label="before adaptation")
        axes.plot(*better.T, color=PALETTE[0], lw=1.8, label="after adaptation")
        axes.plot(*better[:1].T, "o", color=INK, ms=4, ls="none", label="start")
        axes.plot(*goal[None].T, "*", color=PALETTE[1], ms=12, mec="white", ls="none", label="goal")
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.locator_params(nbins=4)
        dress(axes)
    finish_multiples(figure, panels, title)
    return figure


def step_size_histograms(step_sizes: Mapping[str, npt.ArrayLike], *, title: str = "") -> "Figure":
    """Draw each layer's learned step sizes, those below zero apart, and state their share.

    Args:
        step_sizes: layer to its step sizes, any shape.
        title: may be empty.
    """
    figure, panels = small_multiples(len(step_sizes), 2.7, 1.9)
    for axes, (name, values) in zip(panels, step_sizes.items(), strict=True):
        flat = np.asarray(values, dtype=np.float64).ravel()
        edges = _edges(flat)
        for sign, colour in ((flat < 0, PALETTE[1]), (flat >= 0, PALETTE[0])):
            axes.hist(flat[sign], bins=edges.tolist(), color=colour, lw=0)
        axes.axvline(0.0, color=INK, lw=0.8)
        axes.locator_params(axis="x", nbins=5)
        axes.locator_params(axis="y", nbins=4, integer=True)
        dress(axes, title=f"{name}: {np.mean(flat < 0):.0%} negative")
    figure.supxlabel("step size", fontsize=MEDIUM, color=INK)
    figure.supylabel("parameters", fontsize=MEDIUM, color=INK)
    if title:
        figure.suptitle(title, fontsize=LARGE, color=INK)
    return figure


def few_shot_fits(fits: Sequence[FewShotFit], *, title: str = "", per_row: int = 4) -> "Figure":
    """Draw each task's curve, its support points, and the predictions before and after adaptation."""
    figure, panels = small_multiples(len(fits), 2.7, 2.1, share=True, per_row=per_row)
    for axes, fit in zip(panels, fits, strict=True):
        axes.plot(fit.x, fit.truth, color=INK, lw=1.2, label="task")
        axes.plot(fit.x, fit.before, color=GREY, lw=1.4, ls=(0, (4, 2)), label="before adaptation")
        axes.plot(fit.x, fit.after, color=PALETTE[0], lw=1.9, label="after adaptation")
        axes.plot(
            fit.support_x, fit.support_y, "o", color=PALETTE[1], ms=5, mec="white", label="support"
        )
        dress(axes)
    finish_multiples(figure, panels, title)
    return figure


def save(figure: "Figure", path: str | Path) -> Path:
    """Write a PNG at 150 dots per inch; the same figure gives the same bytes."""
    target = Path(path)
    # The default metadata names the matplotlib version.
    figure.savefig(target, format="png", dpi=_DPI, metadata={"Software": None})
    return target


def to_image(figure: "Figure") -> npt.NDArray[np.uint8]:
    """Rasterise a figure to (height, width, 3), for `SummaryWriter.add_image(..., dataformats="HWC")`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib leaves these two untyped
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def _marks(
    axes: "Axes",
    x: npt.NDArray[np.float64],
    rows: npt.NDArray[np.float64],
    look: tuple[str, str],
    label: str,
) -> None:
    """Draw estimates (columns, 3) with their intervals as whiskers."""
    colour, marker = look
    estimate, low, high = rows.T
    axes.vlines(x, low, high, color=colour, lw=1.3, alpha=0.8)
    face = "white" if label.endswith(", paper") else colour
    axes.plot(x, estimate, marker, ls="none", ms=5.5, color=colour, mfc=face, mew=1.3, label=label)


def _look(index: int) -> tuple[str, str]:
    return PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]


def _edges(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return bin edges over the values with one at zero, so that no bar mixes both signs."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    bins = min(40, 10 + int(np.sqrt(values.size)))
    width = (high - low or 1.0) / bins
    edges = width * np.arange(np.floor(low / width), np.floor(high / width) + 2)
    # Rounding must not leave the lowest value outside.
    edges[0] = min(edges[0], low)
    return edges
