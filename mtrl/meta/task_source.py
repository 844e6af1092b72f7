"""Where a training loop's tasks come from: drawn anew every iteration, or from a list in a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.family import FewShotFamily, TaskFamily
from mtrl.envs.task import Task, assert_disjoint, params_of
from mtrl.errors import UsageError

__all__ = ["TrainingTasks", "read_tasks"]


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


def _check_listed(tasks: list[Task], family: TaskFamily | FewShotFamily, path: Path) -> None:
    for task in tasks:
        family.context(task)
        if task.split == "test" and not family.splits_overlap:
            raise UsageError(
                f"a test task in training: {task.id} in {path}; draw the file with --split train"
            )
