"""The page of the measurements in Markdown, the figure, and TensorBoard's table of settings."""

import os
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtrl.benchmarks.adaptation.settings import AdaptationSettings
from mtrl.benchmarks.adaptation.timing import Memory, Split
from mtrl.benchmarks.report import Agreement, Row, table
from mtrl.config import to_dict
from mtrl.figure_style import MARKERS, PALETTE, dress, legend_below, new_figure
from mtrl.reproduce.page import bullets, markdown_table
from mtrl.tracking import Tracker
from mtrl.versions import library_versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Measured", "draw_figure", "render_page", "write_hparams"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that was measured.

    Attributes:
        agreements: of results.
        rows: time of every variant of every work.
        splits: what our meta-iterations' time goes into.
        memory: of meta-steps.
        missing: peers that are not installed.
    """

    agreements: Sequence[Agreement]
    rows: Sequence[Row] = ()
    splits: Sequence[Split] = ()
    memory: Sequence[Memory] = ()
    missing: Sequence[str] = ()


def render_page(measured: Measured, settings: AdaptationSettings, command: str) -> str:
    """Return the page, which shows the figure `benchmark.png` beside it."""
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    clock = "wall" if settings.by_wall else "processor"
    sections = [
        "# Adaptation speed",
        (
            f"Made by `{command}` with {versions}, on {settings.threads} thread(s) of a machine with "
            f"{os.cpu_count()} cores, device {settings.device}, {settings.precision}. `benchmark.csv` has every "
            "turn. `docs/benchmarks.md` says what is measured and how."
        ),
        "![Adaptations per second by number of tasks](benchmark.png)" * bool(_panels(measured)),
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


def _panels(measured: Measured) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return by work without its number of tasks, by variant: adaptations per second at numbers of tasks."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in measured.rows:
        if row.tasks is None or row.rate is None or ", " not in row.work:
            continue
        title, tasks = re.sub(r", \d+ tasks", "", row.work), re.search(r"(\d+) tasks", row.work)
        if tasks is not None:
            variants = panels.setdefault(title, {})
            variants.setdefault(row.variant, []).append((int(tasks[1]), row.rate))
    return panels


def draw_figure(measured: Measured) -> "Figure | None":
    """Return adaptations per second against the number of tasks, a panel a work; None if there is none."""
    panels = _panels(measured)
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(1.0 + 3.6 * columns, 0.9 + 3.0 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in grid[len(panels) :]:
        unused.set_visible(False)
    for axes, (title, variants) in zip(grid, panels.items(), strict=False):
        for i, (name, points) in enumerate(variants.items()):
            x, y = zip(*sorted(points), strict=True)
            colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
            axes.plot(x, y, color=colour, marker=marker, ms=5, lw=1.6, label=name)
        axes.set(xscale="log", yscale="log")
        dress(axes, title=title, xlabel="tasks in a step", ylabel="adaptations per second")
    legend_below(figure, max(grid[: len(panels)], key=lambda axes: len(axes.lines)))
    return figure


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
        shared = ("device", "precision", "threads", "shots")
        told = {name: value for name, value in to_dict(settings).items() if name in shared}
        tracker = Tracker(folder / f"{number:03}-{slug}"[:120])
        tracker.hparams({"work": row.work, "variant": row.variant, **told}, metrics)
        tracker.scalars(0, metrics)
        tracker.close()
