"""Bidirectional learning progress on success rates.

Source: Kanitscheider et al. 2021 (arXiv:2106.14876), section 3: normalised success rates, a fast
and a slow moving average of them, a reweighting that stresses small probabilities, and the sampling
distribution of the absolute difference. Kept as published, except that a task without an episode in
a window keeps its last rate; counting it as a failure would look like progress.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from mtrl.envs.curricula.finite import FiniteCurriculum
from mtrl.envs.curricula.protocol import Array, OutcomeKind, check_share
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["LearningProgress", "progress_distribution", "reweighted"]

_HIGHEST_BASELINE = 0.75


def reweighted(rates: Array, stress: float) -> Array:
    """Return f(p) = p (1 - theta) / (p + theta (1 - 2 p)); smaller `stress` theta lifts small p."""
    raised: Array = rates * (1 - stress) / (rates + stress * (1 - 2 * rates))
    return raised


def progress_distribution(progress: Array, rates: Array) -> Array:
    """Return the normalised sigmoid of the z-scored progress, over tasks that show any life.

    Args:
        progress: (tasks,), absolute learning progress.
        rates: (tasks,), moving averages of the success rates; a task whose progress and rate are
            both 0 has probability 0. If that is all tasks, the distribution is uniform.
    """
    alive = (progress > 0) | (rates > 0)
    if not alive.any():
        return np.full(len(progress), 1 / len(progress))
    chosen = progress[alive]
    weights = expit((chosen - chosen.mean()) / (chosen.std() or 1.0))
    shares = np.zeros(len(progress))
    shares[alive] = weights / weights.sum()
    return shares


class LearningProgress(FiniteCurriculum):
    """Tasks whose success rate moves, up or down, more often than others.

    Args:
        tasks: what it chooses from.
        rng: the curriculum's own generator.
        window: episodes, of all tasks together, after which the rates are measured.
        rate: alpha of both moving averages.
        stress: theta of the reweighting.
        uniform: share of the uniform distribution in the mixture: each task's probability is at
            least `uniform` / tasks.

    Raises:
        UsageError: a parameter out of range.
    """

    kind = "learning-progress"
    outcome: OutcomeKind = "success"

    def __init__(
        self,
        tasks: Sequence[Task],
        rng: np.random.Generator,
        *,
        window: int = 100,
        rate: float = 0.1,
        stress: float = 0.1,
        uniform: float = 0.25,
    ) -> None:
        super().__init__(tasks, rng)
        if window < 1:
            raise UsageError(f"window is {window}; it must be at least 1")
        self.window, self.lag = window, window - 1
        self.rate = check_share("rate", rate)
        self.stress = check_share("stress", stress)
        self.uniform = check_share("uniform", uniform)
        self._successes, self._episodes = np.zeros(len(tasks)), np.zeros(len(tasks))
        # Baseline, last rate, fast, slow and raw moving average; NaN until first measured.
        self._table = np.full((5, len(tasks)), np.nan)

    @property
    def progress(self) -> Array:
        """The absolute learning progress (tasks,); 0 of tasks not yet measured."""
        _, _, fast, slow, _ = np.nan_to_num(self._table)
        change: Array = np.abs(reweighted(fast, self.stress) - reweighted(slow, self.stress))
        return change

    def probabilities(self) -> Array:
        """Return the mixture of uniform and `progress_distribution`."""
        shares = progress_distribution(self.progress, np.nan_to_num(self._table[4]))
        mixed: Array = (1 - self.uniform) * shares + self.uniform / len(self.tasks)
        mixed /= mixed.sum()
        return mixed

    def _learn(self, place: int, outcome: float, label: int | None) -> None:
        self._successes[place] += check_share(f"success of task {self.tasks[place].id}", outcome)
        self._episodes[place] += 1
        if self._episodes.sum() == self.window:
            self._measure()

    def _measure(self) -> None:
        baseline, last, fast, slow, raw = self._table
        visited = self._episodes > 0
        first = visited & np.isnan(last)
        last[visited] = self._successes[visited] / self._episodes[visited]
        baseline[first] = np.minimum(last[first], _HIGHEST_BASELINE)
        gain = np.maximum(last - baseline, 0) / (1 - baseline)
        fast[first], slow[first], raw[first] = gain[first], gain[first], last[first]
        again = ~np.isnan(last) & ~first
        # The slow average follows the fast one as just updated.
        for average, target in ((fast, gain), (slow, fast), (raw, last)):
            average[again] += self.rate * (target[again] - average[again])
        self._successes[:] = self._episodes[:] = 0

    def _state(self) -> dict[str, Any]:
        # JSON has no NaN.
        table = [[None if np.isnan(cell) else float(cell) for cell in row] for row in self._table]
        return {
            "successes": self._successes.tolist(),
            "episodes": self._episodes.tolist(),
            "table": table,
        }

    def _set_state(self, values: dict[str, Any]) -> None:
        self._successes = np.array(values["successes"], np.float64)
        self._episodes = np.array(values["episodes"], np.float64)
        self._table = np.array(values["table"], np.float64)
