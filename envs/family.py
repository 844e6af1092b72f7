"""What a task family offers: the two protocols, and the entry through which it is registered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from mtrl.envs.task import Split, Task
from mtrl.errors import UsageError

__all__ = ["FamilySpec", "FewShotBatch", "FewShotFamily", "TaskFamily", "TaskSource"]

TaskSource = Task | Split
"""Where tasks come from: one task for ever, or the split to draw one from at every reset."""


@runtime_checkable
class TaskFamily(Protocol):
    """Tasks that share spaces and differ in dynamics, reward or start.

    Train and test tasks are disjoint by construction unless `splits_overlap` says that the family
    has too few tasks and means the two sets to be the same.

    What `mtrl families` shows of a family besides, if it is there: `parameters`, a `ParameterSpace`;
    `units`, a unit by parameter name; `notes`, remarks to read before use.
    """

    @property
    def name(self) -> str:
        """The name under which the family is registered."""

    @property
    def observation_space(self) -> gym.Space[Any]:
        """The space of one environment's observation."""

    @property
    def action_space(self) -> gym.Space[Any]:
        """The space of one environment's action."""

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""

    @property
    def splits_overlap(self) -> bool:
        """Whether train and test tasks are the same by design."""

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        """Draw `n` tasks of `split`."""

    def context(self, task: Task) -> NDArray[np.float32]:
        """Return what tells this task from others as a float32 vector."""

    def make(self, task: TaskSource, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return a Gymnasium environment of `task`."""

    def make_vec(
        self, tasks: Sequence[TaskSource], seed: int | None = None
    ) -> VectorEnv[Any, Any, Any]:
        """Return a Gymnasium vector environment with one sub-environment per task."""


class FewShotBatch(NamedTuple):
    """Labelled points: `x` (tasks, shots, inputs) and `y` (tasks, shots, outputs)."""

    x: Tensor
    y: Tensor


@runtime_checkable
class FewShotFamily(Protocol):
    """Supervised tasks: each is a function, from which points are drawn."""

    @property
    def name(self) -> str:
        """The name under which the family is registered."""

    @property
    def input_size(self) -> int:
        """Size of one input."""

    @property
    def output_size(self) -> int:
        """Size of one label."""

    @property
    def splits_overlap(self) -> bool:
        """Whether train and test tasks are the same by design."""

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        """Draw `n` tasks of `split`."""

    def sample_params(
        self, n: int, rng: np.random.Generator, split: Split
    ) -> Mapping[str, NDArray[np.float32]]:
        """Draw what `sample` draws from the same generator, as parameters stacked by name."""

    def context(self, task: Task) -> NDArray[np.float32]:
        """Return what tells this task from others as a float32 vector."""

    def draw(
        self,
        tasks: Sequence[Task] | Mapping[str, NDArray[Any]],
        shots: int,
        query_shots: int,
        generator: torch.Generator,
    ) -> tuple[FewShotBatch, FewShotBatch]:
        """Draw support and query points of every task, on the generator's device."""


@dataclass(frozen=True, kw_only=True)
class FamilySpec:
    """How the registry makes a family: its factory and, by preset, the factory's arguments.

    The first preset is the default. A third party declares a `FamilySpec` and names it in the
    entry-point group `mtrl.task_families`. `extra` names the extra of this distribution without
    which its environments cannot be made.

    Raises:
        UsageError: there is no preset.
    """

    name: str
    factory: Callable[..., TaskFamily | FewShotFamily]
    presets: Mapping[str, Mapping[str, Any]]
    summary: str
    extra: str | None = None

    def __post_init__(self) -> None:
        if not self.presets:
            raise UsageError(
                f"family {self.name!r} has no presets; give one, as {{'default': {{}}}}"
            )
