"""The figure of a comparison: per family, adaptation, learning, and the performance profile."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtrl.benchmarks.quality.learners import LEARNERS
from mtrl.benchmarks.quality.scores import FamilyScores
from mtrl.benchmarks.quality.summary import FamilySummary
from mtrl.benchmarks.quality.trainings import Curve
from mtrl.figure_style import GREY, INK, MARKERS, PALETTE, dress, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curves", "draw_figure"]

Curves = Mapping[str, Sequence[Curve]]
"""By learner, one for each seed."""

_STYLES = ("-", "--")
_ORDER = list(LEARNERS)


def draw_figure(summaries: Sequence[FamilySummary], curves: Mapping[str, Curves]) -> "Figure":
    """Return the figure, a row for each family.

    Args:
        summaries: of every family.
        curves: over training, by family.
    """
    figure = new_figure(11.0, 0.8 + 3.1 * len(summaries))
    grid = figure.subplots(len(summaries), 3, squeeze=False)
    for row, summary in zip(grid, summaries, strict=True):
        _adaptation(row[0], summary)
        _learning(row[1], summary, curves[summary.family.family])
        _profile(row[2], summary)
    legend_below(figure, max((row[0] for row in grid), key=lambda axes: len(axes.lines)))
    return figure


def _look(learner: str) -> dict[str, Any]:
    """Return the look of a learner, the same in every figure."""
    place = _ORDER.index(learner)
    colour = INK if learner == "oracle" else PALETTE[place % len(PALETTE)]
    return {"color": colour, "ls": _STYLES[place // len(PALETTE) % 2]}


def _adaptation(axes: "Axes", summary: FamilySummary) -> None:
    family = summary.family
    by_steps = family.score == "error"
    for learner, curve in summary.iqm.items():
        look = _look(learner)
        # On supervised families all steps are on the same points.
        place = (
            np.arange(len(curve)) if by_steps else np.array(_places(family, learner, len(curve)))
        )
        low, high = ([getattr(i, name) for i in curve] for name in ("low", "high"))
        axes.fill_between(place, low, high, color=look["color"], alpha=0.13, lw=0)
        marker = MARKERS[_ORDER.index(learner) % len(MARKERS)]
        estimates = [i.estimate for i in curve]
        axes.plot(place, estimates, marker=marker, ms=4, lw=1.5, label=LEARNERS[learner], **look)
    if by_steps:
        axes.locator_params(axis="x", integer=True)
    else:
        _logarithmic_counts(
            axes, sorted({n for each in family.learners.values() for n in each.seen})
        )
    label = f"{family.score} ({family.better} is better), IQM"
    unit = "adaptation steps" if by_steps else "episodes of the task seen"
    dress(axes, title=f"{family.family}: adaptation", xlabel=unit, ylabel=label)


def _places(family: FamilyScores, learner: str, points: int) -> Sequence[float]:
    """Return where the scores of a learner are drawn: those that see nothing go along the whole axis."""
    seen = family.learners[learner].seen
    if seen[-1]:
        return seen
    longest = max(each.seen[-1] for each in family.learners.values())
    return [longest * point / (points - 1) for point in range(points)]


def _logarithmic_counts(axes: "Axes", counts: Sequence[int]) -> None:
    """Make the x axis logarithmic from 1 on, with 0 on it, and mark `counts` that do not collide."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    kept: list[int] = []
    for count in counts:
        if not kept or count >= 1.6 * kept[-1] or count == counts[-1]:
            kept.append(count)
    axes.set_xticks(kept, [f"{count}" for count in kept])
    axes.minorticks_off()


def _logarithmic_steps(axes: "Axes") -> None:
    """Make the x axis logarithmic, as off-policy learners take a fraction of the others' steps."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    # Short of two decades, those alone would be one mark or none.
    marks = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(10.0, subs=marks))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())


def _learning(axes: "Axes", summary: FamilySummary, curves: Curves) -> None:
    family = summary.family
    # Errors of a learner that diverged once differ from others by their order, not by their size.
    by_order = family.score == "error"
    for learner, runs in curves.items():
        # Runs of one learner evaluate after equal iterations, and take about as many steps to them.
        done = np.mean([run.done for run in runs], 0)
        after = np.array([run.scores[:, -1] for run in runs])
        look = _look(learner)
        axes.fill_between(done, after.min(0), after.max(0), color=look["color"], alpha=0.13, lw=0)
        # A line of one point is none.
        marker = "o" if len(done) == 1 else ""
        middle = _geometric_mean(after) if by_order else after.mean(0)
        axes.plot(done, middle, marker=marker, ms=4, lw=1.5, **look)
    if by_order:
        axes.set_yscale("log")
    if family.score == "return" and curves:
        _logarithmic_steps(axes)
    title = "after the last step, while it trains"
    dress(axes, title=title, xlabel=family.trained_unit, ylabel=family.score)


def _geometric_mean(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the first axis by logarithms."""
    return np.asarray(np.exp(np.log(np.maximum(errors, np.finfo(np.float64).tiny)).mean(0)))


def _profile(axes: "Axes", summary: FamilySummary) -> None:
    sign = 1 if summary.family.better == "higher" else -1
    for learner, profile in summary.profiles.items():
        look, levels = _look(learner), sign * profile.thresholds
        axes.fill_between(levels, profile.low, profile.high, color=look["color"], alpha=0.13, lw=0)
        axes.plot(levels, profile.share, lw=1.5, **look)
    axes.axhline(0.5, color=GREY, lw=0.6)
    word = "above" if sign > 0 else "below"
    axes.set_ylim(-0.02, 1.02)
    dress(
        axes,
        title="performance profile",
        xlabel=summary.family.score,
        ylabel=f"share of runs and tasks {word}",
    )
