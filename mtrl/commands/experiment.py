"""Train, then evaluate: what each `scripts/train_<family>.py` does with settings of its own."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mtrl.commands.evaluate import TASK_BY_TASK, task_evaluation
from mtrl.commands.train import parse_training
from mtrl.errors import guarded
from mtrl.evaluation.report import adaptation_table, paired_rows
from mtrl.evaluation.trained import EvaluationSettings, anchor_scores, load_run
from mtrl.meta.kinds import get_kind
from mtrl.runs import Run

__all__ = ["experiment"]

UNADAPTED = "no adaptation"


def experiment(kind: str, defaults: Any, arguments: Sequence[str] | None = None) -> int:
    """Train with `defaults` where options do not say otherwise, and print what was learnt.

    Args:
        kind: of the run, as after `mtrl train`.
        defaults: the settings, of the kind's configuration.
        arguments: options of `mtrl train`; by default those of the process.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return guarded(lambda: _train_and_evaluate(kind, defaults, given))


def _train_and_evaluate(kind_name: str, defaults: Any, arguments: Sequence[str]) -> None:
    kind = get_kind(kind_name)
    command = Path(sys.argv[0]).name
    options = parse_training(kind, arguments, command, defaults=defaults)
    torch.set_num_threads(options.threads)
    kind.check(options.settings)
    with Run.open(options.directory, config=options.settings, kind=kind.name) as run:
        kind.train(options.settings, run)
    if kind.name in TASK_BY_TASK:
        task_evaluation(kind.name)(options.directory, device=options.settings.device)
    else:
        _print_adaptation(options.directory, options.settings)


def _print_adaptation(directory: Path, config: Any) -> None:
    trained = load_run(directory)
    settings = trained.complete(EvaluationSettings(tasks=100, device=config.device))
    tasks = trained.unseen_tasks(settings)
    name = config.learner.name
    scores = {name: trained.scores(tasks, settings)}
    # A trial of one episode has nothing to forget after it.
    if settings.steps is not None:
        scores[UNADAPTED] = trained.scores(tasks, settings, adapting=False)
    anchors = anchor_scores(trained.family, tasks, settings.steps or 0)
    print(f"{trained.score_name} on {settings.tasks} {trained.tasks_name}, mean [95% interval]")
    print(adaptation_table(scores | anchors, settings.seed))
    if UNADAPTED in scores:
        print("", paired_rows(name, UNADAPTED, scores, settings.seed), sep="\n")
