"""The page of the measurements in Markdown, the figure, and TensorBoard's table of settings."""

import os
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtrl.benchmarks.adaptation.limit import Limit
from mtrl.benchmarks.adaptation.settings import AdaptationSettings
from mtrl.benchmarks.adaptation.timing import COMPILED, OURS, OURSELVES, Memory, Split
from mtrl.benchmarks.report import Agreement, Row, table
from mtrl.config import to_dict
from mtrl.figure_style import (
    GREY,
    INK,
    MARKERS,
    MEDIUM,
    PALETTE,
    dress,
    legend_below,
    small_multiples,
)
from mtrl.reproduce.page import bullets, markdown_table
from mtrl.tracking import Tracker
from mtrl.versions import library_versions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Measured", "draw_figure", "render_page", "write_hparams"]


Points = dict[str, list[tuple[int, float]]]
"""By variant: (number of tasks, adaptations per second)."""
Panels = dict[str, Points]
"""By work without its number of tasks."""
Looks = dict[str, tuple[str, str]]
"""By variant: colour and marker."""

SHADES = ("#B8B8B8", "#D9D2C3", "#5B6770")
"""Of our variants beside the two that are always there."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that was measured.

    Attributes:
        agreements: of results.
        rows: time of every variant of every work.
        splits: what our meta-iterations' time goes into.
        limits: how far our meta-steps are from what the machine can do.
        memory: of meta-steps.
        missing: peers that are not installed.
    """

    agreements: Sequence[Agreement]
    rows: Sequence[Row] = ()
    splits: Sequence[Split] = ()
    limits: Sequence[Limit] = ()
    memory: Sequence[Memory] = ()
    missing: Sequence[str] = ()


