"""How the runs learnt and how they adapt, and on which tasks."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from mtrl.evaluation.statistics import Interval
from mtrl.report.curves import (
    AFTER,
    MEAN_RETURN,
    Curve,
    adaptation_curves,
    held_out_tags,
    shared_scores,
    statistic_of,
    tag_curve,
)
from mtrl.report.drawing import curves_figure, drawn, svg_picture
from mtrl.report.grouping import Group, arenas
from mtrl.report.page import Picture, Section, Table, Text
from mtrl.report.reading import RunRecord
from mtrl.report.tasks import task_pattern
from mtrl.report.words import NONE, after, cell, direction, meaning, unit_of

__all__ = [
    "adaptation_section",
    "learning_section",
    "tag_picture",
    "tag_pictures",
]

_EVALUATIONS = (MEAN_RETURN, "eval/worst_return")


def learning_section(groups: Sequence[Group], seed: int) -> Section:
    """Return the score on held-out tasks over training, a picture for each number of steps."""
    shown = [
        (place, tag, curves)
        for place, members in arenas(groups).items()
        for tag in [*held_out_tags(_runs(members)), *_EVALUATIONS]
        if (curves := _curves_of(members, tag, seed))
    ]
    if not shown:
        nothing = Text(text="No run has logged an evaluation.")
        return Section(title="Learning curves", blocks=(nothing,))
    pictures = drawn(*(partial(tag_picture, "learning", *each) for each in shown))
    rows = [
        (label, place, meaning(tag), f"{curve.x[-1]:,}", cell(curve.intervals[-1]), _over(curve))
        for place, tag, curves in shown
        for label, curve in curves.items()
    ]
    header = ("experiment", "family", "measured", "at step", "score", "over")
    caption = "The last points of the curves, [95% interval] where there are several runs"
    table = Table(caption=caption, header=header, rows=tuple(rows))
    text = Text(text=_learning_text(groups, direction(_runs(groups))))
    return Section(title="Learning curves", blocks=(text, *pictures, table))


def adaptation_section(groups: Sequence[Group], seed: int) -> Section:
    """Return the score after 0, 1, ... steps of adaptation: pictures and tables.

    What was measured in other ways, or on other tasks, is not drawn together.
    """
    shown = [
        (f"{place}, {source}", part, curves)
        for place, members in arenas(groups).items()
        for source, part in _by_source(members).items()
        if (curves := adaptation_curves(part, seed))
    ]
    if not shown:
        nothing = Text(text="No run has a score after adaptation; `mtrl evaluate` measures it.")
        return Section(title="Adaptation", blocks=(nothing,))
    pictures = [
        partial(_adaptation_picture, name, {**curves, **_anchors(part)}, direction(_runs(part)))
        for name, part, curves in shown
    ]
    tables = [_adaptation_table(name, part, curves) for name, part, curves in shown]
    text = Text(text=_adaptation_text(groups))
    return Section(title="Adaptation", blocks=(text, *drawn(*pictures), *tables))


def tag_pictures(groups: Sequence[Group], seed: int) -> list[partial[Picture]]:
    """Return what draws every curve that is not of a score on held-out tasks."""
    return [
        partial(tag_picture, "curve", place, tag, curves)
        for place, members in arenas(groups).items()
        for tag in sorted({tag for run in _runs(members) for tag in run.metrics})
        if not (AFTER.fullmatch(tag) or tag in _EVALUATIONS or task_pattern(tag))
        and (curves := _curves_of(members, tag, seed))
    ]


def _runs(groups: Sequence[Group]) -> list[RunRecord]:
    return [run for group in groups for run in group.runs]


def _curves_of(groups: Sequence[Group], tag: str, seed: int) -> dict[str, Curve]:
    found = {group.label: tag_curve(group, tag, seed) for group in groups}
    return {label: curve for label, curve in found.items() if curve is not None}


def tag_picture(name: str, place: str, tag: str, curves: dict[str, Curve]) -> Picture:
    last = ", ".join(
        f"{label} ends at {cell(curve.intervals[-1])}" for label, curve in curves.items()
    )
    figure = curves_figure(curves, xlabel="step", ylabel=unit_of(tag), title=meaning(tag))
    alt = f"Curve of {tag} over training on {place}: {last}."
    return svg_picture(figure, f"{name}-{place}-{tag}", alt, caption=place)


def _by_source(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups that were evaluated, and those that were only measured during training."""
    sources: dict[str, list[Group]] = {"evaluated": [], "as logged in training": []}
    for group in groups:
        logged = shared_scores(group) is None
        sources["as logged in training" if logged else "evaluated"].append(group)
    return sources


