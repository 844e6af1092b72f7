"""Transitions of many tasks, kept apart, as rows of one tensor."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mtrl.errors import UsageError
from mtrl.meta.agent import Transition

__all__ = ["TaskReplay", "Transitions"]


class Transitions(NamedTuple):
    """Transitions of several tasks, each (tasks, transitions, ...); rewards and terminated have a last axis of 1."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor

    @classmethod
    def of_steps(cls, steps: Sequence[Transition]) -> tuple[Self, Tensor]:
        """Return the transitions of a round of episodes, and which of them happened, (tasks, transitions)."""

        def stacked(name: str) -> Tensor:
            return torch.stack([getattr(step, name) for step in steps], 2).flatten(1, 2)

        parts = (
            stacked("observations"),
            stacked("actions"),
            stacked("rewards").unsqueeze(-1),
            stacked("next_observations"),
            stacked("terminated").unsqueeze(-1),
        )
        return cls(*(part.float() for part in parts)), stacked("running")


class TaskReplay:
    """A ring of transitions for each task; its oldest make room for its newest.

    Args:
        tasks: how many there are.
        capacity: transitions kept of each.
        sizes: numbers in an observation and in an action.
        device: where they are.

    Attributes:
        counts: (tasks,), transitions kept of each task.
    """

    def __init__(
        self,
        tasks: int,
        capacity: int,
        sizes: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        observation, action = sizes
        self._widths = [observation, action, 1, observation, 1]
        self._rows = torch.zeros(tasks, capacity, sum(self._widths), device=device)
        self.counts = torch.zeros(tasks, dtype=torch.int64, device=device)
        self._next = torch.zeros_like(self.counts)

    @property
    def capacity(self) -> int:
        """Transitions that a task has room for."""
        return self._rows.shape[1]

    def clear(self, tasks: Tensor) -> None:
        """Forget the transitions of `tasks`, int64 (some,)."""
        self.counts[tasks] = 0
        self._next[tasks] = 0

    def add(self, tasks: Tensor, transitions: Transitions, happened: Tensor) -> None:
        """Keep the transitions that `happened`.

        Args:
            tasks: int64 (some,), without repetition.
            transitions: (some, n, ...).
            happened: (some, n), 1 or 0.

        Raises:
            UsageError: they are more than a task has room for.
        """
        if happened.shape[1] > self.capacity:
            raise UsageError(
                f"replay_size is {self.capacity} transitions of a task, and {happened.shape[1]} come "
                "at once; raise it or collect fewer episodes"
            )
        kept = happened > 0
        rank = kept.cumsum(1) - 1
        places = tasks.unsqueeze(1) * self.capacity
        places = places + (self._next[tasks].unsqueeze(1) + rank) % self.capacity
        flat = self._rows.flatten(0, 1)
        flat[places[kept]] = torch.cat(transitions, -1)[kept]
        added = kept.sum(1)
        self._next[tasks] = (self._next[tasks] + added) % self.capacity
        self.counts[tasks] = (self.counts[tasks] + added).clamp(max=self.capacity)

    def draw(self, tasks: Tensor, size: int, generator: torch.Generator) -> Transitions:
        """Draw `size` transitions of each of `tasks`, with replacement; each has at least one.

        Args:
            tasks: int64 (some,).
            size: how many.
            generator: of the draw, on the replay's device.
        """
        shape = (len(tasks), size)
        uniform = torch.rand(shape, generator=generator, device=self._rows.device)
        counts = self.counts[tasks].unsqueeze(1)
        # Rounding may lift a number just below 1 to the count itself.
        ranks = (uniform * counts).long().minimum(counts - 1)
        rows = self._rows[tasks.unsqueeze(1), ranks]
        return Transitions(*torch.split(rows, self._widths, -1))

    def tensors(self) -> dict[str, Tensor]:
        """Return all that is kept, for `load_tensors`."""
        used = int(self.counts.max())
        return {"rows": self._rows[:, :used], "counts": self.counts, "next": self._next}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Continue with what `tensors` returned."""
        self._rows[:, : tensors["rows"].shape[1]] = tensors["rows"].to(self._rows.device)
        self.counts.copy_(tensors["counts"])
        self._next.copy_(tensors["next"])