def render_page(
    measured: Measured, settings: AdaptationSettings, command: str, name: str = "benchmark"
) -> str:
    """Return the page, which shows the figure `<name>.png` beside it."""
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    clock = "wall" if settings.by_wall else "processor"
    sections = [
        "# Adaptation speed",
        (
            f"Made by `{command}` with {versions}, on {settings.threads} thread(s) of a machine with "
            f"{os.cpu_count()} cores, device {settings.device}, {settings.precision}. `{name}.csv` has every "
            "turn. `docs/benchmarks.md` says what is measured and how."
        ),
        f"![Adaptations per second by number of tasks]({name}.png)" * bool(_panels(measured)),
        "## The same results",
        bullets([str(agreement) for agreement in measured.agreements]),
        _missing(measured),
        "## Time",
        (
            f"Medians over turns that alternate; a speed-up is the median of each turn's ratio of {clock} time to "
            'the first row of the same work (lowest to highest). "first s" is the wall time until the first step '
            "was done, compilation included."
        ),
        table(measured.rows),
        *_splits(measured, clock),
        *_limits(measured, clock),
        *_memory(measured),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _missing(measured: Measured) -> str:
    if not measured.missing:
        return ""
    names = " ".join(measured.missing)
    return f"Not installed and left out: {names}. `python scripts/install_peers.py {names}` installs them."


def _splits(measured: Measured, clock: str) -> Iterable[str]:
    if not measured.splits:
        return
    yield "## Where a meta-iteration's time goes"
    yield (
        f"Our own, in milliseconds of {clock} time, medians. Sampling draws tasks and points, or collects the "
        "episodes before and after adaptation; inner is adaptation, with the graph that the outer derivative needs "
        "where there is one; outer is the rest."
    )
    yield markdown_table(
        ["work", "sampling", "inner", "outer"],
        [
            [each.work, *(f"{1e3 * x:,.2f}" for x in (each.sampling, each.inner, each.outer))]
            for each in measured.splits
        ],
    )


def _limits(measured: Measured, clock: str) -> Iterable[str]:
    if not measured.limits:
        return
    yield "## How far from the limit"
    yield (
        "Floating-point operations of the matrix products and convolutions of one of our meta-steps, per second of "
        f"{clock} time, against those of one large matrix product in the same run and precision. All other arithmetic "
        "takes time and is not counted: activations, normalisation, sums, inner steps, Adam."
    )
    yield markdown_table(
        ["work", "variant", "million operations", "10^9 per second", "matrix product", "share"],
        [
            [
                each.work,
                each.variant,
                f"{each.operations / 1e6:,.1f}",
                f"{each.rate / 1e9:,.1f}",
                f"{each.peak / 1e9:,.1f}",
                f"{each.share:.0%}",
            ]
            for each in measured.limits
        ],
    )


def _memory(measured: Measured) -> Iterable[str]:
    if not measured.memory:
        return
    yield "## Memory"
    yield (
        "Growth of resident memory in one meta-step of a fresh process, at its peak, in MiB; on a GPU ours is that "
        "of allocated memory there."
    )
    yield markdown_table(
        ["work", "variant", "inner steps", "tasks", "MiB"],
        [
            [
                each.work,
                each.variant,
                str(each.inner_steps),
                str(each.tasks),
                "-" if each.mib is None else f"{each.mib:,.1f}",
            ]
            for each in measured.memory
        ],
    )


def _panels(measured: Measured) -> Panels:
    panels: Panels = {}
    for row in measured.rows:
        if row.tasks is None or row.rate is None or ", " not in row.work:
            continue
        variants = panels.setdefault(re.sub(r", \d+ tasks", "", row.work), {})
        points = variants.setdefault(row.variant, [])
        # Adapting to one task is the same work beside any number of others: its first measurement is shown.
        if row.tasks not in dict(points):
            points.append((row.tasks, row.rate))
    return panels


def draw_figure(measured: Measured) -> "Figure | None":
    """Return adaptations per second by variant, a panel a work; None if there is none.

    They are drawn against the number of tasks, or as bars where only one number was measured.
    """
    panels = _panels(measured)
    if not panels:
        return None
    figure, grid = small_multiples(len(panels), 4.2, 3.0, per_row=3)
    looks = _looks(panels)
    for axes, (title, variants) in zip(grid, panels.items(), strict=True):
        tasks = sorted({count for points in variants.values() for count, _ in points})
        (_draw_lines if len(tasks) > 1 else _draw_bars)(axes, variants, looks, tasks)
        axes.set_title(title, fontsize=MEDIUM, color=INK)
    legend_below(figure, max(grid, key=lambda axes: len(axes.get_legend_handles_labels()[1])))
    return figure


def _draw_lines(axes: "Axes", variants: Points, looks: Looks, tasks: Sequence[int]) -> None:
    for name, points in variants.items():
        x, y = zip(*sorted(points), strict=True)
        colour, marker = looks[name]
        axes.plot(x, y, color=colour, marker=marker, ms=5, lw=1.6, label=name)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(tasks, list(map(str, tasks)))
    axes.minorticks_off()
    dress(axes, xlabel="tasks in a step", ylabel="adaptations per second")


def _draw_bars(axes: "Axes", variants: Points, looks: Looks, tasks: Sequence[int]) -> None:
    for place, (name, points) in enumerate(variants.items()):
        axes.barh(-place, points[0][1], color=looks[name][0], label=name)
    axes.set_yticks([])
    dress(axes, xlabel=f"adaptations per second, {tasks[0]} task{'s' * (tasks[0] > 1)} in a step")


def _looks(panels: Panels) -> Looks:
    """Return how variants look: the same in all panels, peers in colours and ours in shades."""
    names = dict.fromkeys(name for variants in panels.values() for name in variants)
    peers = [name for name in names if not name.startswith(OURS)]
    others = [name for name in names if name not in (*peers, *OURSELVES)]
    looks = {OURS: (INK, "o"), COMPILED: (GREY, "s")}
    for group, colours in ((peers, PALETTE), (others, SHADES)):
        for i, name in enumerate(group):
            looks[name] = colours[i % len(colours)], MARKERS[i % len(MARKERS)]
    return looks


def write_hparams(folder: Path, measured: Measured, settings: AdaptationSettings) -> None:
    """Write every row as a run of its own into TensorBoard's HPARAMS table below `folder`."""
    for number, row in enumerate(measured.rows):
        seconds = statistics.median(row.wall if row.by_wall else row.cpu)
        metrics = {
            "benchmark/milliseconds": 1e3 * seconds,
            "benchmark/speedup": statistics.median(row.speedups),
        }
        if row.rate is not None:
            metrics["benchmark/adaptations_per_second"] = row.rate
        slug = re.sub(r"[^a-z0-9]+", "-", f"{row.work} {row.variant}".lower()).strip("-")
        shared = ("device", "precision", "threads")
        told = {name: value for name, value in to_dict(settings).items() if name in shared}
        tracker = Tracker(folder / f"{number:03}-{slug}"[:120])
        tracker.hparams({"work": row.work, "variant": row.variant, **told}, metrics)
        tracker.scalars(0, metrics)
        tracker.close()
