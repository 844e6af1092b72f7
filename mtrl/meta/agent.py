"""The seam between evaluation and agents that adapt: gradient, recurrent and latent adaptation alike."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["MetaAgent", "Transition"]


@dataclass(frozen=True)
class Transition:
    """One step of every slot.

    Attributes:
        observations: (tasks, episodes, features), before the action.
        actions: (tasks, episodes, ...), as the agent gave them.
        rewards: (tasks, episodes), 0 after the end of an episode.
        running: (tasks, episodes), 1 while the episode was running before the step.
        terminated: (tasks, episodes), 1 where the step ended the task's episode by itself.
        next_observations: (tasks, episodes, features).
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    running: Tensor
    terminated: Tensor
    next_observations: Tensor


class MetaAgent(Protocol):
    """An agent that is put before new tasks, acts, observes what happens, and adapts between rounds."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def begin(self, n_tasks: int) -> None:
        """Forget everything about earlier tasks; the next `n_tasks` are new."""

    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Return actions for observations (tasks, episodes, features).

        Real numbers (tasks, episodes, actions), -1 and 1 standing for the bounds of the action space, or
        choices (tasks, episodes) from 0 on: see `mtrl.envs.actions`.
        """

    def observe(self, transition: Transition) -> None:
        """Take note of what the last actions led to."""

    def adapt(self) -> None:
        """Learn from the episodes observed since the last call."""