def _adaptation_picture(name: str, curves: dict[str, Curve], ylabel: str) -> Picture:
    figure = curves_figure(curves, xlabel="adaptation steps", ylabel=ylabel)
    ends = ", ".join(
        f"{label} from {cell(curve.intervals[0])} to {cell(curve.intervals[-1])}"
        for label, curve in curves.items()
    )
    alt = f"Score against adaptation steps, {name}: {ends}."
    return svg_picture(figure, f"adaptation-{name}", alt, caption=name)


def _adaptation_table(name: str, groups: Sequence[Group], curves: dict[str, Curve]) -> Table:
    lines = {**curves, **_anchors(groups)}
    steps = sorted({k for curve in lines.values() for k in curve.x})
    rows = [(label, *_cells(curve, steps), curve.over or "none") for label, curve in lines.items()]
    return Table(
        caption=f"{name}: {_summed(groups)}{direction(_runs(groups))}, [95% interval]",
        header=("experiment", *map(after, steps), "interval over"),
        rows=tuple(rows),
    )


def _summed(groups: Sequence[Group]) -> str:
    if any(shared_scores(group) is None for group in groups):
        return ""
    return "interquartile mean of the " if statistic_of(groups) == "iqm" else "mean of the "


def _anchors(groups: Sequence[Group]) -> dict[str, Curve]:
    """Return what needs no learner, such as the best possible, if there is one task set to be best on."""
    evaluations = [
        run.evaluation for group in groups for run in group.runs if run.evaluation is not None
    ]
    if len({each.tasks for each in evaluations}) != 1:
        return {}
    curves = {}
    for name, scores in evaluations[0].anchors.items():
        means = [float(mean) for mean in scores.mean(0)]
        points = tuple(Interval(estimate=mean, low=np.nan, high=np.nan) for mean in means)
        curves[name] = Curve(x=tuple(range(len(points))), intervals=points)
    return curves


def _cells(curve: Curve, steps: Sequence[int]) -> list[str]:
    found = dict(zip(curve.x, map(cell, curve.intervals), strict=True))
    return [found.get(k, NONE) for k in steps]


def _over(curve: Curve) -> str:
    return curve.over or "1 run"


def _learning_text(groups: Sequence[Group], score: str) -> str:
    text = "What evaluations during training gave, against the step"
    if score == "score":
        text += ": the mean and the worst return over the run's own tasks."
    else:
        text += f": the {score} on held-out tasks."
    if any(len(group.runs) > 1 for group in groups):
        text += (
            " Where an experiment has several runs, its curve is their interquartile mean (below "
            "four runs the mean) with its 95% bootstrap interval, over the steps that all have."
        )
    return text


def _adaptation_text(groups: Sequence[Group]) -> str:
    text = (
        "Evaluations are summed up by the interquartile mean over runs and unseen tasks where each "
        "experiment has several runs, else by the mean. Intervals are 95% bootstrap intervals: over "
        "runs within each task where there are several, else over tasks."
    )
    if all(shared_scores(group) is not None for group in groups):
        return text
    return (
        f"{text} Where no evaluation was made there are the last scores that training logged; "
        "`mtrl evaluate` measures more tasks, with intervals."
    )
