"""Where a training loop's tasks come from: drawn anew, from a list in a file, or from a curriculum."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.curriculum_curves import curriculum_values
from mtrl.envs.curricula import Curriculum, FiniteCurriculum, Proposal
from mtrl.envs.family import FewShotFamily, TaskFamily
from mtrl.envs.task import Task, assert_disjoint, params_of
from mtrl.errors import UsageError

__all__ = ["ChosenTasks", "TrainingTasks", "read_tasks"]


def read_tasks(path: Path) -> list[Task]:
    """Read a file with one task in JSON per line, as `mtrl families NAME --sample` prints.

    Raises:
        UsageError: the file cannot be read, is empty, or a line is not a task; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read tasks from {path}: {error}") from error
    tasks = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                tasks.append(Task.from_json(line))
            except UsageError as error:
                raise UsageError(f"{path}, line {number}: {error}") from error
    if not tasks:
        raise UsageError(f"{path} holds no task; write one task in JSON per line")
    return tasks


class TrainingTasks:
    """The tasks that a run trains on.

    Args:
        family: draws tasks of its train split if there is no file.
        path: a file of tasks to draw from instead, with replacement; None for none.
        held_out: the tasks that the run is tested on.

    Raises:
        UsageError: the file holds a held-out task, or one of another family.
    """

    def __init__(
        self, family: TaskFamily | FewShotFamily, path: Path | None, held_out: list[Task]
    ) -> None:
        self._family = family
        self._listed: list[Task] | None = None
        if path is not None:
            self._listed = read_tasks(path)
            _check_listed(self._listed, family, path)
            if not family.splits_overlap:
                assert_disjoint(self._listed, held_out)

    def different(self, n: int, rng: np.random.Generator) -> list[Task]:
        """Return what a curriculum over a list chooses among: the file's, or up to `n` drawn ones."""
        drawn = self._listed or self._family.sample(n, rng, "train")
        return list({task.id: task for task in drawn}.values())

    def sample(self, n: int, rng: np.random.Generator) -> list[Task]:
        """Draw `n` tasks to train on."""
        if self._listed is None:
            return self._family.sample(n, rng, "train")
        return [self._listed[i] for i in rng.integers(len(self._listed), size=n)]

    def sample_params(self, n: int, rng: np.random.Generator) -> Mapping[str, NDArray[Any]]:
        """Draw the stacked parameters of `n` tasks to train on; quicker than `sample`."""
        if self._listed is None and isinstance(self._family, FewShotFamily):
            return self._family.sample_params(n, rng, "train")
        return params_of(self.sample(n, rng))


class ChosenTasks:
    """Tasks that a curriculum proposes, iteration by iteration, and that it hears the results of.

    Args:
        curriculum: told the mean return after adaptation or, if it asks for success, the share of
            the episodes that succeed.
        solved_at: return from which on an episode succeeds.

    Raises:
        UsageError: a curriculum of scores, or one of success without `solved_at`.
    """

    def __init__(self, curriculum: Curriculum, solved_at: float | None) -> None:
        if curriculum.outcome == "score":
            raise UsageError(
                f"{type(curriculum).__name__} needs the scores of a critic, which meta-training does not "
                "have; choose another curriculum"
            )
        if curriculum.outcome == "success" and solved_at is None:
            raise UsageError(
                f"{type(curriculum).__name__} asks for success; give solved_at, the return from which on "
                "an episode succeeds"
            )
        self._curriculum, self._solved_at = curriculum, solved_at
        self._played: list[Proposal] = []

    def sample(self, n: int) -> list[Task]:
        """Return the next `n` tasks; one may be there several times."""
        self._played = self._curriculum.propose(n)
        return [proposal.task for proposal in self._played]

    def credit(self, returns: torch.Tensor) -> None:
        """Tell the curriculum the returns after adaptation (tasks, episodes) of the last tasks."""
        outcomes = returns.double().cpu()
        if self._curriculum.outcome == "success" and self._solved_at is not None:
            outcomes = (outcomes >= self._solved_at).double()
        for proposal, outcome in zip(self._played, outcomes.mean(1).tolist(), strict=True):
            self._curriculum.update(proposal, outcome)

    def values(self) -> dict[str, float]:
        """Return the curriculum's state in numbers, by tag."""
        count = len(self._curriculum.tasks) if isinstance(self._curriculum, FiniteCurriculum) else 0
        width = len(str(max(count - 1, 0)))
        return curriculum_values(
            self._curriculum, [f"task_{place:0{width}}" for place in range(count)]
        )

    def state(self) -> dict[str, Any]:
        """Return the curriculum's state in JSON's types, between two iterations."""
        tensors, values = self._curriculum.state_dict()
        return {
            "tensors": {name: tensor.tolist() for name, tensor in tensors.items()},
            "values": values,
        }

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        tensors = {
            name: torch.tensor(numbers, dtype=torch.float64)
            for name, numbers in saved["tensors"].items()
        }
        self._curriculum.load_state_dict(tensors, saved["values"])


def _check_listed(tasks: list[Task], family: TaskFamily | FewShotFamily, path: Path) -> None:
    for task in tasks:
        family.context(task)
        if task.split == "test" and not family.splits_overlap:
            raise UsageError(
                f"a test task in training: {task.id} in {path}; draw the file with --split train"
            )
