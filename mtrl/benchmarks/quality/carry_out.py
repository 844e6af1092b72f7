"""Carry out a comparison: train what is not trained yet, test what is not tested yet, write the files."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from mtrl.benchmarks.quality.learners import default_settings
from mtrl.benchmarks.quality.page import render_page
from mtrl.benchmarks.quality.picture import Curves, draw_figure
from mtrl.benchmarks.quality.plan import Entry, QualitySettings, entries_of, family_settings
from mtrl.benchmarks.quality.scores import (
    FamilyScores,
    LearnerScores,
    to_csv,
    to_json,
    with_worst_for_diverged,
)
from mtrl.benchmarks.quality.summary import FamilySummary, summarise
from mtrl.benchmarks.quality.testing import tested
from mtrl.benchmarks.quality.trainings import training_curve, training_of
from mtrl.durable import replace_file, reporting
from mtrl.figures import save
from mtrl.meta.baselines import FineTune
from mtrl.meta.supervised import SupervisedConfig
from mtrl.reproduce.carry_out import require_figures
from mtrl.reproduce.page import Part, Record
from mtrl.reproduce.provenance import commit
from mtrl.reproduce.trainings import Training, cpu_count, train_all
from mtrl.versions import library_versions

__all__ = ["QualityPlace", "Written", "compare_quality"]


@dataclass(frozen=True, kw_only=True)
class QualityPlace:
    """Where a comparison is carried out.

    Attributes:
        work: folder of the run directories.
        output: folder of the files.
        name: of the files.
        processes: trainings at a time.
        quick: whether it is scaled down.
        command: what makes the same page.
    """

    work: Path = Path("runs/benchmark-quality")
    output: Path = Path("docs/results")
    name: str = "benchmark-quality"
    processes: int = field(default_factory=cpu_count)
    quick: bool = False
    command: str

    @property
    def stem(self) -> str:
        """Of the files: quick ones never replace full ones."""
        return f"{self.name}-quick" if self.quick else self.name

    def file(self, suffix: str) -> Path:
        """Return one of the files to write."""
        return self.output / f"{self.stem}.{suffix}"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a comparison wrote, and its page's text."""

    page: Path
    table: Path
    scores: Path
    figure: Path
    text: str


@dataclass(frozen=True, kw_only=True)
class _Work:
    """The entries, and by their name the trainings of those that are trained."""

    entries: Sequence[Entry]
    trainings: Mapping[str, Training]

    def of(self, family: str, learner: str) -> list[Entry]:
        return [each for each in self.entries if (each.family, each.learner) == (family, learner)]


def compare_quality(settings: QualitySettings, place: QualityPlace) -> Written:
    """Train, test, and write `<name>.md`, `.csv`, `.json` and `.png`.

    Interrupted at any instant and called again, it continues: trainings are resumed from their run directories,
    and what is finished is not repeated.

    Raises:
        UsageError: settings cannot be carried out.
        Interrupted: asked to stop by a signal; everything up to then is saved.
        MtrlError: a training failed, or a file is damaged; the message names it.
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    clock, revision = time.monotonic(), commit()
    entries = entries_of(settings, quick=place.quick)
    code = {**library_versions(), "commit": revision}
    needed = {entry.name: training_of(entry, place.work, code) for entry in entries}
    work = _Work(entries=entries, trainings={k: v for k, v in needed.items() if v is not None})
    distinct = list({each.directory: each for each in work.trainings.values()}.values())
    found = {each.directory for each in distinct if each.finished}
    train_all(distinct, place.processes)
    trained = time.monotonic()
    families = [_family(work, settings, name, place.work) for name in settings.family_names]
    summaries = [summarise(each, settings.reference, settings.seed) for each in families]
    record = Record(
        name=place.name,
        stem=place.stem,
        quick=place.quick,
        command=place.command,
        commit=revision,
        versions=library_versions(),
        cpus=cpu_count(),
        total_seconds=time.monotonic() - clock,
        processes=place.processes,
        parts=[Part(each.name, each.seconds, each.directory in found) for each in distinct],
        test_seconds=time.monotonic() - trained,
    )
    return _write(settings, place, work, summaries, record)


def _family(work: _Work, settings: QualitySettings, name: str, folder: Path) -> FamilyScores:
    """Test all learners of a family on the same tasks."""
    found: dict[str, LearnerScores] = {}
    tasks: list[str] = []
    supervised = isinstance(default_settings(name), SupervisedConfig)
    for learner in settings.learner_names:
        entries = work.of(name, learner)
        if not entries:
            continue
        runs = [tested(entry, work.trainings.get(entry.name), folder) for entry in entries]
        tasks = [task.id for task in runs[0].tasks]
        found[learner] = LearnerScores(
            values=np.stack([run.scores for run in runs]),
            seen=entries[0].experience,
            trained=[_trained(work, entry) for entry in entries],
            searches=[run.search for run in runs if run.search is not None],
        )
    scores = {learner: each.values for learner, each in found.items()}
    filled, diverged = with_worst_for_diverged(scores, "lower" if supervised else "higher")
    return FamilyScores(
        family=name,
        score="error" if supervised else "return",
        tasks=tasks,
        seeds=list(settings.all_seeds),
        learners={
            learner: replace(each, values=filled[learner], diverged=diverged[learner])
            for learner, each in found.items()
        },
    )


def _trained(work: _Work, entry: Entry) -> int:
    """Return what an entry's training took: environment steps, or meta-iterations where there are none."""
    training = work.trainings.get(entry.name)
    return 0 if training is None else int(training_curve(training).done[-1])


def _curves(work: _Work, settings: QualitySettings, family: str) -> Curves:
    """Return curves over training of the learners that are tested as they were measured while they trained.

    What fine-tuning logged is with another step size than the one that is chosen for it in the end.
    """
    found = {}
    for learner in settings.learner_names:
        trained = [
            work.trainings[each.name]
            for each in work.of(family, learner)
            if each.name in work.trainings
            and not isinstance(each.contender.config.learner, FineTune)
        ]
        if trained:
            found[learner] = [training_curve(training) for training in trained]
    return found


def _write(
    settings: QualitySettings,
    place: QualityPlace,
    work: _Work,
    summaries: Sequence[FamilySummary],
    record: Record,
) -> Written:
    families = [summary.family for summary in summaries]
    bases = {
        name: family_settings(settings, name, quick=place.quick) for name in settings.family_names
    }
    curves = {name: _curves(work, settings, name) for name in settings.family_names}
    text = render_page(settings, summaries, bases, work.entries, record)
    facts = {
        "command": record.command,
        "commit": record.commit,
        "versions": record.versions,
        "settings": asdict(replace(settings, configs={})),
    }
    with reporting("write", place.output):
        place.output.mkdir(parents=True, exist_ok=True)
    replace_file(place.file("csv"), to_csv(families).encode())
    replace_file(place.file("json"), to_json(families, facts).encode())
    with reporting("write", place.file("png")):
        save(draw_figure(summaries, curves), place.file("png"))
    # Last: a page that is there shows what the files beside it hold.
    replace_file(place.file("md"), text.encode())
    return Written(
        page=place.file("md"),
        table=place.file("csv"),
        scores=place.file("json"),
        figure=place.file("png"),
        text=text,
    )
