"""What every curriculum is: a small state machine that proposes tasks and learns from results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.task import Task
from mtrl.errors import CheckpointError, MtrlError, UsageError

__all__ = [
    "Array",
    "Curriculum",
    "OutcomeKind",
    "Proposal",
    "check_outcome",
    "check_share",
    "check_state",
]

Array = NDArray[np.float64]

OutcomeKind = Literal["return", "success", "score"]
"""What a curriculum is told of an episode: its return, its success (0 or 1, or anything between),
or a score that the learner computes (`mtrl.envs.curricula.scores`)."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A task to play, and what the curriculum wants to hear again with the result.

    Two proposals of one task may differ in `label`: the stage they were drawn in, the side of the
    range that they test, whether they are a replay. Its meaning is the curriculum's own.
    """

    task: Task
    label: int | None = None


@runtime_checkable
class Curriculum(Protocol):
    """Chooses tasks with a generator of its own, and is told how they went.

    Attributes:
        outcome: what `update` is to be given.
        lag: how many updates may pass until what they said can change a proposal; 0 if the next
            proposal already knows.
    """

    @property
    def outcome(self) -> OutcomeKind:
        """What `update` is to be given."""

    @property
    def lag(self) -> int:
        """How many updates may pass until they can change a proposal."""

    def propose(self, n: int) -> list[Proposal]:
        """Draw `n` tasks; the same as `n` calls that draw one."""

    def update(self, played: Proposal | Task, outcome: float) -> None:
        """Credit a result to what was played; results may come late and in any order."""

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values) for a checkpoint, the generator's state included."""

    def load_state_dict(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""


def check_outcome(task: Task, outcome: float) -> float:
    """Return `outcome` as a float.

    Raises:
        MtrlError: it is not finite; the message names the task.
    """
    number = float(outcome)
    if not math.isfinite(number):
        raise MtrlError(
            f"the outcome of task {task.id} {dict(task.params)} of family {task.family!r} is "
            f"{number}, which is not finite: it would spoil the curriculum for all tasks; "
            "leave the episode out, or give it the worst outcome"
        )
    return number


def check_share(name: str, value: float, *, low: float = 0.0, high: float = 1.0) -> float:
    """Return `value` if it is in [low, high].

    Raises:
        UsageError: it is not; the message calls it `name`.
    """
    if not low <= value <= high:
        raise UsageError(f"{name} is {value}; it must be in [{low}, {high}]")
    return value


def check_state(values: dict[str, Any], **ours: str | Sequence[str]) -> None:
    """Check that a checkpoint is of the same curriculum.

    Raises:
        CheckpointError: it is of another kind, or of other tasks.
    """
    for name, expected in ours.items():
        if values[name] != expected:
            raise CheckpointError(
                f"the curriculum's checkpoint has {name} {values[name]!r}, this run "
                f"{expected!r}: resume with the settings that it was made with"
            )
