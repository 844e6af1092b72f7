"""What TensorBoard shows of a curriculum: what it would draw, what it drew, and why."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.level_scores import LevelScores
from mtrl.curriculum_curves import curriculum_values, tagged
from mtrl.envs.curricula import BoxCurriculum, FiniteCurriculum, Proposal
from mtrl.envs.curricula.sb3_source import CurriculumVecEnv, find_curriculum_env
from mtrl.envs.task import Task
from mtrl.multitask.tasks import task_names

__all__ = ["CurriculumWatch"]

Array = NDArray[np.float64]


class CurriculumWatch:
    """Counts what a curriculum is told between two points of the curves.

    Args:
        env: what it drives.
        tasks: the run's.
    """

    def __init__(self, env: CurriculumVecEnv, tasks: Sequence[Task]) -> None:
        self.curriculum = env.curriculum
        names = dict(zip((task.id for task in tasks), task_names(list(tasks)), strict=True))
        # A curriculum may have the tasks in an order of its own.
        order = env.curriculum.tasks if isinstance(env.curriculum, FiniteCurriculum) else ()
        self._names = [names[task.id] for task in order]
        self._places = {task.id: place for place, task in enumerate(order)}
        env.watch = self._see
        self._begin()

    @classmethod
    def of(cls, env: Any, tasks: Sequence[Task]) -> "CurriculumWatch | None":
        """Return the watch over the curriculum that `env` has, if it has one."""
        found = find_curriculum_env(env)
        return None if found is None else cls(found, tasks)

    def level_scores(self) -> LevelScores | None:
        """Return the callback that a curriculum of scores needs."""
        return LevelScores() if self.curriculum.outcome == "score" else None

    def _begin(self) -> None:
        # One row of numbers for each credited episode: a box's point, or a task and its success.
        self._rows: list[list[float]] = []

    def _see(self, played: Proposal, outcome: float | None) -> None:
        if isinstance(self.curriculum, BoxCurriculum):
            box = self.curriculum.box
            self._rows.append(box.scaled(box.point(played.task)).tolist())
        else:
            success = outcome if self.curriculum.outcome == "success" else None
            self._rows.append(
                [float(self._places[played.task.id]), math.nan if success is None else success]
            )

    def values(self) -> dict[str, float]:
        """Return the numbers of a point, by tag, and begin to count anew."""
        values = curriculum_values(self.curriculum, self._names)
        if self._rows:
            seen = np.array(self._rows, np.float64)
            if isinstance(self.curriculum, BoxCurriculum):
                values |= _moments(seen, self.curriculum.box.coordinates)
            else:
                values |= _shares(seen, self._names)
        self._begin()
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted, in JSON's types."""
        return {
            "rows": [[None if math.isnan(cell) else cell for cell in row] for row in self._rows]
        }

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Count on from what `state_dict` returned."""
        self._rows = [
            [math.nan if cell is None else float(cell) for cell in row] for row in values["rows"]
        ]


def _moments(seen: Array, coordinates: Sequence[str]) -> dict[str, float]:
    means, deviations = seen.mean(0).tolist(), seen.std(0).tolist()
    return tagged("mean", coordinates, means) | tagged("deviation", coordinates, deviations)


def _shares(seen: Array, names: Sequence[str]) -> dict[str, float]:
    place = seen[:, 0].astype(np.int64)
    counts = np.bincount(place, minlength=len(names))
    values = tagged("share", names, (counts / len(seen)).tolist())
    judged = ~np.isnan(seen[:, 1])
    for name, number in zip(names, range(len(names)), strict=True):
        own = judged & (place == number)
        if own.any():
            values[f"curriculum/success/{name}"] = float(seen[own, 1].mean())
    return values
