"""What scores (seeds, tasks) of several agents say about sharing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mtrl.compare.plan import Kind
from mtrl.evaluation.statistics import (
    Interval,
    interval,
    iqm,
    probability_of_improvement,
    stratified_interval,
)
from mtrl.seeding import numpy_generator

__all__ = [
    "Flag",
    "Overall",
    "Summary",
    "TaskRow",
    "chance_of_a_flag",
    "summarise",
    "transfer_flag",
]

Array = NDArray[np.float64]
Flag = Literal["positive", "negative", "not told apart"]


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """One task.

    Attributes:
        name: of the task.
        scores: of each agent, mean over seeds.
        transfer: the shared agent's score less the specialist's of the same seed, mean over seeds; None
            if one of the two was left out.
    """

    name: str
    scores: Mapping[Kind, Interval]
    transfer: Interval | None

    @property
    def flag(self) -> Flag | None:
        """Return what the transfer is, if there is one."""
        return None if self.transfer is None else transfer_flag(self.transfer)


@dataclass(frozen=True, kw_only=True)
class Overall:
    """One agent on all tasks.

    Attributes:
        iqm: interquartile mean over tasks and seeds.
        normalised: the same of (score - random) / (specialists - random), with the specialists' mean over
            seeds; None if that is not known.
        lowest_iqm: the lowest over tasks of the interquartile mean over seeds.
        worst_name: the task with the lowest mean over seeds.
        worst: its score.
    """

    iqm: Interval
    normalised: Interval | None
    lowest_iqm: float
    worst_name: str
    worst: Interval


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All of it.

    Attributes:
        tasks: in their order.
        overall: of each agent.
        improvement: chance that a seed of the shared agent scores above one of another, by the other.
    """

    tasks: Sequence[TaskRow]
    overall: Mapping[Kind, Overall]
    improvement: Mapping[Kind, Interval]

    def flagged(self, flag: Flag) -> list[str]:
        """Return the names of the tasks with this flag."""
        return [row.name for row in self.tasks if row.flag == flag]


def transfer_flag(transfer: Interval) -> Flag:
    """Return the sign of a transfer whose whole interval has it; without bounds nothing is told apart."""
    if transfer.low > 0:
        return "positive"
    return "negative" if transfer.high < 0 else "not told apart"


def chance_of_a_flag(seeds: int) -> float:
    """Return how often a task without transfer is flagged, at least, where seeds have no ties.

    The bootstrap's interval lies on one side of zero whenever all differences do, which is so for
    2 ** (1 - seeds) of symmetric ones. Below 6 seeds that is more than the 5 % that it promises.
    """
    return 0.0 if seeds < 2 else 2.0 ** (1 - seeds)


def summarise(
    scores: Mapping[Kind, Array],
    names: Sequence[str],
    *,
    random: Array | None = None,
    seed: int = 0,
) -> Summary:
    """Return means, transfer and all-task statistics with 95 % bootstrap intervals.

    Args:
        scores: of each agent, (seeds, tasks), in one order of seeds and tasks.
        names: of the tasks.
        random: (tasks,), scores of random actions, if they are known.
        seed: of the resamples; each number has a stream of its own.

    Raises:
        ValueError: a score is not finite.
    """
    tasks = []
    for place, name in enumerate(names):
        columns = {kind: values[:, place] for kind, values in scores.items()}
        tasks.append(
            TaskRow(
                name=name,
                scores={
                    kind: _mean(each, f"{kind} {name}", seed) for kind, each in columns.items()
                },
                transfer=_transfer(columns, name, seed),
            )
        )
    scales = _scales(scores, random)
    return Summary(
        tasks=tasks,
        overall={
            kind: _overall(kind, values, tasks, scales, seed) for kind, values in scores.items()
        },
        improvement=_improvement(scores, seed),
    )


def _mean(values: Array, name: str, seed: int) -> Interval:
    return interval(values, numpy_generator(seed, f"compare {name}"))


def _transfer(columns: Mapping[Kind, Array], name: str, seed: int) -> Interval | None:
    if not {"shared", "specialists"} <= columns.keys():
        return None
    return _mean(columns["shared"] - columns["specialists"], f"transfer {name}", seed)


def _scales(scores: Mapping[Kind, Array], random: Array | None) -> tuple[Array, Array] | None:
    """Return (offset, scale) of the tasks, if every specialist is better than random actions."""
    if random is None or "specialists" not in scores:
        return None
    gains = scores["specialists"].mean(0) - random
    return (random, gains) if bool((gains > 0).all()) else None


def _overall(
    kind: Kind,
    values: Array,
    rows: Sequence[TaskRow],
    scales: tuple[Array, Array] | None,
    seed: int,
) -> Overall:
    normalised = None
    if scales is not None:
        shares = (values - scales[0]) / scales[1]
        rng = numpy_generator(seed, f"compare normalised {kind}")
        normalised = stratified_interval(shares, rng)
    worst = min(rows, key=lambda row: row.scores[kind].estimate)
    return Overall(
        iqm=stratified_interval(values, numpy_generator(seed, f"compare iqm {kind}")),
        normalised=normalised,
        lowest_iqm=min(float(iqm(column[:, None])) for column in values.T),
        worst_name=worst.name,
        worst=worst.scores[kind],
    )


def _improvement(scores: Mapping[Kind, Array], seed: int) -> dict[Kind, Interval]:
    if "shared" not in scores:
        return {}
    return {
        kind: probability_of_improvement(
            scores["shared"], values, numpy_generator(seed, f"compare improvement {kind}")
        )
        for kind, values in scores.items()
        if kind != "shared"
    }
