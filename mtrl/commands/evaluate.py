"""`mtrl evaluate`: how a run adapts to unseen tasks, alone or against another run."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from mtrl.commands.parsing import parse
from mtrl.config import check_positive
from mtrl.durable import replace_file
from mtrl.envs.task import Task, split_digest
from mtrl.errors import MissingExtraError, UsageError
from mtrl.evaluation.report import adaptation_table, draw_curves, paired_rows, write_scores
from mtrl.evaluation.trained import (
    EvaluationSettings,
    Scores,
    TrainedRun,
    anchor_scores,
    load_run,
)
from mtrl.manifest import read_manifest
from mtrl.runs import MANIFEST
from mtrl.versions import library_versions

__all__ = ["TASK_BY_TASK", "EvaluateOptions", "run", "task_evaluation"]

TASK_BY_TASK = ("multitask", "incremental")
"""Kinds of run whose agents do not adapt."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure how a run adapts to unseen tasks, from its newest good checkpoint.

    Prints the mean score over tasks before and after each adaptation step with its 95 % bootstrap
    interval, and writes evaluation.csv (every single score), evaluation.json (how it was measured)
    and evaluation.png (the curves).

    Of a multitask run it prints the mean return on each of its training tasks, over --episodes of each
    (100 if left out), and writes evaluation.csv. Of an incremental run it prints the performance matrix and
    its measures too.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUNDIR")]
    """Run directory."""
    against: Path | None = None
    """Run directory to compare with, pair by pair, on identical tasks and noise."""
    settings: Annotated[EvaluationSettings, tyro.conf.arg(name="")] = field(
        default_factory=EvaluationSettings
    )
    output: Path | None = None
    """Where to write the files; the run directory if left out."""
    threads: int = 1
    """CPU threads of torch."""

    def __post_init__(self) -> None:
        check_positive(self, "threads")


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(EvaluateOptions, arguments, command="mtrl evaluate")
    torch.set_num_threads(options.threads)
    kind = _kind(options.run)
    if kind in TASK_BY_TASK:
        _evaluate_tasks(options, kind)
        return
    runs = [load_run(options.run)]
    if options.against is not None:
        other = _kind(options.against)
        if other in TASK_BY_TASK:
            raise UsageError(f"{options.against} is a {other} run, and {options.run} is not")
        runs.append(load_run(options.against))
        _check_comparable(*runs)
    first = runs[0]
    # Settled once, so that a second run is measured as the first is.
    settings = first.complete(options.settings)
    tasks = first.unseen_tasks(settings)
    names = _names(runs)
    learners = {name: each.scores(tasks, settings) for name, each in zip(names, runs, strict=True)}
    scores = learners | anchor_scores(first.family, tasks, settings.steps or 0)
    print(_describe(runs, settings), adaptation_table(scores, settings.seed), sep="\n\n")
    if len(names) == 2:
        print("", paired_rows(names[0], names[1], learners, settings.seed), sep="\n")
    _write(options.output or options.run, runs, settings, tasks, scores)


def _kind(directory: Path) -> str:
    """Return the kind of the run in `directory`; empty if it holds none."""
    manifest = directory / MANIFEST
    return str(read_manifest(manifest)["kind"]) if manifest.exists() else ""


def _evaluate_tasks(options: EvaluateOptions, kind: str) -> None:
    settings = options.settings
    given = {"against": options.against, "steps": settings.steps, "shots": settings.shots}
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"--{name} is for runs that adapt, and {options.run} is a run of the kind {kind}"
            )
    task_evaluation(kind)(
        options.run,
        episodes=settings.episodes,
        seed=settings.seed,
        device=settings.device,
        output=options.output,
    )


def task_evaluation(kind: str) -> Callable[..., None]:
    """Return what prints the scores of a run of a kind in `TASK_BY_TASK`, and writes them."""
    # Stable-Baselines3 takes seconds to import, and other runs do without it.
    if kind == "multitask":
        from mtrl.commands.multitask import evaluate_multitask

        return evaluate_multitask
    from mtrl.commands.incremental import evaluate_incremental

    return evaluate_incremental


def _check_comparable(first: TrainedRun, second: TrainedRun) -> None:
    if first.directory.resolve() == second.directory.resolve():
        raise UsageError(f"--against {second.directory} is the same run; name another")
    one, other = first.task_setting, second.task_setting
    if one != other:
        raise UsageError(
            f"{first.directory} and {second.directory} were trained on different tasks, "
            f"{one} and {other}: compare runs that agree in these"
        )


def _names(runs: Sequence[TrainedRun]) -> list[str]:
    """Return what to call the runs: their learners, and their directories if these agree."""
    names = [run.config.learner.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({run.directory})" for name, run in zip(names, runs, strict=True)]


def _describe(runs: Sequence[TrainedRun], settings: EvaluationSettings) -> str:
    first = runs[0]
    amount = (
        f"{settings.shots} shots"
        if settings.episodes is None
        else f"{settings.episodes} episodes per task and step"
    )
    trained = ", ".join(f"{run.directory} ({run.iteration} iterations)" for run in runs)
    family, preset = first.task_setting["family"], first.task_setting["preset"]
    return (
        f"{trained}\n{family} ({preset}), {settings.tasks} {first.tasks_name}, {amount}, "
        f"seed {settings.seed}\n"
        f"{first.score_name}, mean over tasks [95% interval]"
    )


def _write(
    folder: Path,
    runs: Sequence[TrainedRun],
    settings: EvaluationSettings,
    tasks: Sequence[Task],
    scores: dict[str, Scores],
) -> None:
    write_scores(folder / "evaluation.csv", scores, tasks)
    facts = {
        "command": shlex.join(sys.argv),
        "runs": [{"directory": str(run.directory), "iteration": run.iteration} for run in runs],
        "tasks": runs[0].task_setting | {"digest": split_digest(tasks)},
        "settings": asdict(settings),
        "versions": library_versions(),
    }
    replace_file(folder / "evaluation.json", json.dumps(facts, indent=2).encode() + b"\n")
    written = "evaluation.csv, evaluation.json"
    try:
        draw_curves(
            folder / "evaluation.png",
            scores,
            settings.seed,
            title=f"{runs[0].task_setting['family']}, unseen tasks",
            ylabel=runs[0].score_name,
        )
        written += ", evaluation.png"
    except MissingExtraError as error:
        print(f"no picture: {error}", file=sys.stderr)
    print(f"\nwritten to {folder}: {written}", file=sys.stderr)
