"""The figure of a comparison: every agent on every task, all tasks together, and what sharing changes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mtrl.compare.page import TITLES
from mtrl.compare.plan import Kind, Plan
from mtrl.compare.results import Flag, Summary
from mtrl.evaluation.statistics import Interval
from mtrl.figure_style import GREY, INK, LARGE, MARKERS, PALETTE, dress, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_figure"]

_LOOKS = {kind: (PALETTE[i], MARKERS[i]) for i, kind in enumerate(TITLES)}
_FLAG_COLOURS: dict[Flag, str] = {
    "positive": PALETTE[0],
    "negative": PALETTE[1],
    "not told apart": GREY,
}


def draw_figure(plan: Plan, summary: Summary) -> "Figure":
    """Return the figure; bars are 95 % bootstrap intervals."""
    tasks = len(plan.tasks)
    transfer = summary.tasks[0].transfer is not None
    width = 3.5 + max(2.5, 0.75 * tasks)
    figure = new_figure(width, 5.6 if transfer else 3.7)
    ratios = (max(3.0, 0.8 * tasks), 1.6)
    grid = figure.subplots(
        1 + transfer, 2, squeeze=False, width_ratios=ratios, height_ratios=(1.5, 1)[: 1 + transfer]
    )
    _scores(grid[0, 0], plan.kinds, summary)
    _overall(grid[0, 1], plan.kinds, summary)
    grid[0, 1].sharey(grid[0, 0])
    if transfer:
        _transfer(grid[1, 0], summary)
        grid[1, 1].set_visible(False)
    algorithm = type(plan.settings.algorithm).__name__
    title = f"{algorithm} on {tasks} tasks of {plan.settings.family}, seeds: {plan.seeds}"
    figure.suptitle(title, fontsize=LARGE, color=INK)
    legend_below(figure, grid[0, 0])
    return figure


def _scores(axes: "Axes", kinds: Sequence[Kind], summary: Summary) -> None:
    places = np.arange(len(summary.tasks), dtype=float)
    spread = 0.6 / len(kinds) * (np.arange(len(kinds)) - (len(kinds) - 1) / 2)
    for offset, kind in zip(spread.tolist(), kinds, strict=True):
        rows = [row.scores[kind] for row in summary.tasks]
        _marks(axes, places + offset, rows, *_LOOKS[kind], label=TITLES[kind])
    _name_tasks(axes, summary)
    dress(axes, title="each task", ylabel="return")


def _overall(axes: "Axes", kinds: Sequence[Kind], summary: Summary) -> None:
    for place, kind in enumerate(kinds):
        _marks(axes, np.array([float(place)]), [summary.overall[kind].iqm], *_LOOKS[kind])
    axes.set_xticks([])
    axes.set_xlim(-0.7, len(kinds) - 0.3)
    dress(axes, title="all tasks: IQM")


def _transfer(axes: "Axes", summary: Summary) -> None:
    axes.axhline(0, color=INK, lw=0.9)
    for place, row in enumerate(summary.tasks):
        assert row.transfer is not None and row.flag is not None
        _marks(axes, np.array([float(place)]), [row.transfer], _FLAG_COLOURS[row.flag], "o")
    _name_tasks(axes, summary)
    dress(
        axes, title="transfer: shared trunk less specialist (grey: not told apart)", ylabel="return"
    )


def _marks(
    axes: "Axes",
    places: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
    rows: Sequence[Interval],
    colour: str,
    marker: str,
    label: str = "",
) -> None:
    for place, row in zip(places.tolist(), rows, strict=True):
        axes.plot([place, place], [row.low, row.high], color=colour, lw=2.2, alpha=0.45)
    means = [row.estimate for row in rows]
    axes.plot(places, means, marker, color=colour, ms=5.5, label=label or None)


def _name_tasks(axes: "Axes", summary: Summary) -> None:
    axes.set_xticks(range(len(summary.tasks)), [row.name for row in summary.tasks])
    if len(summary.tasks) > 6:
        axes.tick_params(axis="x", rotation=45)
    axes.set_xlim(-0.6, len(summary.tasks) - 0.4)
