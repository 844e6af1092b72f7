"""Batches of episodes of any task family, as meta-training and evaluation run them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from mtrl.envs.episode_envs import EpisodeEnvs
from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task
from mtrl.rollouts import EpisodeBatch

__all__ = ["SupportsBatch", "episode_batch"]


@runtime_checkable
class SupportsBatch(Protocol):
    """A task family that steps many environments together faster than its vector environment."""

    def batch(
        self, tasks: Sequence[Task], *, repeats: int = 1, device: torch.device | str = "cpu"
    ) -> EpisodeBatch:
        """Return a batch with `repeats` slots per task, task-major."""


def episode_batch(
    family: TaskFamily,
    tasks: Sequence[Task],
    *,
    repeats: int = 1,
    device: torch.device | str = "cpu",
) -> EpisodeBatch:
    """Return a batch with `repeats` slots per task, task-major, whose tensors are on `device`.

    A family that cannot step environments together has one of Gymnasium's per slot.

    Raises:
        UsageError: its observations are no arrays.
    """
    if isinstance(family, SupportsBatch):
        return family.batch(tasks, repeats=repeats, device=device)
    return EpisodeEnvs(family, tasks, repeats=repeats, device=device)
