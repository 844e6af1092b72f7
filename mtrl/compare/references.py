"""Specialists as references of a regret: the best return of each task alone, and that of random actions."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtrl.compare.plan import Plan
from mtrl.compare.trainings import Training, specialists_of
from mtrl.errors import UsageError
from mtrl.multitask.config import MultiTaskConfig, ObjectiveConfig

__all__ = ["References", "cached_references", "references_of", "with_references"]


@dataclass(frozen=True, kw_only=True)
class References:
    """What regrets are measured by, in the order of the tasks.

    Attributes:
        best: the highest mean return of a specialist of the task, over seeds: one that was reached.
        random: the mean return of random actions.
    """

    best: tuple[float, ...]
    random: tuple[float, ...]


def cached_references(plan: Plan, specialists: Path) -> References:
    """Return the references that the specialists kept in the folder `specialists` give.

    Args:
        plan: whose specialists they are; `mtrl compare` with the same settings trains them.
        specialists: the folder.

    Raises:
        UsageError: a specialist of the plan is not there, or not finished.
        MtrlError: its scores are damaged.
    """
    return references_of(plan, specialists_of(plan, specialists))


def references_of(plan: Plan, trainings: Iterable[Training]) -> References:
    """Return the references that the specialists among `trainings` give; else as `cached_references`."""
    best: dict[str, float] = {}
    random: dict[str, float] = {}
    for training in trainings:
        if training.kind != "specialists":
            continue
        scores = training.scores()
        if scores is None or scores.random is None:
            raise UsageError(
                f"{training.name} is not finished in {training.directory}; "
                "train it by `mtrl compare --agents specialists` with the same settings"
            )
        (task,) = training.tasks
        best[task.id] = max(best.get(task.id, -np.inf), float(scores.returns.mean()))
        random[task.id] = float(scores.random.mean())
    return References(
        best=tuple(best[task.id] for task in plan.tasks),
        random=tuple(random[task.id] for task in plan.tasks),
    )


def with_references(
    settings: MultiTaskConfig, references: References, task_file: Path
) -> MultiTaskConfig:
    """Return settings that train `settings`'s agent for the worst regret on the tasks in `task_file`."""
    objective = ObjectiveConfig(
        objective="worst-regret",
        step_size=settings.objective.step_size,
        best=references.best,
        random=references.random,
    )
    count = len(references.best)
    return replace(settings, task_file=task_file, tasks=count, objective=objective)
