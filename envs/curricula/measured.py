"""Curricula that need a first result of every task: learnability and worst regret."""

import abc
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mtrl.envs.curricula.finite import FiniteCurriculum
from mtrl.envs.curricula.protocol import Array, OutcomeKind, check_share
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.hedge import exponentiated_gradient

__all__ = ["Adversary", "Learnability", "WorstRegret", "learnability"]


def learnability(rates: Array) -> Array:
    """Return p (1 - p), the variance of a success of probability p."""
    return rates * (1 - rates)


class _Measured(FiniteCurriculum):
    """Uniform over the tasks without a result until there are none, then `_weights`."""

    uniform: float

    @abc.abstractmethod
    def _unmeasured(self) -> Array:
        """Return 1 for the tasks without a result, 0 for others."""

    @abc.abstractmethod
    def _weights(self) -> Array:
        """Return the shares of the tasks, of sum 1, once all have a result."""

    def probabilities(self) -> Array:
        """Return the curriculum's shares, mixed with `uniform` of the uniform distribution."""
        missing = self._unmeasured()
        if missing.any():
            shares: Array = missing / missing.sum()
            return shares
        mixed: Array = (1 - self.uniform) * self._weights() + self.uniform / len(self.tasks)
        mixed /= mixed.sum()
        return mixed


class Learnability(_Measured):
    """The tasks that succeed about half of the time: the top of p (1 - p).

    Source: Rutherford et al. 2024 (arXiv:2408.15099). There p is measured by rollouts made for it;
    here it is the mean of a task's last `window` outcomes.

    Args:
        tasks: what it chooses from.
        rng: the curriculum's own generator.
        keep: how many tasks are trained on, uniformly; of equal scores, the earlier in `tasks`.
        window: outcomes of a task that make its success rate.
        uniform: share of the uniform distribution over all tasks; without, tasks outside the top
            would never be measured again.

    Raises:
        UsageError: a parameter out of range.
    """

    kind = "learnability"
    outcome: OutcomeKind = "success"

    def __init__(
        self,
        tasks: Sequence[Task],
        rng: np.random.Generator,
        *,
        keep: int,
        window: int = 20,
        uniform: float = 0.1,
    ) -> None:
        super().__init__(tasks, rng)
        if not 1 <= keep <= len(tasks) or window < 1:
            raise UsageError(
                f"keep is {keep} and window {window}; keep must be in [1, {len(tasks)}] and "
                "window at least 1"
            )
        self.keep, self.window = keep, window
        self.uniform = check_share("uniform", uniform)
        self._outcomes: list[deque[float]] = [deque(maxlen=window) for _ in tasks]

    def _unmeasured(self) -> Array:
        return np.array([float(not outcomes) for outcomes in self._outcomes])

    @property
    def scores(self) -> Array:
        """The learnability of each task (tasks,); 0 of one without a result."""
        rates = [sum(outcomes) / max(len(outcomes), 1) for outcomes in self._outcomes]
        return learnability(np.array(rates))

    def _weights(self) -> Array:
        shares = np.zeros(len(self.tasks))
        shares[np.argsort(-self.scores, kind="stable")[: self.keep]] = 1 / self.keep
        return shares

    def _learn(self, place: int, outcome: float, label: int | None) -> None:
        name = f"success of task {self.tasks[place].id}"
        self._outcomes[place].append(check_share(name, outcome))

    def _state(self) -> dict[str, Any]:
        return {"outcomes": [list(outcomes) for outcomes in self._outcomes]}

    def _set_state(self, values: dict[str, Any]) -> None:
        self._outcomes = [deque(row, maxlen=self.window) for row in values["outcomes"]]


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """How the weights of `WorstRegret` move.

    Args:
        step_size: in 1 / unit of the regrets.
        window: episodes, of all tasks together, from one step to the next.
        uniform: share of the uniform distribution in the mixture.

    Raises:
        UsageError: a parameter out of range.
    """

    step_size: float
    window: int = 100
    uniform: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step_size) and self.step_size > 0) or self.window < 1:
            raise UsageError(
                f"step_size is {self.step_size} and window {self.window}; both must be positive"
            )
        check_share("uniform", self.uniform)


