"""Figures of continual learning: scores after every stage, what was forgotten, a table of transfer.

Blue is better and vermilion worse in all of them; every cell says its number too. They take arrays,
so that they draw what was read from a file as well as what a run still holds.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mtrl.evaluation.statistics import Interval
from mtrl.figure_style import FAINT, GREY, INK, MEDIUM, PALETTE, SMALL, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["forgetting_heatmap", "performance_heatmap", "transfer_table"]

Array = npt.NDArray[np.float64]


def performance_heatmap(
    scores: npt.ArrayLike,
    *,
    tasks: Sequence[str],
    order: Sequence[str],
    score: str = "score",
    title: str = "",
) -> "Figure":
    """Draw the score on every task after every stage; the task just learnt is framed.

    Args:
        scores: (1 + stages, tasks), usually means over seeds; NaN cells stay grey.
        tasks: names of the columns.
        order: the task that each stage trains.
        score: what the colours mean, with its unit.
        title: may be empty.

    Raises:
        ValueError: scores and names do not fit.
    """
    values = np.asarray(scores, dtype=np.float64)
    rows = ["before training", *(f"{i}: {task}" for i, task in enumerate(order, start=1))]
    known = values[np.isfinite(values)]
    limits = (min(0.0, known.min(initial=0.0)), max(1e-9, known.max(initial=0.0)))
    figure, axes = _heat_map(values, rows, tasks, ("white", PALETTE[0]), limits, score)
    for row, task in enumerate(order, start=1):
        _frame(axes, row, list(tasks).index(task))
    dress(axes, title=title, xlabel="measured on", ylabel="after stage")
    axes.grid(False)
    return figure


def forgetting_heatmap(
    forgetting: npt.ArrayLike,
    *,
    order: Sequence[str],
    loss: str = "score lost since its training",
    title: str = "",
) -> "Figure":
    """Draw how much of each stage's task was lost after each later stage.

    Args:
        forgetting: (stages, stages), `forgetting_so_far` of one seed or its mean over seeds.
        order: the task that each stage trains.
        loss: what the colours mean, with its unit.
        title: may be empty.

    Raises:
        ValueError: forgetting and names do not fit.
    """
    values = np.asarray(forgetting, dtype=np.float64)
    names = [f"{i}: {task}" for i, task in enumerate(order, start=1)]
    reach = _reach(values)
    figure, axes = _heat_map(
        values, names, names, (PALETTE[0], "white", PALETTE[1]), (-reach, reach), loss
    )
    dress(axes, title=title, xlabel="task", ylabel="after stage")
    axes.grid(False)
    return figure


def transfer_table(
    cells: npt.ArrayLike,
    *,
    rows: Sequence[str],
    columns: Mapping[str, bool],
    negative: Sequence[bool],
    title: str = "",
) -> "Figure":
    """Draw measures with their intervals as a table, each column coloured on a scale of its own.

    Args:
        cells: (rows, columns, 3) of estimate, low and high, as from `interval_table`; NaN estimates
            are undefined and stay grey.
        rows: their names, usually a stage each and the mean.
        columns: name of each measure, and whether higher is better; the name says the definition.
        negative: for each row, whether its transfer is flagged as negative.
        title: may be empty.

    Raises:
        ValueError: the cells do not fit the names or the flags.
    """
    table = np.asarray(cells, dtype=np.float64)
    shape = (len(rows), len(columns), 3)
    if table.shape != shape or len(negative) != len(rows):
        raise ValueError(
            f"cells {table.shape} and {len(negative)} flags do not fit {len(rows)} rows and "
            f"{len(columns)} columns of estimate, low and high"
        )
    good = np.where(list(columns.values()), 1.0, -1.0) * table[..., 0]
    shares = np.stack([column / _reach(column) for column in good.T], axis=1)
    figure = new_figure(max(4.5, 1.9 + 1.75 * len(columns)), 0.9 + 0.34 * len(rows))
    axes = figure.subplots()
    axes.imshow(
        np.ma.masked_invalid(shares),
        cmap=_colours(PALETTE[1], "white", PALETTE[0], strength=0.55),
        vmin=-1,
        vmax=1,
        aspect="auto",
    )
    axes.set_facecolor(FAINT)
    for row, column in np.ndindex(shape[:2]):
        _write(axes, row, column, _cell(table[row, column]), INK)
    names = [
        f"{name}\nnegative transfer" if flag else name
        for name, flag in zip(rows, negative, strict=True)
    ]
    _label(axes, names, list(columns), turned=False)
    axes.xaxis.tick_top()
    dress(axes, title=title)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for label, flag in zip(axes.get_yticklabels(), negative, strict=True):
        label.set_color(PALETTE[1] if flag else INK)
    return figure


def _heat_map(
    values: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    stops: tuple[str, ...],
    limits: tuple[float, float],
    meaning: str,
) -> tuple["Figure", "Axes"]:
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values {values.shape} do not fit {len(rows)} rows and {len(columns)} columns"
        )
    figure = new_figure(max(4.5, 2.4 + 0.62 * len(columns)), max(3.0, 1.4 + 0.36 * len(rows)))
    axes = figure.subplots()
    colours = _colours(*stops)
    low, high = limits
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=colours, vmin=low, vmax=high, aspect="auto"
    )
    axes.set_facecolor(FAINT)
    for row, column in np.argwhere(np.isfinite(values)).tolist():
        red, green, blue, _ = colours(float((values[row, column] - low) / (high - low)))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        _write(axes, row, column, _short(values[row, column]), "white" if dark else INK)
    _label(axes, rows, columns, turned=True)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(meaning, fontsize=MEDIUM, color=INK)
    bar.ax.tick_params(labelsize=SMALL, color=GREY, labelcolor=INK)
    bar.outline.set_visible(False)
    return figure, axes


def _label(axes: "Axes", rows: Sequence[str], columns: Sequence[str], *, turned: bool) -> None:
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns)
    if turned and max(map(len, columns)) > 6:
        for label in axes.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor")


def _write(axes: "Axes", row: int, column: int, text: str, colour: str) -> None:
    axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color=colour)


def _frame(axes: "Axes", row: int, column: int) -> None:
    """Draw a frame around a cell, inside it so that neighbours do not cover it."""
    inset = 0.46
    x = column + inset * np.array([-1, 1, 1, -1, -1])
    y = row + inset * np.array([-1, -1, 1, 1, -1])
    axes.plot(x, y, color=INK, lw=1.4)


def _cell(numbers: Array) -> str:
    estimate, low, high = (float(number) for number in numbers)
    if np.isnan(estimate):
        return "undefined"
    return str(Interval(estimate=estimate, low=low, high=high))


def _short(value: float) -> str:
    """Return about three digits; -0.00 reads as a loss that is not there."""
    return f"{value:.2f}".replace("-0.00", "0.00") if abs(value) < 10 else f"{value:.0f}"


def _reach(values: Array) -> float:
    known = np.abs(values[np.isfinite(values)])
    return float(known.max(initial=0.0)) or 1.0


def _colours(*stops: str, strength: float = 1.0) -> "Colormap":
    """Return a colour map through `stops`, mixed with white to leave `strength` of them."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    mixed = [tuple(1 - strength * (1 - part) for part in to_rgb(stop)) for stop in stops]
    return LinearSegmentedColormap.from_list("continual", mixed)
