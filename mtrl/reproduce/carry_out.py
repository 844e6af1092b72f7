"""Carry out a reproduction: train, test all learners on identical tasks and noise, write the page."""

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtrl.durable import replace_file, reporting
from mtrl.errors import MissingExtraError, MtrlError
from mtrl.evaluation.statistics import interval, paired_difference
from mtrl.evaluation.trained import TrainedRun, anchor_scores, load_run
from mtrl.figures import save
from mtrl.reproduce.experiment import UNADAPTED, Experiment
from mtrl.reproduce.page import (
    Cell,
    Part,
    Record,
    Results,
    draw_figure,
    render_page,
    render_scores,
)
from mtrl.reproduce.provenance import commit
from mtrl.reproduce.trainings import Training, cpu_count, train_all
from mtrl.seeding import numpy_generator
from mtrl.versions import library_versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Outcome", "Place", "carry_out", "record_of", "require_figures", "write_files"]

# Of ten thousand errors, more resamples move the bounds by less than the digits that are shown.
RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which reproduction runs where; see `Reproduction.run`."""

    name: str
    output: Path
    work: Path
    quick: bool
    seed: int
    processes: int = field(default_factory=cpu_count)

    @property
    def stem(self) -> str:
        """Of the files: quick ones never replace full ones."""
        return f"{self.name}-quick" if self.quick else self.name

    @property
    def command(self) -> str:
        """What makes the same page."""
        options = " --quick" * self.quick + f" --seed {self.seed}" * (self.seed != 0)
        return f"mtrl reproduce {self.name}{options}"

    def file(self, suffix: str) -> Path:
        """Return one of the files to write."""
        return self.output / f"{self.stem}.{suffix}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a reproduction wrote: the page and its text, all numbers as CSV, the figure.

    Attributes:
        met: whether all targets are met; None in a quick run, which is not judged.
    """

    page: Path
    scores: Path
    figure: Path
    text: str
    met: bool | None


def carry_out(experiment: Experiment, place: Place) -> Outcome:
    """Train what is not trained yet, test, and write the three files; see `Reproduction.run`."""
    require_figures()
    clock = time.monotonic()
    # Now, not at the end: this is the code that trains.
    revision = commit()
    trainings = _trainings(experiment, place, {**library_versions(), "commit": revision})
    found = {key for key, training in trainings.items() if training.finished}
    train_all(list(trainings.values()), place.processes)
    trained = time.monotonic()
    runs = {key: load_run(training.directory) for key, training in trainings.items()}
    results = measure(experiment, runs, place.seed)
    record = replace(
        record_of(place, revision, time.monotonic() - clock),
        processes=place.processes,
        parts=[
            Part(training.name, training.seconds, key in found)
            for key, training in trainings.items()
        ],
        test_seconds=time.monotonic() - trained,
    )
    return write_files(
        place,
        render_page(experiment, results, record),
        render_scores(experiment, results, record),
        lambda: draw_figure(experiment, results, record),
        None if place.quick else all(results.met(experiment)),
    )


def require_figures() -> None:
    """Raise MissingExtraError if there is nothing to draw with: before minutes of work, not after."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError('figures need matplotlib: pip install "mtrl-suite[plot]"')


def record_of(place: Place, revision: str, seconds: float) -> Record:
    """Return how a page was made that took `seconds` with the code of commit `revision`."""
    return Record(
        name=place.name,
        stem=place.stem,
        quick=place.quick,
        command=place.command,
        commit=revision,
        versions=library_versions(),
        cpus=cpu_count(),
        total_seconds=seconds,
    )


def write_files(
    place: Place, text: str, scores: str, draw: Callable[[], "Figure"], met: bool | None
) -> Outcome:
    """Write the page's text, the scores and the figure, and say where they are."""
    with reporting("write", place.output):
        place.output.mkdir(parents=True, exist_ok=True)
    replace_file(place.file("csv"), scores.encode())
    with reporting("write", place.file("png")):
        save(draw(), place.file("png"))
    # Last: a page that is there shows what the files beside it hold.
    replace_file(place.file("md"), text.encode())
    return Outcome(
        page=place.file("md"),
        scores=place.file("csv"),
        figure=place.file("png"),
        text=text,
        met=met,
    )


def _trainings(
    experiment: Experiment, place: Place, code: Mapping[str, str]
) -> dict[tuple[str, str], Training]:
    folder = place.work / f"reproduce-{place.stem}"
    return {
        (row, learner): Training(name=f"{learner}, {row}", config=config, folder=folder, code=code)
        for row, learners in experiment.trainings.items()
        for learner, config in learners.items()
    }


def measure(
    experiment: Experiment, runs: Mapping[tuple[str, str], TrainedRun], seed: int
) -> Results:
    """Test every run as the columns say; the same tasks and noise for all learners and rows."""
    cells, anchors = [], {}
    for row, learners in experiment.trainings.items():
        scores = {name: _scores(experiment, runs[row, name], seed) for name in learners}
        if experiment.against_unadapted:
            target = runs[row, experiment.target]
            scores[UNADAPTED] = _scores(experiment, target, seed, adapting=False)
        cells += [_cell(experiment, row, column, scores, seed) for column in experiment.columns]
        anchors[row] = _anchors(experiment, next(runs[row, name] for name in learners), seed)
    return Results(
        cells=cells,
        anchors={row: found for row, found in anchors.items() if found},
        tasks_name=next(iter(runs.values())).tasks_name,
    )


def _scores(
    experiment: Experiment, run: TrainedRun, seed: int, *, adapting: bool = True
) -> dict[str, NDArray[np.float64]]:
    """Return the score of every task (tasks,) by column."""
    # Columns that differ by the number of steps only are points of one curve.
    curves = {}
    for column in experiment.columns.values():
        if column.settings not in curves:
            settings = replace(column.settings, seed=seed)
            try:
                tasks = run.unseen_tasks(settings)
                curves[column.settings] = run.scores(tasks, settings, adapting=adapting)
            except MtrlError as error:
                raise MtrlError(f"testing the run in {run.directory}: {error}") from error
    return {
        name: curves[column.settings][:, column.steps]
        for name, column in experiment.columns.items()
    }


def _cell(
    experiment: Experiment,
    row: str,
    column: str,
    scores: Mapping[str, Mapping[str, NDArray[np.float64]]],
    seed: int,
) -> Cell:
    rng = numpy_generator(seed, f"bootstrap {row} {column}")
    samples = {name: by_column[column] for name, by_column in scores.items()}
    others = [name for name in samples if name != experiment.target]
    return Cell(
        row=row,
        column=column,
        ours={name: interval(values, rng, resamples=RESAMPLES) for name, values in samples.items()},
        differences={
            name: paired_difference(
                samples[name], samples[experiment.target], rng, resamples=RESAMPLES
            )
            for name in others
        },
        tasks=len(samples[experiment.target]),
    )


def _anchors(experiment: Experiment, run: TrainedRun, seed: int) -> dict[str, float]:
    settings = replace(next(iter(experiment.columns.values())).settings, seed=seed)
    returns = anchor_scores(run.family, run.unseen_tasks(settings), 0)
    return {name: float(values.mean()) for name, values in returns.items()}
