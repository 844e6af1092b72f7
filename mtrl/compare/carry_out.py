"""Carry out a comparison: train what is not trained yet, take the scores together, write the files."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtrl.compare.page import Effort, Facts, render_page, render_scores
from mtrl.compare.picture import draw_figure
from mtrl.compare.plan import Kind, Plan
from mtrl.compare.processes import train_all
from mtrl.compare.references import references_of, with_references
from mtrl.compare.results import Summary, summarise
from mtrl.compare.trainings import Scores, Training, trainings_of
from mtrl.config import differing_fields, from_toml, to_dict, to_toml
from mtrl.durable import replace_file, reporting
from mtrl.errors import UsageError
from mtrl.figures import save
from mtrl.meta.task_source import read_tasks
from mtrl.multitask.config import MultiTaskConfig
from mtrl.multitask.tasks import multitask_family, task_names, train_tasks
from mtrl.reproduce.carry_out import require_figures
from mtrl.reproduce.provenance import commit
from mtrl.reproduce.trainings import cpu_count

__all__ = ["Place", "Written", "compare", "plan_of"]

CONFIG = "config.toml"
TASKS = "tasks.jsonl"
REGRET = "regret.toml"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a comparison is carried out.

    Attributes:
        directory: of the comparison; trainings of all tasks lie in it.
        specialists: folder of the specialists; a folder in the directory if left out.
        output: folder of the page, the scores and the figure; the directory if left out.
        name: of these three.
        processes: trainings at a time.
        command: what makes the same page.
    """

    directory: Path
    specialists: Path | None = None
    output: Path | None = None
    name: str = "compare"
    processes: int = field(default_factory=cpu_count)
    command: str

    @property
    def specialist_folder(self) -> Path:
        """Return the folder of the specialists."""
        return self.specialists or self.directory / "specialists"

    def file(self, suffix: str) -> Path:
        """Return one of the three files."""
        return (self.output or self.directory) / f"{self.name}.{suffix}"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a comparison wrote.

    Attributes:
        page: the page, and its `text`.
        scores: every agent's score on every task by seed.
        figure: the picture.
        regret: settings that train for the worst regret against the specialists, if there are some.
        summary: what the page says.
    """

    page: Path
    text: str
    scores: Path
    figure: Path
    regret: Path | None
    summary: Summary


def plan_of(
    settings: MultiTaskConfig, kinds: tuple[Kind, ...], *, seeds: int, episodes: int
) -> Plan:
    """Return the plan of a comparison, its tasks drawn or read as the settings say.

    Raises:
        UsageError: the settings cannot be carried out.
    """
    tasks = tuple(train_tasks(settings, multitask_family(settings)))
    return Plan(settings=settings, tasks=tasks, kinds=kinds, seeds=seeds, episodes=episodes)


def compare(plan: Plan, place: Place) -> Written:
    """Train, evaluate, and write `<name>.md`, `.csv` and `.png`.

    Interrupted at any instant and called again, it continues: trainings are resumed from their run
    directories, and finished ones are not repeated.

    Raises:
        UsageError: the directory holds a comparison with other settings.
        Interrupted: asked to stop by a signal; everything up to then is saved.
        MtrlError: a training failed, or a file is damaged; the message names it.
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    revision = commit()
    _claim(plan, place.directory)
    trainings = trainings_of(plan, place.directory, place.specialist_folder)
    found = {training.directory for training in trainings if training.scores() is not None}
    clock = time.monotonic()
    train_all(trainings, place.processes, revision)
    facts = Facts(
        command=place.command,
        commit=revision,
        processes=place.processes,
        seconds=time.monotonic() - clock,
        efforts=_efforts(plan, trainings, found),
    )
    return _write(plan, place, trainings, facts)


def _claim(plan: Plan, directory: Path) -> None:
    """Write down the comparison's settings and tasks; those that are there must be the same."""
    config, tasks = directory / CONFIG, directory / TASKS
    if config.exists():
        ours, theirs = to_dict(plan.settings), to_dict(from_toml(MultiTaskConfig, config))
        for name in differing_fields(MultiTaskConfig, theirs, ours):
            raise UsageError(
                f"{name} differs from {config}; compare with the stored value "
                "or in another directory"
            )
    if tasks.exists() and tuple(read_tasks(tasks)) != plan.tasks:
        raise UsageError(f"the tasks are not those in {tasks}; compare them in another directory")
    with reporting("write", directory):
        directory.mkdir(parents=True, exist_ok=True)
    replace_file(tasks, "".join(f"{task.to_json()}\n" for task in plan.tasks).encode())
    replace_file(config, to_toml(plan.settings).encode())


def _scores(training: Training) -> Scores:
    scores = training.scores()
    assert scores is not None, "train_all returns when all are finished"
    return scores


def _efforts(plan: Plan, trainings: list[Training], found: set[Path]) -> dict[Kind, Effort]:
    efforts: dict[Kind, Effort] = {}
    for kind in plan.kinds:
        made = [training for training in trainings if training.kind == kind]
        scores = [_scores(training) for training in made]
        efforts[kind] = Effort(
            trainings=len(made),
            found=sum(training.directory in found for training in made),
            steps=sum(each.steps for each in scores),
            seconds=sum(each.seconds for each in scores),
            commits=sorted({each.commit for each in scores}),
        )
    return efforts


def _table(plan: Plan, trainings: list[Training], kind: Kind) -> NDArray[np.float64]:
    """Return mean returns (seeds, tasks) of an agent."""
    means = {
        (training.config.seed, task.id): returns.mean()
        for training in trainings
        if training.kind == kind
        for task, returns in zip(training.tasks, _scores(training).returns, strict=True)
    }
    rows = [[means[seed, task.id] for task in plan.tasks] for seed in plan.all_seeds]
    return np.array(rows)


def _write(plan: Plan, place: Place, trainings: list[Training], facts: Facts) -> Written:
    scores: Mapping[Kind, NDArray[np.float64]] = {
        kind: _table(plan, trainings, kind) for kind in plan.kinds
    }
    names = task_names(list(plan.tasks))
    random, regret = None, None
    if "specialists" in plan.kinds:
        references = references_of(plan, trainings)
        random = np.array(references.random)
        regret = place.directory / REGRET
        task_file = (place.directory / TASKS).resolve()
        content = to_toml(with_references(plan.settings, references, task_file))
        replace_file(regret, content.encode())
    summary = summarise(scores, names, random=random)
    text = render_page(plan, summary, facts, figure=place.file("png").name)
    with reporting("write", place.file("md").parent):
        place.file("md").parent.mkdir(parents=True, exist_ok=True)
    replace_file(place.file("csv"), render_scores(plan, scores, random).encode())
    with reporting("write", place.file("png")):
        save(draw_figure(plan, summary), place.file("png"))
    # Last: a page that is there shows what the files beside it hold.
    replace_file(place.file("md"), text.encode())
    return Written(
        page=place.file("md"),
        text=text,
        scores=place.file("csv"),
        figure=place.file("png"),
        regret=regret,
        summary=summary,
    )
