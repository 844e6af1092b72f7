"""Settings of curricula that choose among all tasks of a family whose parameters are numbers in ranges."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtrl.config import check_positive
from mtrl.envs import curricula
from mtrl.envs.curricula import Curriculum, TaskBox
from mtrl.envs.curricula.protocol import Array
from mtrl.envs.parameters import ParameterSpace
from mtrl.envs.task import Task, Value
from mtrl.errors import UsageError

__all__ = ["AlpGmm", "DomainRandomization", "OverBox", "SelfPaced"]


class OverBox:
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
class AlpGmm(OverBox):
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
class SelfPaced(OverBox):
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
class DomainRandomization(OverBox):
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


def _point(box: TaskBox, values: Mapping[str, float]) -> Array:
    """Return where `values`, and else the middle of the ranges, lie in the unit cube."""
    middle = box.task(np.full(box.dimensions, 0.5))
    for name in values:
        if name not in middle.params:
            known = ", ".join(sorted(middle.params))
            raise UsageError(f"{name!r} is no parameter of {middle.family!r}; it has {known}")
    params: dict[str, Value] = {**middle.params, **values}
    return box.point(Task(family=middle.family, params=params, split=box.split))
