"""Returns, lengths and successes of finished episodes, by task."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from mtrl.errors import UsageError

__all__ = ["EpisodeTable", "TaskSummary"]


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """Means over all `episodes` of a task, and over the most recent ones.

    Success rates are over the episodes that reported success or failure; None if none did.
    """

    episodes: int
    mean_return: float
    mean_length: float
    success_rate: float | None
    recent_return: float
    recent_length: float
    recent_success_rate: float | None


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


@dataclass(kw_only=True)
class _Record:
    """Sums over all episodes of a task, and its recent ones as (return, length, success)."""

    recent: deque[tuple[float, int, bool | None]]
    episodes: int = 0
    total_return: float = 0.0
    total_length: int = 0
    judged: int = 0
    successes: int = 0

    def add(self, total: float, length: int, success: bool | None) -> None:
        self.episodes += 1
        self.total_return += total
        self.total_length += length
        self.judged += success is not None
        self.successes += bool(success)
        self.recent.append((total, length, success))

    def summary(self) -> TaskSummary:
        judged = [success for _, _, success in self.recent if success is not None]
        return TaskSummary(
            episodes=self.episodes,
            mean_return=self.total_return / self.episodes,
            mean_length=self.total_length / self.episodes,
            success_rate=self.successes / self.judged if self.judged else None,
            recent_return=sum(total for total, _, _ in self.recent) / len(self.recent),
            recent_length=sum(length for _, length, _ in self.recent) / len(self.recent),
            recent_success_rate=_mean(judged),
        )


@dataclass
class EpisodeTable:
    """Statistics of episodes by task id.

    Args:
        window: how many of a task's episodes count as recent.

    Raises:
        UsageError: `window` is not positive.
    """

    window: int = 100
    _records: dict[str, _Record] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"window is {self.window}; it must be at least 1")

    def add(self, task_id: str, total: float, length: int, success: bool | None = None) -> None:
        """Count a finished episode: its undiscounted return, its steps, and success if known."""
        if task_id not in self._records:
            self._records[task_id] = _Record(recent=deque(maxlen=self.window))
        self._records[task_id].add(float(total), int(length), success)

    def summaries(self) -> dict[str, TaskSummary]:
        """Return the statistics of every task of which an episode ended, in that order."""
        return {task_id: record.summary() for task_id, record in self._records.items()}

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (no tensors, JSON values) for a checkpoint."""
        tasks = {
            task_id: {**vars(record), "recent": [list(episode) for episode in record.recent]}
            for task_id, record in self._records.items()
        }
        return {}, {"tasks": tasks}

    def load_state_dict(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Replace everything by what `state_dict` returned; the window stays this table's."""
        self._records = {
            task_id: _Record(
                **{**record, "recent": deque(map(tuple, record["recent"]), maxlen=self.window)}
            )
            for task_id, record in values["tasks"].items()
        }
