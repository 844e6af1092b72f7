"""What the courses say: four rows per level, what a level gained by the one before, and at what cost.

Survival is in steps of a greedy policy; intervals are over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mtrl.errors import MtrlError
from mtrl.evaluation.continual import learning_area, negative_transfer
from mtrl.evaluation.statistics import (
    Interval,
    PairedDifference,
    interval,
    paired_difference,
    stratified_interval,
)
from mtrl.reproduce.dex.courses import Course, DexSettings
from mtrl.reproduce.dex.ledger import Entry, budget, ledger, stages_within
from mtrl.reproduce.dex.playing import hexagon_family, random_survival
from mtrl.reproduce.dex.training import Taken
from mtrl.seeding import numpy_generator

__all__ = [
    "PAPER",
    "ROWS",
    "Comparison",
    "EqualCost",
    "Published",
    "Results",
    "check_networks",
    "claims",
    "flagged",
    "over_seeds",
    "ratio_interval",
]

Array = NDArray[np.float64]
ROWS = ("random", "initial", "scratch", "incremental")
"""In the order of the paper's table."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Mean rewards of one environment of the paper, in seconds survived; one run each."""

    name: str
    random: float
    scratch: float
    initial: float = float("nan")
    incremental: float = float("nan")

    @property
    def ratio(self) -> float:
        """Incremental as a multiple of from scratch; NaN for the first of a set."""
        return self.incremental / self.scratch


PAPER = (
    Published(name="a1", random=8.93, scratch=717.93),
    Published(name="a2", random=7.46, initial=18.34, scratch=87.06, incremental=18.31),
    Published(name="a3", random=6.01, initial=7.32, scratch=9.81, incremental=13.52),
    Published(name="b1", random=9.10, scratch=169.54),
    Published(name="b2", random=2.23, initial=36.05, scratch=92.24, incremental=85.52),
    Published(name="b3", random=2.43, initial=8.22, scratch=41.17, incremental=66.32),
    Published(name="b4", random=2.17, initial=5.30, scratch=8.11, incremental=26.75),
    Published(name="b5", random=1.88, initial=4.17, scratch=12.23, incremental=11.61),
    Published(name="b6", random=2.17, initial=2.89, scratch=2.15, incremental=2.25),
    Published(name="b7", random=2.30, initial=2.34, scratch=2.08, incremental=2.58),
)
"""Erickson and Zhao 2017, the table of its section 5: three environments of growing pattern complexity,
then seven of growing representation complexity."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A level learnt with and without what came before; arrays are (seeds,), survival in steps.

    Attributes:
        level: that is compared.
        source: of the network that incremental learning starts with.
        initial: that network, untrained on the level.
        scratch: trained on the level alone, for as many steps.
        incremental: trained on from the initial network.
        areas: mean heights of the learning curves (seeds, 2), from scratch and incremental.
        negative: whether incremental is worse than from scratch, as far as the seeds can tell.
    """

    level: str
    source: str
    initial: Array
    scratch: Array
    incremental: Array
    areas: Array
    negative: bool

    @property
    def ratio(self) -> Interval:
        """Mean of incremental as a multiple of that from scratch."""
        return ratio_interval(self.incremental, self.scratch, f"{self.source} {self.level}")

    @property
    def gain(self) -> PairedDifference:
        """Incremental less from scratch, over pairs of one seed."""
        rng = numpy_generator(0, f"dex: gain {self.source} {self.level}")
        return paired_difference(self.incremental, self.scratch, rng)


