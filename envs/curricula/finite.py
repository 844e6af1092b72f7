"""Curricula over a list of tasks: what they share, and the uniform one."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mtrl.envs.curricula.protocol import (
    Array,
    OutcomeKind,
    Proposal,
    check_outcome,
    check_state,
)
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["FiniteCurriculum", "Uniform"]


class FiniteCurriculum(abc.ABC):
    """A `Curriculum` whose next task follows `probabilities`, one per task.

    Args:
        tasks: what it chooses from, each once.
        rng: the curriculum's own generator; nothing else may draw from it.

    Raises:
        UsageError: there are no tasks, or one is there twice.
    """

    outcome: OutcomeKind = "return"
    lag: int = 0
    kind: str

    def __init__(self, tasks: Sequence[Task], rng: np.random.Generator) -> None:
        self.tasks = tuple(tasks)
        self.rng = rng
        self._places = {task.id: place for place, task in enumerate(self.tasks)}
        if not self.tasks:
            raise UsageError("tasks is empty: a curriculum chooses among at least one task")
        if len(self._places) < len(self.tasks):
            twice = sorted({t.id for i, t in enumerate(self.tasks) if self._places[t.id] != i})
            raise UsageError(f"tasks has {', '.join(twice)} more than once; give each task once")

    @abc.abstractmethod
    def probabilities(self) -> Array:
        """Return the probability of each task to be the next proposal (tasks,), of sum 1."""

    @abc.abstractmethod
    def _learn(self, place: int, outcome: float, label: int | None) -> None:
        """Take in a finite outcome of the task at `place`."""

    @abc.abstractmethod
    def _state(self) -> dict[str, Any]:
        """Return all that draws and updates change, besides the generator, in JSON's types."""

    @abc.abstractmethod
    def _set_state(self, values: dict[str, Any]) -> None:
        """Take back what `_state` returned."""

    def _label(self, place: int) -> int | None:
        """Return the label of a proposal of the task at `place`."""
        return None

    def propose(self, n: int) -> list[Proposal]:
        """Draw `n` tasks; one whose probability is zero is never drawn."""
        places = self.rng.choice(len(self.tasks), size=n, p=self.probabilities()).tolist()
        return [Proposal(task=self.tasks[place], label=self._label(place)) for place in places]

    def update(self, played: Proposal | Task, outcome: float) -> None:
        """Credit a result to its task.

        Raises:
            UsageError: the task is none of this curriculum's; the message names it.
            MtrlError: the outcome is not finite; nothing is changed.
        """
        proposal = Proposal(task=played) if isinstance(played, Task) else played
        place = self._place(proposal.task)
        self._learn(place, check_outcome(proposal.task, outcome), proposal.label)

    def _place(self, task: Task) -> int:
        if task.id not in self._places:
            raise UsageError(
                f"task {task.id} {dict(task.params)} of family {task.family!r} is none of the "
                f"{len(self.tasks)} tasks of this curriculum; credit results by the task_id of "
                "the info that ended the episode"
            )
        return self._places[task.id]

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (no tensors, JSON values) for a checkpoint."""
        return {}, {
            "kind": self.kind,
            "tasks": [task.id for task in self.tasks],
            "rng": self.rng.bit_generator.state,
            **self._state(),
        }

    def load_state_dict(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: the next proposals are the same.

        Raises:
            CheckpointError: it is of another kind of curriculum, or of other tasks.
        """
        check_state(values, kind=self.kind, tasks=[task.id for task in self.tasks])
        self.rng.bit_generator.state = values["rng"]
        self._set_state(values)


class Uniform(FiniteCurriculum):
    """Every task with the same probability: what a curriculum is to be compared with."""

    kind = "uniform"

    def probabilities(self) -> Array:
        """Return 1 / tasks for each."""
        return np.full(len(self.tasks), 1 / len(self.tasks))

    def _learn(self, place: int, outcome: float, label: int | None) -> None:
        """Results change nothing."""

    def _state(self) -> dict[str, Any]:
        return {}

    def _set_state(self, values: dict[str, Any]) -> None:
        """There is nothing but the generator."""
