"""Search the settings of MAML on 2-D navigation that its paper leaves open, on training tasks.

    python scripts/search_navigation.py --dir runs/search
    python scripts/search_navigation.py --dir runs/search --trials log-std-60 --iterations 300 --later 0.15 0.25

Each trial is a named change of the settings of `mtrl reproduce maml-navigation`. It is meta-trained and then
adapts to tasks of the training split that are its own, never those of the published table. A row per trial,
seed and scale of later steps is appended to `trials.csv`; what is there already is skipped, and a training that
was stopped continues. `docs/results/navigation-search.md` says what came of it.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from mtrl.errors import UsageError, guarded
from mtrl.evaluation.trained import EvaluationSettings, Scores, TrainedRun, load_run
from mtrl.meta.maml import MAML
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.reproduce.navigation import MAML_NAVIGATION_SETTINGS as BASE
from mtrl.reproduce.trainings import Training, train_all
from mtrl.seeding import numpy_generator
from mtrl.versions import library_versions

STEPS = 3
KEY = ("trial", "iterations", "seed", "scale", "decay", "tasks", "episodes")
STATISTICS = ("mean", "median", "p05")


def _trial(
    log_std: float = 1.0, later: float = 0.15, decay: float = 1.0, inner_steps: int = 1
) -> ReinforcementConfig:
    learner = MAML(
        step_size=1.0,
        step_size_by_prefix={"log_std": log_std},
        later_step_scale=later,
        later_step_decay=decay,
        inner_steps=inner_steps,
    )
    return replace(BASE, learner=learner)


TRIALS: dict[str, ReinforcementConfig] = {
    "base": _trial(),
    "two-steps": _trial(inner_steps=2),
    "three-steps": _trial(inner_steps=3),
    "log-std-20-two-steps": _trial(20.0, inner_steps=2),
    "log-std-60": _trial(60.0, later=0.25),
    "log-std-60-two-steps": _trial(60.0, later=0.25, inner_steps=2),
    "log-std-80": _trial(80.0, later=0.35, decay=0.3),
    "log-std-120": _trial(120.0, later=0.25, decay=0.3),
    "log-std-100-two-steps": _trial(100.0, later=0.25, decay=0.4, inner_steps=2),
}
"""What is tried, by name."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to try, and how it is measured."""

    dir: Path
    """Folder for the run directories and trials.csv."""
    trials: tuple[str, ...] = ()
    """Names in TRIALS; all of them if left out."""
    iterations: int = 100
    """Meta-iterations per training."""
    seeds: tuple[int, ...] = (0,)
    """Of the trainings."""
    later: tuple[float, ...] = ()
    """Values of later_step_scale at the test; the trial's own if left out."""
    decay: float | None = None
    """later_step_decay at the test; the trial's own if left out."""
    tasks: int = 200
    """Training tasks that adaptation is measured on."""
    episodes: int = 40
    """Episodes per task and step."""
    task_seed: int = 20
    """Of those tasks and of the action noise."""


def main(search: Search) -> None:
    """Carry out what is not in the table yet, one training at a time."""
    names = search.trials or tuple(TRIALS)
    unknown = [name for name in names if name not in TRIALS]
    if unknown:
        raise UsageError(f"no trial {unknown[0]!r}; there are {', '.join(TRIALS)}")
    table = search.dir / "trials.csv"
    for name in names:
        for seed in search.seeds:
            training = _training(name, seed, search)
            for learner in _learners(training.config.learner, search):
                steps = (learner.later_step_scale, learner.later_step_decay)
                key = [name, search.iterations, seed, *steps, search.tasks, search.episodes]
                if list(map(str, key)) in _done(table):
                    continue
                train_all([training], processes=1)
                scores = _scores(load_run(training.directory), learner, search)
                _append(table, [*key, *_summary(scores), round(training.seconds)])


def _learners(learner: MAML, search: Search) -> Iterator[MAML]:
    """Yield what is tested: the learner of the training, with other later steps if asked for."""
    decay = learner.later_step_decay if search.decay is None else search.decay
    for scale in search.later or (learner.later_step_scale,):
        yield replace(learner, later_step_scale=scale, later_step_decay=decay)


def _training(name: str, seed: int, search: Search) -> Training:
    config = replace(TRIALS[name], iterations=search.iterations, seed=seed, preset="fixed-start")
    return Training(name=name, config=config, folder=search.dir, code=library_versions())


def _scores(run: TrainedRun, learner: MAML, search: Search) -> Scores:
    run = replace(run, config=replace(run.config, learner=learner))
    settings = EvaluationSettings(steps=STEPS, episodes=search.episodes, seed=search.task_seed)
    generator = numpy_generator(search.task_seed, "search tasks")
    tasks = run.family.sample(search.tasks, generator, "train")
    return run.scores(tasks, settings)


def _summary(scores: Scores) -> Iterator[float]:
    """Yield each of `STATISTICS` after each number of steps."""
    for values in (scores.mean(0), np.median(scores, 0), np.percentile(scores, 5, axis=0)):
        yield from (round(value, 2) for value in values.tolist())


def _done(table: Path) -> list[list[str]]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return [row[: len(KEY)] for row in csv.reader(file)]


def _append(table: Path, row: Sequence[object]) -> None:
    head = [
        *KEY,
        *(f"{name}_{step}" for name in STATISTICS for step in range(STEPS + 1)),
        "seconds",
    ]
    new = not table.exists()
    with table.open("a", newline="") as file:
        csv.writer(file).writerows([head, row] if new else [row])
    print(", ".join(f"{name} {value}" for name, value in zip(head, row, strict=True)), flush=True)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Search, description=__doc__))))