class Results:
    """The courses of all seeds, and what follows from them.

    Args:
        settings: of the courses.
        seeds: names of the agents.
        taken: what each course came to, by seed in the order of `seeds`.

    Raises:
        MtrlError: networks are not handed on as they should be; see `check_networks`.
    """

    def __init__(
        self,
        settings: DexSettings,
        seeds: Sequence[int],
        taken: Mapping[Course, Sequence[Taken]],
    ) -> None:
        self.settings, self.seeds, self.taken = settings, tuple(seeds), taken
        check_networks(taken)

    @property
    def course(self) -> Course:
        """Return the chain."""
        return Course("chain", self.settings.levels)

    def scratch(self, level: str) -> Course:
        """Return the course of a level from scratch."""
        return next(
            course
            for course in self.taken
            if course.kind == "scratch" and course.stages[0] == level
        )

    def values(self, course: Course, what: str, stage: int = -1) -> Array:
        """Return a field of `Taken` at one stage (seeds, ...)."""
        return np.array([getattr(each, what)[stage] for each in self.taken[course]])

    @cached_property
    def random(self) -> dict[str, Array]:
        """Survival of random actions by level (seeds, episodes)."""
        return {
            level: np.array(
                [random_survival(level, self.settings.episodes, seed) for seed in self.seeds]
            )
            for level in self.settings.levels
        }

    @cached_property
    def pairs(self) -> list[Comparison]:
        """Every level but the first after the one before, learnt from scratch: as in the paper."""
        pairs = pairwise(self.settings.levels)
        return [self._compared(Course("pair", pair), 1, pair[0]) for pair in pairs]

    @cached_property
    def chain(self) -> list[Comparison]:
        """Every level but the first after all before it."""
        course, levels = Course("chain", self.settings.levels), self.settings.levels
        return [self._compared(course, place, "all before") for place in range(1, len(levels))]

    def _compared(self, course: Course, stage: int, source: str) -> Comparison:
        level = course.stages[stage]
        alone, steps = self.scratch(level), self.settings.curve_steps
        scratch = self.values(alone, "after", 0)
        incremental = self.values(course, "after", stage)
        areas = [
            learning_area(steps, self.values(one, "curves", at))
            for one, at in ((alone, 0), (course, stage))
        ]
        return Comparison(
            level=level,
            source=source,
            initial=self.values(course, "before", stage),
            scratch=scratch,
            incremental=incremental,
            areas=np.stack(areas, axis=1),
            negative=self.is_worse(incremental, scratch, f"{source}, {level}"),
        )

    def is_worse(self, own: Array, other: Array, name: str) -> bool:
        """Return whether `own` survives less long than `other`, both (seeds,).

        That is so where its mean is smaller and the interval of the chance that one of its agents
        survives longer lies below one half.
        """
        horizon = hexagon_family().horizon
        rng = numpy_generator(0, f"dex: negative transfer, {name}")
        return bool(negative_transfer(own[:, None] / horizon, other[:, None] / horizon, rng)[0])

    @cached_property
    def ledger(self) -> list[Entry]:
        """What every step of the chain cost."""
        return ledger(self.course, self.taken[self.course])

    @cached_property
    def total_cost(self) -> list["EqualCost"]:
        """The levels that were also learnt from scratch for what the chain costs to there."""
        chain, made = self.course, []
        for place, level in enumerate(self.settings.levels):
            if level not in self.settings.goals:
                continue
            alone = self.scratch(level)
            paid = [self._after_paying(alone, chain, level, what) for what in ("steps", "seconds")]
            incremental = self.values(chain, "after", place)
            made.append(
                EqualCost(
                    level=level,
                    steps=int(budget(chain, level, self.taken[chain][0].steps)),
                    incremental=incremental,
                    scratch=paid[0],
                    scratch_by_seconds=paid[1],
                    negative=self.is_worse(incremental, paid[0], f"total cost {level}"),
                )
            )
        return made

    @property
    def compared(self) -> dict[str, "list[Comparison] | list[EqualCost]"]:
        """Return everything that is compared with from scratch, by what is equal."""
        return {
            "pairs, equal steps on the level": self.pairs,
            "the chain, equal steps on the level": self.chain,
            "the chain, equal steps in all": self.total_cost,
        }

    def _after_paying(self, alone: Course, chain: Course, level: str, what: str) -> Array:
        """Return survival (seeds,) from scratch after as much as the chain costs up to a level."""
        found = []
        for ours, theirs in zip(self.taken[alone], self.taken[chain], strict=True):
            money = budget(chain, level, getattr(theirs, what))
            stages = stages_within(getattr(ours, what), money)
            found.append(ours.after[stages - 1] if stages else ours.before[0])
        return np.array(found)


@dataclass(frozen=True, kw_only=True)
class EqualCost:
    """A level by the chain and from scratch, after as much training in all; survival (seeds,).

    Attributes:
        level: that is compared.
        steps: that the chain has taken when it is through with the level.
        incremental: at the end of the chain's stage.
        scratch: after as many steps on the level alone.
        scratch_by_seconds: after as many seconds, or somewhat fewer: whole stages that fit.
        negative: whether the chain is worse, for as many steps, as far as the seeds can tell.
    """

    level: str
    steps: int
    incremental: Array
    scratch: Array
    scratch_by_seconds: Array
    negative: bool

    @property
    def gain(self) -> PairedDifference:
        """The chain less from scratch, for as many steps, over pairs of one seed."""
        rng = numpy_generator(0, f"dex: gain at equal cost {self.level}")
        return paired_difference(self.incremental, self.scratch, rng)


def ratio_interval(values: Array, reference: Array, name: str) -> Interval:
    """Return the ratio of two means, with its bootstrap interval over the seeds of both.

    Args:
        values: (seeds,).
        reference: (seeds,), positive.
        name: of the stream of resamples.
    """
    rng = numpy_generator(0, f"dex: ratio {name}")
    return stratified_interval(np.stack([values, reference], axis=1), rng, _ratio)


def _ratio(scores: Array) -> Array:
    means = scores.mean(-2)
    ratios: Array = means[..., 0] / means[..., 1]
    return ratios


def over_seeds(values: Array, name: str) -> Interval:
    """Return the mean of values (seeds,) with its 95 % bootstrap interval."""
    return interval(values, numpy_generator(0, f"dex: {name}"))


def check_networks(taken: Mapping[Course, Sequence[Taken]]) -> None:
    """Check that networks are handed on as they are, bit for bit.

    Within a course a stage begins with the network with which the stage before ended; and the first
    network of a pair is the one that its level from scratch has after as many steps.

    Raises:
        MtrlError: it is not so; the message names the course.
    """
    alone = {
        course.stages[0]: [each.ended[0] for each in made]
        for course, made in taken.items()
        if course.kind == "scratch"
    }
    for course, made in taken.items():
        for place, each in enumerate(made):
            handed = each.begun[1:] == each.ended[:-1]
            first = alone.get(course.stages[0])
            if not handed or (first is not None and each.ended[0] != first[place]):
                raise MtrlError(
                    f"{course.name}: an initial network is not the one that the level before ended "
                    "with; trainings of different machines are mixed: delete their folder"
                )


HARD = 5
"""The last levels of the chain, which the claim about hard levels is of."""


def flagged(results: Results) -> dict[str, list[str]]:
    """Return the levels with negative transfer, for equal steps on the level in two ways, and in all."""
    return {
        name: [each.level for each in found if each.negative]
        for name, found in results.compared.items()
    }


def claims(results: Results) -> dict[str, bool]:
    """Return what is to be shown, each with whether it is."""
    hard = results.chain[-HARD:]
    return {
        f"On the {HARD} hardest levels incremental learning by the chain is ahead of learning from scratch for "
        "equal steps on the level, each by its whole interval.": all(
            each.gain.low > 0 for each in hard
        ),
        "At least one negative transfer is flagged, for equal steps on the level or in all.": any(
            flagged(results).values()
        ),
    }
