"""Carry out the measurements: agreement first, then time and memory, then the files."""

from dataclasses import dataclass
from pathlib import Path

from mtrl.benchmarks.adaptation.agreement import agreements
from mtrl.benchmarks.adaptation.page import Measured, draw_figure, render_page, write_hparams
from mtrl.benchmarks.adaptation.processes import PEERS
from mtrl.benchmarks.adaptation.settings import (
    AdaptationSettings,
    memory_problems_of,
    problems_of,
)
from mtrl.benchmarks.adaptation.timing import (
    measure_limits,
    measure_memory,
    measure_navigation,
    measure_problem,
    split_of,
)
from mtrl.benchmarks.report import csv_text
from mtrl.durable import replace_file, reporting
from mtrl.errors import MtrlError
from mtrl.figures import save
from mtrl.progress import Progress
from mtrl.reproduce.carry_out import require_figures

__all__ = ["Files", "Output", "measure_adaptation"]


@dataclass(frozen=True)
class Files:
    """Where the page and what belongs to it are written."""

    folder: Path
    name: str = "benchmark"


@dataclass(frozen=True, kw_only=True)
class Output:
    """What was measured: the page's text, and the files if a folder was given."""

    text: str
    files: tuple[Path, ...] = ()


def measure_adaptation(
    settings: AdaptationSettings, command: str, files: Files | None = None
) -> Output:
    """Check that all compute the same, then measure, and write page, table, figure and `tensorboard/`.

    Args:
        settings: what is measured.
        command: what makes the same page.
        files: None writes none.

    Raises:
        MtrlError: results disagree, and nothing was timed; or a peer that is installed does not run.
        MissingExtraError: there are files, and matplotlib is not installed.
    """
    if files is not None:
        require_figures()
    measured = _measure(settings)
    text = render_page(measured, settings, command, files.name if files else "benchmark")
    return Output(text=text, files=_write(files, measured, settings, text) if files else ())


def _measure(settings: AdaptationSettings) -> Measured:
    problems = problems_of(settings)
    sizes = memory_problems_of(settings) if settings.memory else []
    rows, splits, limits, memory = [], [], [], []
    total = 1 + len(problems) + len(sizes) + settings.navigation
    with Progress(total, label="measurements") as progress:
        checked = agreements(settings)
        wrong = [str(each) for each in checked if not each.holds]
        if wrong:
            raise MtrlError(f"results disagree, and nothing is timed: {'; '.join(wrong)}")
        progress.advance()
        for problem in problems:
            times = measure_problem(problem, settings)
            rows += times
            splits.append(split_of(problem, settings))
            limits += measure_limits(problem, times, settings)
            progress.advance()
        for problem in sizes:
            memory += measure_memory(problem, settings)
            progress.advance()
        if settings.navigation:
            more, split = measure_navigation(settings)
            rows += more
            splits.append(split)
            progress.advance()
    return Measured(
        agreements=checked,
        rows=rows,
        splits=splits,
        limits=limits,
        memory=memory,
        missing=[n for n in settings.peer_names if not PEERS[n].is_there(settings.peer_folder)],
    )


def _write(
    files: Files, measured: Measured, settings: AdaptationSettings, text: str
) -> tuple[Path, ...]:
    folder = files.folder
    page, table, picture = (folder / f"{files.name}.{suffix}" for suffix in ("md", "csv", "png"))
    events = folder / "tensorboard" / files.name
    with reporting("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_file(table, csv_text(measured.rows).encode())
    figure = draw_figure(measured)
    if figure is not None:
        with reporting("write", picture):
            save(figure, picture)
    write_hparams(events, measured, settings)
    # Last: a page that is there shows what the files beside it hold.
    replace_file(page, text.encode())
    return (page, table, *([picture] if figure is not None else []), events)
