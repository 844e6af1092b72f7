"""What regrets (seeds, tasks) of agents with different objectives say."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.objectives import Objective
from mtrl.evaluation.statistics import (
    Interval,
    PairedDifference,
    interval,
    paired_difference,
)
from mtrl.seeding import numpy_generator

__all__ = ["BASELINE", "Row", "Summary", "summarise"]

Array = NDArray[np.float64]

BASELINE: Objective = "mean-return"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One objective; intervals are over seeds.

    Attributes:
        worst: the largest regret of an agent over tasks.
        mean: the mean return of an agent over tasks.
        regrets: by task.
        worst_by_seed: (seeds,), the largest regret of every agent.
    """

    worst: Interval
    mean: Interval
    regrets: list[Interval]
    worst_by_seed: Array


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All objectives, and each but the baseline less the baseline of the same seed.

    Attributes:
        rows: by objective.
        worst_change: of the worst regret; negative is better.
        mean_change: of the mean return; positive is better.
    """

    rows: Mapping[Objective, Row]
    worst_change: Mapping[Objective, PairedDifference]
    mean_change: Mapping[Objective, PairedDifference]

    @property
    def met(self) -> bool:
        """Whether worst-regret training lowers the worst regret, by its whole interval."""
        return self.worst_change["worst-regret"].high < 0


def summarise(returns: Mapping[Objective, Array], best: Array, seed: int) -> Summary:
    """Return regrets against `best` (tasks,) of returns (seeds, tasks), with 95 % bootstrap intervals.

    The worst regret is taken of each agent and then averaged: seeds that leave different tasks behind
    do not hide each other's.

    Args:
        returns: by objective, that of `BASELINE` among them; agents of a seed are pairs.
        best: what regrets are measured by.
        seed: of the resamples; each number has a stream of its own.
    """
    regrets = {objective: best - table for objective, table in returns.items()}
    worst = {objective: table.max(1) for objective, table in regrets.items()}
    means = {objective: table.mean(1) for objective, table in returns.items()}
    others = [objective for objective in returns if objective != BASELINE]
    rows = {
        objective: Row(
            worst=interval(worst[objective], _rng(seed, f"worst {objective}")),
            mean=interval(means[objective], _rng(seed, f"mean {objective}")),
            regrets=[
                interval(column, _rng(seed, f"regret {objective} {place}"))
                for place, column in enumerate(table.T)
            ],
            worst_by_seed=worst[objective],
        )
        for objective, table in regrets.items()
    }
    return Summary(
        rows=rows,
        worst_change={
            each: paired_difference(worst[each], worst[BASELINE], _rng(seed, f"less worst {each}"))
            for each in others
        },
        mean_change={
            each: paired_difference(means[each], means[BASELINE], _rng(seed, f"less mean {each}"))
            for each in others
        },
    )


def _rng(seed: int, name: str) -> np.random.Generator:
    return numpy_generator(seed, f"worst regret: {name}")
