"""What is known of each task while it is trained on: episodes, and the scale of its rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.wrappers.episode_table import EpisodeTable, TaskSummary
from mtrl.errors import UsageError

__all__ = ["RewardScale", "RewardScaling", "TaskStatistics"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_PRIOR_COUNT = 1e-4
"""Of the variance 1 that scales begin with, as in Stable-Baselines3's `RunningMeanStd`."""


class TaskStatistics:
    """Returns, lengths and successes of finished episodes, one number per task.

    A task of which no episode has ended has NaN.

    Args:
        names: of the tasks, in order.
        window: how many of a task's latest episodes the means are over.

    Raises:
        UsageError: `window` is not positive.
    """

    def __init__(self, names: Sequence[str], *, window: int = 100) -> None:
        self.names = tuple(names)
        self._table = EpisodeTable(window)
        self._latest = np.full(len(names), np.nan)
        self.begin_rollout()

    def begin_rollout(self) -> None:
        """Begin to count the episodes that `rollout_returns` are of."""
        self._sums, self._counts = np.zeros(len(self.names)), np.zeros(len(self.names), np.int64)

    def add(self, task: int, total: float, length: int, success: bool | None = None) -> None:
        """Count a finished episode: its undiscounted return, its steps, and success if known."""
        self._table.add(self.names[task], total, length, success)
        self._sums[task] += total
        self._counts[task] += 1
        self._latest[task] = self._sums[task] / self._counts[task]

    def rollout_episodes(self) -> Index:
        """Return how many episodes of each task ended since `begin_rollout`."""
        return self._counts.copy()

    def rollout_returns(self) -> Array:
        """Return each task's mean return since `begin_rollout`.

        A task without an episode in that time has the mean of the last rollout in which it had one.
        """
        return self._latest.copy()

    def episodes(self) -> Index:
        """Return how many episodes of each task have ended."""
        known = self._table.summaries()
        return np.array([known[name].episodes if name in known else 0 for name in self.names])

    def mean_returns(self) -> Array:
        """Return each task's mean return over the window."""
        return self._column("recent_return")

    def mean_lengths(self) -> Array:
        """Return each task's mean episode length over the window, in steps."""
        return self._column("recent_length")

    def success_rates(self) -> Array:
        """Return each task's share of successes in the window; NaN where none was reported."""
        return self._column("recent_success_rate")

    def summaries(self) -> dict[str, TaskSummary]:
        """Return all statistics of the tasks of which an episode ended, by name."""
        return self._table.summaries()

    def _column(self, field: str) -> Array:
        known = self._table.summaries()
        found = [getattr(known[name], field) if name in known else None for name in self.names]
        return np.array([np.nan if value is None else value for value in found], np.float64)

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values) for a checkpoint."""
        arrays = {"latest": self._latest, "sums": self._sums, "counts": self._counts}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, {
            "names": list(self.names),
            "table": self._table.state_dict()[1],
        }

    def load_state_dict(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Replace everything by what `state_dict` returned; the window stays this one's.

        Raises:
            UsageError: they are of other tasks.
        """
        if tuple(values["names"]) != self.names:
            raise UsageError(
                f"the statistics are of tasks {', '.join(values['names'])}, these of "
                f"{', '.join(self.names)}; use the tasks that they were saved with, in that order"
            )
        self._table.load_state_dict({}, values["table"])
        self._latest, self._sums, self._counts = (
            tensors[name].numpy().copy() for name in ("latest", "sums", "counts")
        )


@dataclass(frozen=True, kw_only=True)
class RewardScaling:
    """How rewards are brought to one scale: each task's by the deviation of its discounted return.

    The scaling of Stable-Baselines3's `VecNormalize`, for each task on its own (Engstrom et al. 2020,
    arXiv:2005.12729, section 3).
    """

    discount: float = 0.99
    """Of the return whose deviation is measured."""
    clip: float = 10.0
    """The greatest absolute value of a scaled reward."""
    epsilon: float = 1e-8
    """Added to the variance."""

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1:
            raise UsageError(f"discount is {self.discount}; it must be in [0, 1]")
        for name in ("clip", "epsilon"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be positive")


class RewardScale:
    """Scales the rewards of slots, each by the statistics of its task.

    Attributes:
        mean, variance, count: (tasks,), of the discounted returns so far.
        returns: (slots,), the discounted return of each slot's episode.

    Args:
        scaling: how.
        tasks: how many tasks there are.
        slots: how many environments.
    """

    def __init__(self, scaling: RewardScaling, *, tasks: int, slots: int) -> None:
        self.scaling = scaling
        self.mean, self.variance = np.zeros(tasks), np.ones(tasks)
        self.count = np.full(tasks, _PRIOR_COUNT)
        self.returns = np.zeros(slots)

    def begin(self, slots: Any = slice(None)) -> None:
        """Begin new episodes in these slots, or in all."""
        self.returns[slots] = 0

    def update(self, rewards: NDArray[Any], tasks: Index) -> None:
        """Take in a step's rewards (slots,) of episodes of these tasks (slots,)."""
        self.returns = self.returns * self.scaling.discount + rewards
        number = len(self.mean)
        count = np.bincount(tasks, minlength=number)
        divisor = np.maximum(count, 1)
        mean = np.bincount(tasks, self.returns, number) / divisor
        spread = np.bincount(tasks, (self.returns - mean[tasks]) ** 2, number)
        # Chan, Golub and LeVeque 1983; a task without a reward has count 0 and stays as it is.
        total = self.count + count
        delta = mean - self.mean
        spread += self.variance * self.count + delta**2 * self.count * count / total
        self.mean = self.mean + delta * count / total
        self.variance = np.where(count > 0, spread / total, self.variance)
        self.count = total

    def __call__(self, rewards: NDArray[Any], tasks: Index) -> NDArray[np.float32]:
        """Return the rewards (slots,) in units of their tasks' deviations."""
        deviation = np.sqrt(self.variance + self.scaling.epsilon)
        scaled = np.clip(rewards / deviation[tasks], -self.scaling.clip, self.scaling.clip)
        return scaled.astype(np.float32)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors for a checkpoint."""
        names = ("mean", "variance", "count", "returns")
        return {name: torch.from_numpy(getattr(self, name).copy()) for name in names}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Replace everything by what `state_dict` returned."""
        for name in ("mean", "variance", "count", "returns"):
            setattr(self, name, tensors[name].numpy().copy())
