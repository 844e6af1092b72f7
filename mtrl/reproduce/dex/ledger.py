"""What it costs to learn a level, by the chain and from scratch: steps of the environment, and seconds.

Source: the definition of Erickson and Zhao 2017, section 3: a step in environment i costs c_i, and what
counts is what the goal is reached with for a budget M of at least the sum of c_i s_i. Here a step costs 1
everywhere, or the seconds that it took; the paper's comparison leaves earlier environments out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtrl.reproduce.dex.courses import Course
from mtrl.reproduce.dex.training import Taken

__all__ = ["Entry", "budget", "ledger", "stages_within"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stage of a course, means over seeds.

    Attributes:
        level: that is trained.
        steps: of the stage.
        seconds: of its training.
        total_steps: of this stage and all before it.
        total_seconds: likewise.
        survival: on the level after the stage.
    """

    level: str
    steps: int
    seconds: float
    total_steps: int
    total_seconds: float
    survival: float


def ledger(course: Course, taken: Sequence[Taken]) -> list[Entry]:
    """Return the entries of a course that several seeds have taken, in the order of its stages.

    Raises:
        ValueError: the seeds did not take equally many steps.
    """
    steps = [tuple(each.steps) for each in taken]
    if len(set(steps)) != 1:
        raise ValueError(f"{course.name}: seeds must take equal steps, got {sorted(set(steps))}")
    seconds = np.array([each.seconds for each in taken]).mean(0)
    survival = np.array([each.after for each in taken]).mean(0)
    totals = np.cumsum(steps[0])
    return [
        Entry(
            level=level,
            steps=steps[0][stage],
            seconds=float(seconds[stage]),
            total_steps=int(totals[stage]),
            total_seconds=float(seconds[: stage + 1].sum()),
            survival=float(survival[stage]),
        )
        for stage, level in enumerate(course.stages)
    ]


def budget(course: Course, level: str, costs: Sequence[float]) -> float:
    """Return what a course has cost when it is through with `level`: the sum of c_i s_i to there.

    Args:
        course: which has the level; where it comes more than once, the last time counts.
        level: its name.
        costs: of each stage, in any unit.
    """
    last = len(course.stages) - 1 - course.stages[::-1].index(level)
    return float(sum(costs[: last + 1]))


def stages_within(costs: Sequence[float], money: float) -> int:
    """Return how many stages can be paid in their order: the most whose sum is at most `money`."""
    # Sums of equal costs may differ in their last bits.
    return int(np.searchsorted(np.cumsum(costs), money * (1 + 1e-12), side="right"))
