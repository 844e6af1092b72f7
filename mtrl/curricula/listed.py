"""Settings of curricula that choose among a run's tasks."""

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrl.config import check_fraction, check_positive
from mtrl.envs import curricula
from mtrl.envs.curricula import Curriculum, TeacherVariant
from mtrl.envs.curricula.level_replay import Transform
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = [
    "Learnability",
    "LearningProgress",
    "LevelReplay",
    "OverList",
    "Staged",
    "TeacherStudent",
    "Uniform",
    "WorstRegret",
]


class OverList:
    """Settings of a curriculum that chooses among a list of tasks."""

    @abstractmethod
    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum over `tasks`, whose own generator is `rng`.

        Raises:
            UsageError: settings that do not fit the tasks.
        """


@dataclass(frozen=True, kw_only=True)
class Uniform(OverList):
    """Every task with the same probability: what a curriculum is to be compared with."""

    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum; see `mtrl.envs.curricula.Uniform`."""
        return curricula.Uniform(tasks, rng)


@dataclass(frozen=True, kw_only=True)
class Staged(OverList):
    """Stages of tasks from easy to hard; the next begins when the present one succeeds."""

    stages: int = 4
    """Stages of equally many tasks, as nearly as they divide."""
    by: str | None = None
    """Parameter whose rising value orders the tasks; the order of the list if left out."""
    falling: bool = False
    """Whether the order is turned round: hard tasks have small values, or come first in the list."""
    promote_at: float = 0.8
    """Mean success of a full window at which the next stage begins."""
    demote_below: float | None = None
    """Mean success below which the stage before comes back; never if left out."""
    window: int = 100
    """Episodes that decide."""
    min_episodes: int = 0
    """Episodes that a stage lasts at least."""
    rehearsal: float = 0.0
    """Share of the episodes that play a task of an earlier stage."""

    def __post_init__(self) -> None:
        check_positive(self, "stages")
        self._when()

    def _when(self) -> curricula.StageSettings:
        return curricula.StageSettings(
            promote_at=self.promote_at,
            demote_below=self.demote_below,
            window=self.window,
            min_episodes=self.min_episodes,
            rehearsal=self.rehearsal,
        )

    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum; see `mtrl.envs.curricula.Staged`."""
        if self.stages > len(tasks):
            raise UsageError(
                f"stages is {self.stages} for {len(tasks)} tasks; ask for fewer, or for more tasks"
            )
        ordered = _ordered(tasks, self.by)
        if self.falling:
            ordered.reverse()
        bounds = [round(len(ordered) * part / self.stages) for part in range(self.stages + 1)]
        stages = [ordered[a:b] for a, b in itertools.pairwise(bounds)]
        return curricula.Staged(stages, rng, self._when())


@dataclass(frozen=True, kw_only=True)
class LearningProgress(OverList):
    """Tasks whose success rate moves, up or down, more often than others."""

    window: int = 100
    """Episodes of all tasks together after which the rates are measured."""
    rate: float = 0.1
    """Of the moving averages."""
    stress: float = 0.1
    """Theta of the reweighting; the smaller, the more small success rates count."""
    uniform: float = 0.25
    """Share of the uniform distribution."""

    def __post_init__(self) -> None:
        check_positive(self, "window")
        check_fraction(self, "rate", "stress", "uniform")

    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum; see `mtrl.envs.curricula.LearningProgress`."""
        return curricula.LearningProgress(tasks, rng, **vars(self))


@dataclass(frozen=True, kw_only=True)
class TeacherStudent(OverList):
    """Tasks on which the return changes most, up or down."""

    variant: TeacherVariant = "online"
    """Algorithm of the paper."""
    rate: float = 0.1
    """Of the moving average."""
    exploration: float = 0.1
    """Share of the tasks that are drawn uniformly."""
    temperature: float | None = None
    """Of a Boltzmann choice in place of the greedy one, in units of the return."""
    window: int = 10
    """Returns of a task that make a slope."""

    def __post_init__(self) -> None:
        curricula.TeacherSettings(**vars(self))

    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum; see `mtrl.envs.curricula.TeacherStudent`."""
        return curricula.TeacherStudent(tasks, rng, curricula.TeacherSettings(**vars(self)))


@dataclass(frozen=True, kw_only=True)
class LevelReplay(OverList):
    """Tasks of large value error, and tasks not drawn for long, again; unseen ones in between."""

    transform: Transform = "rank"
    """Whether the score's rank counts, or the score itself."""
    temperature: float = 0.1
    """Beta; the smaller, the more the largest scores count."""
    staleness: float = 0.1
    """Share of the draws that follow the time since a task's last one."""
    staleness_temperature: float = 1.0
    """The same as the temperature, for that time."""
    score_rate: float = 1.0
    """Of the moving average of scores."""
    replay: float | None = None
    """Probability of a replay while tasks are unseen; the share of those seen if left out."""
    replay_from: float = 0.0
    """Share of the tasks that must have been seen before the first replay."""
    robust: bool = False
    """Whether only replayed tasks are trained on, the first episodes of a task being scored alone; for ppo."""

    def __post_init__(self) -> None:
        curricula.ReplaySettings(**vars(self))

    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum; see `mtrl.envs.curricula.LevelReplay`."""
        return curricula.LevelReplay(tasks, rng, curricula.ReplaySettings(**vars(self)))


@dataclass(frozen=True, kw_only=True)
class Learnability(OverList):
    """The tasks that succeed about half of the time."""

    keep: int | None = None
    """Tasks that are trained on at a time; a quarter of them, at least one, if left out."""
    window: int = 20
    """Episodes of a task that make its success rate."""
    uniform: float = 0.1
    """Share of the uniform distribution."""

    def __post_init__(self) -> None:
        check_positive(self, "keep", "window")
        check_fraction(self, "uniform")

    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum; see `mtrl.envs.curricula.Learnability`."""
        keep = self.keep or max(len(tasks) // 4, 1)
        return curricula.Learnability(
            tasks, rng, keep=keep, window=self.window, uniform=self.uniform
        )


@dataclass(frozen=True, kw_only=True)
class WorstRegret(OverList):
    """Tasks in proportion to an adversary's weights, which move to the largest regrets."""

    best: tuple[float, ...]
    """The best return of each task; one number stands for all."""
    random: tuple[float, ...] = ()
    """The return of each task without learning, for regrets relative to best - random."""
    step_size: float = 0.01
    """Of the weights, in 1 / unit of the regrets."""
    window: int = 100
    """Episodes of all tasks together from one step of the weights to the next."""
    uniform: float = 0.1
    """Share of the uniform distribution."""

    def __post_init__(self) -> None:
        self._adversary()

    def _adversary(self) -> curricula.Adversary:
        return curricula.Adversary(
            step_size=self.step_size, window=self.window, uniform=self.uniform
        )

    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum; see `mtrl.envs.curricula.WorstRegret`."""
        best, random = (
            given * len(tasks) if len(given) == 1 else given for given in (self.best, self.random)
        )
        return curricula.WorstRegret(
            tasks, rng, self._adversary(), best=best, random=random or None
        )


def _ordered(tasks: Sequence[Task], by: str | None) -> list[Task]:
    if by is None:
        return list(tasks)
    for task in tasks:
        if not isinstance(task.params.get(by), float | int):
            known = ", ".join(sorted(task.params))
            raise UsageError(
                f"by is {by!r}, which is no number of family {task.family!r}; it has {known}"
            )
    return sorted(tasks, key=lambda task: task.params[by])