class WorstRegret(_Measured):
    """Tasks in proportion to an adversary's weights, which move to the largest regrets.

    The weights are those of `mtrl.agents.objectives.TaskObjective` ("worst-regret", and
    "normalised-worst-regret" with `random`); drawing in proportion to them makes the plain mean over
    episodes the weighted one. Every `adversary.window` episodes each task's regret is best - mean return, of a
    task without an episode in the window the last one known, and the weights take one step of
    exponentiated gradient.

    Args:
        tasks: what it chooses from.
        rng: the curriculum's own generator.
        adversary: see `Adversary`.
        best: (tasks,), the best return of each task.
        random: (tasks,), returns without learning; regrets are then divided by best - random.

    Raises:
        UsageError: not one finite return per task, or a best return that is not above the random one.
    """

    kind = "worst-regret"

    def __init__(
        self,
        tasks: Sequence[Task],
        rng: np.random.Generator,
        adversary: Adversary,
        *,
        best: ArrayLike,
        random: ArrayLike | None = None,
    ) -> None:
        super().__init__(tasks, rng)
        self.adversary, self.uniform = adversary, adversary.uniform
        self.lag = adversary.window - 1
        self._best = self._per_task("best", best)
        scale = (
            np.ones(len(tasks)) if random is None else self._best - self._per_task("random", random)
        )
        if (scale <= 0).any():
            worst = self.tasks[int(scale.argmin())]
            raise UsageError(
                f"task {worst.id}: the best return is not above the random one; train its "
                "specialist longer, or leave random out"
            )
        self._scale = scale
        self._log_weights = np.full(len(tasks), -math.log(len(tasks)))
        self._sums, self._episodes = np.zeros(len(tasks)), np.zeros(len(tasks))
        self._returns = np.full(len(tasks), np.nan)

    def _per_task(self, name: str, values: ArrayLike) -> Array:
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (len(self.tasks),) or not np.isfinite(array).all():
            raise UsageError(
                f"{name} must hold one finite return for each of {len(self.tasks)} tasks, got {array}"
            )
        return array

    def _unmeasured(self) -> Array:
        missing: Array = (np.isnan(self._returns) & (self._episodes == 0)).astype(np.float64)
        return missing

    @property
    def weights(self) -> Array:
        """The adversary's weights (tasks,), of sum 1."""
        weights: Array = np.exp(self._log_weights)
        return weights

    def _weights(self) -> Array:
        return self.weights

    def _learn(self, place: int, outcome: float, label: int | None) -> None:
        self._sums[place] += outcome
        self._episodes[place] += 1
        if self._episodes.sum() >= self.adversary.window and not self._unmeasured().any():
            self._step()

    def _step(self) -> None:
        visited = self._episodes > 0
        self._returns[visited] = self._sums[visited] / self._episodes[visited]
        regrets = (self._best - self._returns) / self._scale
        self._log_weights = exponentiated_gradient(
            self._log_weights, regrets, self.adversary.step_size
        )
        self._sums[:] = self._episodes[:] = 0

    def _state(self) -> dict[str, Any]:
        returns = [None if np.isnan(value) else float(value) for value in self._returns]
        return {
            "log_weights": self._log_weights.tolist(),
            "sums": self._sums.tolist(),
            "episodes": self._episodes.tolist(),
            "returns": returns,
        }

    def _set_state(self, values: dict[str, Any]) -> None:
        self._log_weights = np.array(values["log_weights"], np.float64)
        self._sums = np.array(values["sums"], np.float64)
        self._episodes = np.array(values["episodes"], np.float64)
        self._returns = np.array(values["returns"], np.float64)
