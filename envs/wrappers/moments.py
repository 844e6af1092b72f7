"""Count, mean and variance of everything seen: of all tasks together, or of each on its own.

Batches are merged by the parallel algorithm of Chan, Golub and LeVeque (1983), as Gymnasium's
`RunningMeanStd` has it, in float64 and from a count of nothing: the result is the mean and the
(population) variance of the values, not one pulled towards a prior.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.wrappers.utils import RunningMeanStd
from numpy.typing import NDArray

from mtrl.errors import UsageError

__all__ = ["TaskMoments"]

Array = NDArray[np.float64]
_ALL = "all"
_Moments: Any = RunningMeanStd  # it comes without types


class TaskMoments:
    """Moments of values of one `shape`, in one group or in one per task id.

    A task of which nothing was seen has the moments of all tasks together. Where fewer than two
    values were seen the variance counts as 1, so that nothing is blown up.
    """

    def __init__(self, shape: tuple[int, ...], *, per_task: bool) -> None:
        self.shape, self.per_task = shape, per_task
        self._groups: dict[str, Any] = {}
        self._pooled: Any = None

    @property
    def groups(self) -> list[str]:
        """The task ids of which something was seen, in that order; or "all"."""
        return list(self._groups)

    def _new(self) -> Any:
        return _Moments(epsilon=0.0, shape=self.shape, dtype=np.float64)

    def update(self, values: Array, task_ids: Sequence[Any]) -> None:
        """Take in `values`, shaped (rows, *shape), with the id of the task of each row."""
        rows: dict[str, list[int]] = {}
        for row, task_id in enumerate(task_ids):
            rows.setdefault(task_id if self.per_task else _ALL, []).append(row)
        for name, chosen in rows.items():
            if name not in self._groups:
                self._groups[name] = self._new()
            self._groups[name].update(values[chosen])
        self._pooled = None

    def _pool(self) -> Any:
        if self._pooled is None:
            self._pooled = self._new()
            for group in self._groups.values():
                self._pooled.update_from_moments(group.mean, group.var, group.count)
        return self._pooled

    def of(self, task_id: Any) -> tuple[float, Array, Array]:
        """Return count, mean and variance that apply to the task."""
        group = self._groups.get(task_id if self.per_task else _ALL) or self._pool()
        variance = group.var if group.count >= 2 else np.ones(self.shape)
        return group.count, np.asarray(group.mean), np.asarray(variance)

    def rows(self, task_ids: Sequence[Any]) -> tuple[Array, Array]:
        """Return means and variances that broadcast against (rows, *shape)."""
        if not self.per_task:
            _, mean, variance = self.of(_ALL)
            return mean[None], variance[None]
        found = [self.of(task_id) for task_id in task_ids]
        return np.stack([mean for _, mean, _ in found]), np.stack([var for _, _, var in found])

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values) for a checkpoint; groups are stacked in order."""
        groups = self._groups.values()
        stacked = {
            "count": np.array([group.count for group in groups], np.float64),
            "mean": np.array([group.mean for group in groups]).reshape(-1, *self.shape),
            "variance": np.array([group.var for group in groups]).reshape(-1, *self.shape),
        }
        tensors = {name: torch.from_numpy(array) for name, array in stacked.items()}
        return tensors, {"per_task": self.per_task, "groups": self.groups}

    def load_state_dict(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Replace the moments by those that `state_dict` returned.

        Raises:
            UsageError: they are of another shape, or kept per task where these are not.
        """
        if values["per_task"] != self.per_task:
            raise UsageError(
                f"the statistics have per_task={values['per_task']}, the wrapper per_task="
                f"{self.per_task}; make it with the one that they were saved with"
            )
        shape = tuple(tensors["mean"].shape[1:])
        if shape != self.shape:
            raise UsageError(f"the statistics are of shape {shape}, the environment's {self.shape}")
        self._groups, self._pooled = {}, None
        for row, name in enumerate(values["groups"]):
            group = self._groups[name] = self._new()
            group.count = float(tensors["count"][row])
            group.mean = tensors["mean"][row].numpy().copy()
            group.var = tensors["variance"][row].numpy().copy()
