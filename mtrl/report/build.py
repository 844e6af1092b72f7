"""The whole report of some runs, as data."""

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

from mtrl.report.details import (
    curves_section,
    matrices_section,
    pictures_section,
    step_sizes_section,
    time_section,
)
from mtrl.report.discover import run_names
from mtrl.report.grouping import grouped
from mtrl.report.overview import (
    commands_section,
    overview_section,
    problems_section,
    sessions_section,
    settings_section,
)
from mtrl.report.page import Page, Problems, Section
from mtrl.report.reading import read_run
from mtrl.report.results import adaptation_section, learning_section
from mtrl.report.tasks import tasks_section

__all__ = ["build_report"]

_NO_FIGURES = (
    "figures are left out: they need matplotlib, which "
    'pip install "mtrl-suite[plot]" installs; the tables have the numbers'
)


def build_report(
    directories: Sequence[Path], *, kinds: Collection[str], seed: int = 0, made: str = ""
) -> Page:
    """Return the report of the runs in `directories`.

    The same files, names and seed give the same report.

    Args:
        directories: of the runs, each once.
        kinds: the kinds of run that can be resumed and evaluated here.
        seed: of the bootstrap's resamples.
        made: when the report is made, in words; left out if empty.
    """
    names = run_names(directories)
    runs = [read_run(place, name) for place, name in zip(directories, names, strict=True)]
    groups = grouped(runs)
    sections = (
        overview_section(groups),
        *_without_figures(),
        *problems_section(runs, kinds),
        settings_section(groups),
        learning_section(groups, seed),
        adaptation_section(groups, seed),
        tasks_section(groups, seed),
        *step_sizes_section(groups),
        *pictures_section(groups),
        *matrices_section(groups, seed),
        *curves_section(groups, seed),
        time_section(runs),
        sessions_section(runs),
        commands_section(runs, kinds),
    )
    title = f"Report of {names[0]}" if len(names) == 1 else f"Report of {len(names)} runs"
    return Page(title=f"{title}, made {made}" if made else title, sections=sections)


def _without_figures() -> tuple[Section, ...]:
    if find_spec("matplotlib") is not None:
        return ()
    return (Section(title="Figures", blocks=(Problems(items=(_NO_FIGURES,)),)),)
