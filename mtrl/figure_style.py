"""The look of all figures: colours, axes, small multiples and legends.

Colours are Okabe and Ito's, which stay apart under colour blindness. matplotlib is optional and
imported when a figure is made.
"""

from typing import TYPE_CHECKING

from mtrl.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FAINT",
    "GREY",
    "INK",
    "LARGE",
    "MARKERS",
    "MEDIUM",
    "PALETTE",
    "SMALL",
    "dress",
    "finish_multiples",
    "legend_below",
    "new_figure",
    "small_multiples",
]

# Okabe and Ito 2008, the darker ones first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK = "#333333"
GREY = "#8A8A8A"
FAINT = "#E3E3E3"
SMALL, MEDIUM, LARGE = 8.5, 9.5, 11.0


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            'figures need matplotlib: pip install "mtrl-suite[plot]"'
        ) from error
    return Figure(figsize=(width, height), dpi=100, layout="constrained", facecolor="white")


def small_multiples(
    count: int, width: float, height: float, *, share: bool = False, per_row: int = 4
) -> tuple["Figure", list["Axes"]]:
    """Return a figure and `count` axes, at most `per_row` in a row, rows as even as possible."""
    if count == 0:
        raise ValueError("nothing to draw: pass at least one task or layer")
    rows = -(-count // per_row)
    columns = -(-count // rows)
    figure = new_figure(max(4.5, width * columns), 0.6 + height * rows)
    axes = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, list(axes[:count])


def finish_multiples(figure: "Figure", panels: list["Axes"], title: str) -> None:
    """Add a title, unless it is empty, and one legend for all panels."""
    if title:
        figure.suptitle(title, fontsize=LARGE, color=INK)
    legend_below(figure, panels[0])


def legend_below(figure: "Figure", axes: "Axes") -> None:
    """Put one legend for the whole figure under the panels, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        # Four entries are wider than a figure of two small panels, which would cut them off.
        ncols=min(len(labels), 4 if figure.get_figwidth() >= 6 else 2),
        frameon=False,
        columnspacing=1.4,
        handletextpad=0.5,
        fontsize=SMALL + 0.5,
        labelcolor=INK,
    )


def dress(axes: "Axes", title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Set titles and labels, and make everything but the data quiet."""
    axes.set_title(title, fontsize=MEDIUM, color=INK)
    axes.set_xlabel(xlabel, fontsize=MEDIUM, color=INK)
    axes.set_ylabel(ylabel, fontsize=MEDIUM, color=INK)
    axes.tick_params(labelsize=SMALL, color=GREY, labelcolor=INK)
    axes.grid(True, color=FAINT, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
