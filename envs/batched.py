"""The base class of task families with batched dynamics: write them once, get four faces.

The faces are those of `mtrl.envs.faces` and `BatchedEnv` on any device. The same seed gives the same
numbers in all of them.
"""

from collections.abc import Sequence

import torch

from mtrl.envs.dynamics import BatchedEnv, Dynamics, TensorParams
from mtrl.envs.faces import FacedFamily
from mtrl.envs.host import HostBatch
from mtrl.envs.task import Task

__all__ = ["BatchedEnv", "BatchedFamily", "TensorParams"]


class BatchedFamily(Dynamics, FacedFamily):
    """A task family defined by `reset`, `step` and `observe` on tensors (see `Dynamics`)."""

    def slot_batch(self, tasks: Sequence[Task]) -> HostBatch:
        """Return a batch on the host with one slot per task."""
        return HostBatch(self, tasks)

    def batch(
        self, tasks: Sequence[Task], *, repeats: int = 1, device: torch.device | str = "cpu"
    ) -> BatchedEnv:
        """Return a batch with `repeats` slots per task, task-major, on any device."""
        return BatchedEnv(self, self.tensors(tasks, repeats=repeats, device=device))
