"""The figure of `mtrl reproduce incremental`: the trade-off, and what was lost of each task."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mtrl.evaluation.continual import forgetting_so_far
from mtrl.figure_style import (
    FAINT,
    GREY,
    INK,
    LARGE,
    MARKERS,
    MEDIUM,
    PALETTE,
    SMALL,
    dress,
    new_figure,
)
from mtrl.reproduce.incremental.page import TITLE
from mtrl.reproduce.incremental.results import Summary
from mtrl.reproduce.incremental.trainings import Trained
from mtrl.reproduce.page import QUICK, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_figure"]

_PER_ROW = 3


def draw_figure(summary: Summary, trained: Trained, record: Record) -> "Figure":
    """Draw forward transfer against forgetting, and a heat map of mean forgetting for each method."""
    figure = new_figure(14.0, 7.4)
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.0, 1.5))
    left, right = parts
    _trade_off(left.subplots(), summary)
    rows = -(-len(summary.rows) // _PER_ROW)
    panels = right.subplots(rows, _PER_ROW, squeeze=False).ravel()
    for axes, method in zip(panels, summary.rows, strict=False):
        image = _lost(axes, method, trained)
    for axes in panels[len(summary.rows) :]:
        axes.set_visible(False)
    bar = right.colorbar(image, ax=list(panels), shrink=0.6, pad=0.02)
    bar.set_label("score lost since the task's own stage, mean over seeds", color=INK)
    bar.outline.set_visible(False)
    figure.suptitle(f"{TITLE}" + f" ({QUICK})" * record.quick, fontsize=LARGE, color=INK)
    return figure


def _trade_off(axes: "Axes", summary: Summary) -> None:
    for place, (method, row) in enumerate(summary.rows.items()):
        colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
        x, y = row.forgetting, row.transfer
        axes.plot([x.low, x.high], [y.estimate] * 2, color=colour, lw=1.8, alpha=0.4)
        axes.plot([x.estimate] * 2, [y.low, y.high], color=colour, lw=1.8, alpha=0.4)
        filled: Any = colour if place < len(PALETTE) else "white"
        axes.plot(
            x.estimate, y.estimate, marker, color=colour, mfc=filled, ms=8, mew=1.6, label=method
        )
    axes.axvline(0, color=GREY, lw=0.8, zorder=0)
    axes.axhline(0, color=GREY, lw=0.8, zorder=0)
    dress(
        axes,
        title="better is up and to the left; means and 95 % intervals",
        xlabel="forgetting (Continual World)",
        ylabel="forward transfer (Continual World)",
    )
    axes.legend(fontsize=SMALL, frameon=False, loc="best", labelcolor=INK)


def _lost(axes: "Axes", method: str, trained: Trained) -> Any:
    matrix = trained.matrices[method]
    lost = forgetting_so_far(matrix).mean(0)
    image = axes.imshow(np.ma.masked_invalid(lost), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_facecolor(FAINT)
    for row, column in np.argwhere(np.isfinite(lost)).tolist():
        value = float(lost[row, column])
        ink = "white" if abs(value) > 0.6 else INK
        text = f"{value:.1f}".replace("-0.0", "0.0")
        axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=ink)
    stages = range(len(matrix.order))
    axes.set_xticks(stages, [str(stage + 1) for stage in stages], fontsize=SMALL)
    axes.set_yticks(stages, [str(stage + 1) for stage in stages], fontsize=SMALL)
    axes.set_title(method, fontsize=MEDIUM, color=INK)
    axes.set_xlabel("task of stage", fontsize=SMALL, color=INK)
    axes.set_ylabel("after stage", fontsize=SMALL, color=INK)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    return image
