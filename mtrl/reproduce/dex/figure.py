"""The figure of `mtrl reproduce dex`: survival by level, learning curves, and what steps buy."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtrl.figure_style import (
    GREY,
    INK,
    LARGE,
    PALETTE,
    dress,
    legend_below,
    new_figure,
)
from mtrl.reproduce.dex.courses import Course
from mtrl.reproduce.dex.page import TITLE
from mtrl.reproduce.dex.results import Results, over_seeds
from mtrl.reproduce.page import QUICK, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_figure"]

Array = NDArray[np.float64]
CURVES = 3
"""Levels whose learning curves are shown: spread over the chain, the last among them."""
ROW_LOOKS = {
    "random": GREY,
    "initial": PALETTE[5],
    "from scratch": PALETTE[1],
    "incremental, pair": PALETTE[0],
    "incremental, chain": PALETTE[2],
}


def draw_figure(results: Results, record: Record) -> "Figure":
    """Return bars by level above, and learning curves and equal total cost below."""
    figure = new_figure(12.5, 7.2)
    grid = figure.add_gridspec(2, CURVES + 1, height_ratios=(1.1, 1.0))
    bars = figure.add_subplot(grid[0, :])
    _bars(bars, results)
    panels = [figure.add_subplot(grid[1, place]) for place in range(CURVES + 1)]
    for axes, level in zip(panels, _shown(results), strict=False):
        _curves(axes, results, level)
    _equal_cost(panels[-1], results)
    for axes in panels[1:]:
        axes.set_ylabel("")
    figure.suptitle(f"{TITLE}" + f" ({QUICK})" * record.quick, fontsize=LARGE, color=INK)
    legend_below(figure, bars)
    return figure


def _shown(results: Results) -> list[str]:
    levels = results.settings.levels
    places = np.linspace(1, len(levels) - 1, CURVES).round().astype(int)
    return [levels[place] for place in places.tolist()]


def _bars(axes: "Axes", results: Results) -> None:
    levels = results.settings.levels
    nothing = [np.zeros(0)]
    rows = {
        "random": [results.random[level].mean(1) for level in levels],
        "initial": nothing + [each.initial for each in results.pairs],
        "from scratch": [results.values(results.scratch(level), "after", 0) for level in levels],
        "incremental, pair": nothing + [each.incremental for each in results.pairs],
        "incremental, chain": nothing + [each.incremental for each in results.chain],
    }
    width = 0.85 / len(rows)
    for number, (name, values) in enumerate(rows.items()):
        for place, found in enumerate(values):
            if not len(found):
                continue
            value = over_seeds(found, f"figure {name} {levels[place]}")
            left = place + width * (number - (len(rows) - 1) / 2)
            label = name if place == len(levels) - 1 else None
            axes.bar(left, value.estimate, width, color=ROW_LOOKS[name], label=label)
            axes.plot([left, left], [value.low, value.high], color=INK, lw=1.0)
    negative = {each.level for each in results.pairs if each.negative}
    names = [f"{level}\n(negative)" if level in negative else level for level in levels]
    axes.set_xticks(range(len(levels)), names)
    dress(axes, title="mean over seeds, 95 % interval", ylabel="steps survived")


def _curves(axes: "Axes", results: Results, level: str) -> None:
    place = results.settings.levels.index(level)
    shown = (
        ("from scratch", results.scratch(level), 0),
        ("incremental, pair", Course("pair", results.settings.levels[place - 1 : place + 1]), 1),
        ("incremental, chain", results.course, place),
    )
    for name, course, stage in shown:
        curves = results.values(course, "curves", stage)
        colour, steps = ROW_LOOKS[name], np.array(results.settings.curve_steps) / 1000
        axes.plot(steps, curves.T, color=colour, lw=0.6, alpha=0.35)
        axes.plot(steps, curves.mean(0), color=colour, lw=2.0)
    axes.set_ylim(0, 520)
    dress(axes, title=level, xlabel="thousand steps on the level", ylabel="steps survived")


def _equal_cost(axes: "Axes", results: Results) -> None:
    """Draw what the last goal's scratch agents reach by all their steps, and the chain's by its."""
    goal = results.total_cost[-1]
    alone = results.taken[results.scratch(goal.level)]
    values = np.array([[each.before[0], *each.after] for each in alone])
    steps = np.cumsum([0, *alone[0].steps]) / 1000
    colour = ROW_LOOKS["from scratch"]
    axes.plot(steps, values.T, color=colour, lw=0.6, alpha=0.35)
    axes.plot(steps, values.mean(0), color=colour, lw=2.0)
    chain = over_seeds(goal.incremental, f"figure chain {goal.level}")
    end, colour = goal.steps / 1000, ROW_LOOKS["incremental, chain"]
    axes.plot([end, end], [chain.low, chain.high], color=colour, lw=2.2, alpha=0.5)
    axes.plot(end, chain.estimate, "o", color=colour)
    axes.set_ylim(0, 520)
    dress(axes, title=f"{goal.level}, all steps", xlabel="thousand steps in all")
