"""Settings of curricula, as the command line and configurations write them, and what they make.

Each class has the options of one curriculum of `mtrl.envs.curricula`, whose documentation says what
they mean. Curricula over a list choose among a run's tasks; those over a box choose among all tasks
of a family whose parameters are numbers in ranges.
"""

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtrl.config import check_fraction, check_positive
from mtrl.envs import curricula
from mtrl.envs.curricula import Curriculum, TaskBox, TeacherVariant
from mtrl.envs.curricula.level_replay import Transform
from mtrl.envs.parameters import ParameterSpace
from mtrl.envs.task import Task, Value
from mtrl.errors import UsageError

__all__ = [
    "AlpGmm",
    "CurriculumConfig",
    "DomainRandomization",
    "Learnability",
    "LearningProgress",
    "LevelReplay",
    "SelfPaced",
    "Staged",
    "TeacherStudent",
    "Uniform",
    "WorstRegret",
    "over_box",
]

Array = curricula.protocol.Array


class _OverList:
    """Settings of a curriculum that chooses among a list of tasks."""

    @abstractmethod
    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum over `tasks`, whose own generator is `rng`.

        Raises:
            UsageError: settings that do not fit the tasks.
        """


class _OverBox:
    """Settings of a curriculum that chooses among all tasks of a family."""

    @abstractmethod
    def _build(self, box: TaskBox, rng: np.random.Generator) -> Curriculum:
        """Return the curriculum over `box`."""

    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum over the family's train tasks, whose own generator is `rng`.

        Raises:
            UsageError: the family's parameters are no numbers in ranges, or settings do not fit them.
        """
        space = getattr(family, "parameters", None)
        if not isinstance(space, ParameterSpace):
            raise UsageError(
                f"{type(self).__name__} chooses numbers in ranges, and family {family.name!r} has "
                "none; choose a curriculum over a list of tasks"
            )
        return self._build(TaskBox(space), rng)


@dataclass(frozen=True, kw_only=True)
class Uniform(_OverList):
    """Every task with the same probability: what a curriculum is to be compared with."""

    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum; see `mtrl.envs.curricula.Uniform`."""
        return curricula.Uniform(tasks, rng)


@dataclass(frozen=True, kw_only=True)
class Staged(_OverList):
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
class LearningProgress(_OverList):
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
class TeacherStudent(_OverList):
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
class LevelReplay(_OverList):
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

    def __post_init__(self) -> None:
        curricula.ReplaySettings(**vars(self))

    def build(self, family: Any, tasks: Sequence[Task], rng: np.random.Generator) -> Curriculum:
        """Return the curriculum; see `mtrl.envs.curricula.LevelReplay`."""
        return curricula.LevelReplay(tasks, rng, curricula.ReplaySettings(**vars(self)))


@dataclass(frozen=True, kw_only=True)
class Learnability(_OverList):
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
class WorstRegret(_OverList):
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


@dataclass(frozen=True, kw_only=True)
class AlpGmm(_OverBox):
    """Tasks near those whose returns were changing, over all of a family's tasks."""

    lowest: float
    """Return that is scaled to 0."""
    highest: float
    """Return that is scaled to 1."""
    fit_every: int = 250
    """Episodes from one fit of the mixture to the next."""
    random: float = 0.2
    """Share of the tasks that are drawn uniformly."""
    most_components: int = 10
    """The mixture has 2 to this many."""

    def __post_init__(self) -> None:
        curricula.AlpSettings(**vars(self))

    def _build(self, box: TaskBox, rng: np.random.Generator) -> Curriculum:
        return curricula.AlpGmm(box, rng, curricula.AlpSettings(**vars(self)))


@dataclass(frozen=True, kw_only=True)
class SelfPaced(_OverBox):
    """Tasks from a Gaussian that moves from a start to a target, over all of a family's tasks."""

    performance: float
    """Mean return that must be kept."""
    episodes: int = 100
    """Episodes from one update to the next."""
    kl_bound: float = 0.05
    """KL divergence of one update, at most."""
    least_std: float = 0.0
    """Least deviation, in units of the ranges, while the target is far."""
    kl_threshold: float = 8000.0
    """KL divergence above which the target is far."""
    start: dict[str, float] = field(default_factory=dict)
    """Parameters of the mean at the start, where they are not the middle of their ranges."""
    start_std: float = 0.1
    """Deviation at the start, in units of the ranges."""
    target: dict[str, float] = field(default_factory=dict)
    """Parameters of the target's mean, where they are not the middle of their ranges."""
    target_std: float = 0.3
    """Deviation of the target, in units of the ranges."""

    def __post_init__(self) -> None:
        check_positive(self, "start_std", "target_std")
        self._pace()

    def _pace(self) -> curricula.SelfPacedSettings:
        return curricula.SelfPacedSettings(
            performance=self.performance,
            episodes=self.episodes,
            kl_bound=self.kl_bound,
            least_std=self.least_std,
            kl_threshold=self.kl_threshold,
        )

    def _build(self, box: TaskBox, rng: np.random.Generator) -> Curriculum:
        ends = ((self.start, self.start_std), (self.target, self.target_std))
        start, target = (
            curricula.Gaussian.diagonal(point, np.full(len(point), std))
            for point, std in ((_point(box, values), std) for values, std in ends)
        )
        return curricula.SelfPaced(box, rng, self._pace(), start=start, target=target)


@dataclass(frozen=True, kw_only=True)
class DomainRandomization(_OverBox):
    """Ranges that begin at one task and widen where the agent does well at their ends."""

    widen_at: float
    """Mean return at a bound from which on it moves outwards."""
    narrow_at: float
    """Mean return at a bound up to which it moves inwards."""
    boundary: float = 0.5
    """Share of the episodes that play a bound."""
    queue: int = 240
    """Episodes at a bound that decide."""
    step: float = 0.02
    """How far a bound moves, in units of the range."""
    start: dict[str, float] = field(default_factory=dict)
    """Parameters of the first task, where they are not the middle of their ranges."""

    def __post_init__(self) -> None:
        self._moves()

    def _moves(self) -> curricula.RandomizationSettings:
        return curricula.RandomizationSettings(
            widen_at=self.widen_at,
            narrow_at=self.narrow_at,
            boundary=self.boundary,
            queue=self.queue,
            step=self.step,
        )

    def _build(self, box: TaskBox, rng: np.random.Generator) -> Curriculum:
        start = box.task(_point(box, self.start))
        return curricula.DomainRandomization(box, rng, self._moves(), start)


CurriculumConfig = (
    Uniform
    | Staged
    | LearningProgress
    | TeacherStudent
    | LevelReplay
    | Learnability
    | WorstRegret
    | AlpGmm
    | SelfPaced
    | DomainRandomization
)


def over_box(settings: CurriculumConfig) -> bool:
    """Return whether the curriculum chooses among all tasks of a family, not among a list."""
    return isinstance(settings, _OverBox)


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


def _point(box: TaskBox, values: Mapping[str, float]) -> Array:
    """Return where `values`, and else the middle of the ranges, lie in the unit cube."""
    middle = box.task(np.full(box.dimensions, 0.5))
    for name in values:
        if name not in middle.params:
            known = ", ".join(sorted(middle.params))
            raise UsageError(f"{name!r} is no parameter of {middle.family!r}; it has {known}")
    params: dict[str, Value] = {**middle.params, **values}
    return box.point(Task(family=middle.family, params=params, split=box.split))
