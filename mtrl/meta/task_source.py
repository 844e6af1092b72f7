"""Where a training loop's tasks come from: drawn anew, from a list in a file, or from a curriculum."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.curricula import CurriculumConfig
from mtrl.curriculum_curves import curriculum_values
from mtrl.envs.curricula import Curriculum, FiniteCurriculum, Proposal
from mtrl.envs.family import FewShotFamily, TaskFamily
from mtrl.envs.task import Task, assert_disjoint, params_of
from mtrl.errors import MtrlError, UsageError
from mtrl.seeding import numpy_generator

__all__ = ["ChosenTasks", "TrainingTasks", "chosen_tasks", "curriculum_state", "read_tasks"]

_CURRICULUM = "curriculum"


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
        # Asked once: an instance check of a protocol takes as long as drawing the tasks.
        self._drawn = family.sample_params if isinstance(family, FewShotFamily) else None
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
        if self._listed is None and self._drawn is not None:
            return self._drawn(n, rng, "train")
        return params_of(self.sample(n, rng))


class ChosenTasks:
    """Tasks that a curriculum proposes, iteration by iteration, and that it hears the results of.

    Args:
        curriculum: told the mean result after adaptation or, if it asks for success, the share of
            the results that are one. It takes more for better: of errors it is told the negative.
        solved_at: return from which on, or error up to which, a result is a success.
        errors: whether results are errors, the lower the better, and not returns.

    Raises:
        UsageError: a curriculum of scores, or one of success without `solved_at`.
    """

    def __init__(
        self, curriculum: Curriculum, solved_at: float | None, *, errors: bool = False
    ) -> None:
        if curriculum.outcome == "score":
            raise UsageError(
                f"{type(curriculum).__name__} needs the scores of a critic, which meta-training does not "
                "have; choose another curriculum"
            )
        if curriculum.outcome == "success" and solved_at is None:
            meaning = (
                "the query error up to which a task is solved"
                if errors
                else "the return from which on an episode succeeds"
            )
            raise UsageError(
                f"{type(curriculum).__name__} asks for success; give solved_at, {meaning}"
            )
        self._curriculum, self._solved_at, self._errors = curriculum, solved_at, errors
        self._played: list[Proposal] = []

    def sample(self, n: int) -> list[Task]:
        """Return the next `n` tasks; one may be there several times."""
        self._played = self._curriculum.propose(n)
        return [proposal.task for proposal in self._played]

    def credit(self, results: torch.Tensor) -> None:
        """Tell the curriculum the results after adaptation of the last tasks, read by the host.

        Args:
            results: (tasks, episodes) returns, or (tasks, 1) errors.

        Raises:
            MtrlError: one is not finite; the message names the task.
        """
        found = results.double().cpu()
        for proposal, row in zip(self._played, found.isfinite().all(1).tolist(), strict=True):
            if not row:
                raise MtrlError(
                    f"family {proposal.task.family!r}, task {proposal.task.id} "
                    f"{dict(proposal.task.params)}: what is measured after adaptation is not finite; "
                    "lower the inner or the outer step size, or leave the task out of the curriculum"
                )
        for proposal, outcome in zip(self._played, self._outcomes(found), strict=True):
            self._curriculum.update(proposal, outcome)

    def _outcomes(self, results: torch.Tensor) -> list[float]:
        if self._curriculum.outcome == "success" and self._solved_at is not None:
            solved = results <= self._solved_at if self._errors else results >= self._solved_at
            better = solved.double()
        else:
            better = -results if self._errors else results
        outcomes: list[float] = better.mean(1).tolist()
        return outcomes

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


class _Choosing(Protocol):
    """Settings of a run whose tasks a curriculum may choose."""

    @property
    def curriculum(self) -> CurriculumConfig | None:
        """What chooses, if anything does."""

    @property
    def curriculum_tasks(self) -> int:
        """How many tasks a list has that no file gives."""

    @property
    def solved_at(self) -> float | None:
        """What a result is compared with, for curricula that ask for success."""

    @property
    def seed(self) -> int:
        """Of all random streams."""


def chosen_tasks(
    config: _Choosing,
    family: TaskFamily | FewShotFamily,
    tasks: TrainingTasks,
    counters: Mapping[str, Any] | None = None,
) -> ChosenTasks | None:
    """Return the tasks that the curriculum of `config` chooses, None without one.

    Args:
        config: the run's settings.
        family: whose tasks they are; results are errors if it is supervised, else returns.
        tasks: what a curriculum over a list takes them from.
        counters: what a checkpoint of the run holds, if it goes on from one.

    Raises:
        UsageError: a curriculum that does not fit the family, or that meta-training cannot tell.
    """
    if config.curriculum is None:
        return None
    listed = tasks.different(
        config.curriculum_tasks, numpy_generator(config.seed, "curriculum tasks")
    )
    curriculum = config.curriculum.build(family, listed, numpy_generator(config.seed, "curriculum"))
    chosen = ChosenTasks(curriculum, config.solved_at, errors=isinstance(family, FewShotFamily))
    if counters and _CURRICULUM in counters:
        chosen.load_state(counters[_CURRICULUM])
    return chosen


def curriculum_state(chosen: ChosenTasks | None) -> dict[str, Any]:
    """Return what the counters of a checkpoint hold of a curriculum; nothing without one."""
    return {} if chosen is None else {_CURRICULUM: chosen.state()}


def _check_listed(tasks: list[Task], family: TaskFamily | FewShotFamily, path: Path) -> None:
    for task in tasks:
        family.context(task)
        if task.split == "test" and not family.splits_overlap:
            raise UsageError(
                f"a test task in training: {task.id} in {path}; draw the file with --split train"
            )
