"""Figures of a report as SVG: the same numbers give the same bytes, and text stays text.

Each is narrow, so that it can be read on a phone; the page puts them beside each other where there
is room.
"""

import io
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from mtrl.figure_style import MARKERS, PALETTE, dress, legend_below, new_figure
from mtrl.report.curves import Curve
from mtrl.report.page import Gallery, Picture, clean, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_figure", "drawn", "literal", "svg_picture", "to_svg"]

_LINES = ("-", "--", "-.", ":")
_MOST_MARKED = 25
"""Markers on a curve of more points would be a thick line."""
# The names of formats and vocabularies, which say nothing and look like addresses.
_PREAMBLE = re.compile(rb"<\?xml.*?\?>\s*|<!DOCTYPE.*?>\s*|<metadata>.*?</metadata>\s*", re.DOTALL)


def drawn(*pictures: Callable[[], Picture]) -> tuple[Gallery, ...]:
    """Return a gallery of what is drawn; nothing without matplotlib, or if there is nothing to draw."""
    if find_spec("matplotlib") is None or not pictures:
        return ()
    return (Gallery(pictures=tuple(draw() for draw in pictures)),)


def svg_picture(
    figure: "Figure", name: str, alt: str, *, caption: str = "", themed: bool = True
) -> Picture:
    """Return a figure as a picture; unthemed if its colours are those of a map."""
    return Picture(
        name=slug(name),
        content=to_svg(figure),
        format="svg",
        alt=alt,
        caption=caption,
        themed=themed,
    )


def to_svg(figure: "Figure") -> bytes:
    """Return a figure as one SVG element, without preamble, date or metadata."""
    import matplotlib

    buffer = io.BytesIO()
    # Without a salt, marks and clips get other names each time.
    with matplotlib.rc_context({"svg.hashsalt": "mtrl", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _PREAMBLE.sub(b"", buffer.getvalue())


def curves_figure(
    curves: Mapping[str, Curve], *, xlabel: str, ylabel: str, title: str = ""
) -> "Figure":
    """Draw curves with their intervals as bands; one curve needs no legend."""
    figure = new_figure(4.6, 3.0)
    axes = figure.subplots()
    for index, (label, curve) in enumerate(curves.items()):
        _draw(axes, curve, index, label)
    axes.locator_params(axis="x", integer=True, nbins=6)
    dress(axes, title=literal(title), xlabel=literal(xlabel), ylabel=literal(ylabel))
    if len(curves) > 1:
        legend_below(figure, axes)
    return figure


def literal(text: str) -> str:
    """Return `text` so that matplotlib shows it as it is: no mathematics, no hidden label."""
    shown = clean(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _draw(axes: "Axes", curve: Curve, index: int, label: str) -> None:
    colour = PALETTE[index % len(PALETTE)]
    line = _LINES[index // len(PALETTE) % len(_LINES)]
    marker = MARKERS[index % len(MARKERS)] if len(curve.x) <= _MOST_MARKED else ""
    x, estimate, low, high = curve.bands
    if np.isfinite(low).any():
        axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
    axes.plot(x, estimate, line, color=colour, marker=marker, ms=4, lw=1.6, label=literal(label))
