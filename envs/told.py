"""Families whose learner is told the task: its context stands beside what is observed.

For an oracle, which shows what can be had where nothing about the task is hidden. Tasks, rewards and labels are
those of the family inside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from mtrl.envs.episodes import episode_batch
from mtrl.envs.family import FewShotBatch, FewShotFamily, TaskFamily, TaskSource
from mtrl.envs.parameters import ParameterSpace
from mtrl.envs.task import Split, Task
from mtrl.envs.wrappers.context import TaskContext, VectorTaskContext
from mtrl.errors import UsageError
from mtrl.rollouts import EpisodeBatch

__all__ = ["ToldFamily", "ToldFewShotFamily"]


def _context_size(family: TaskFamily | FewShotFamily) -> int:
    # Any task tells the size; the generator is nobody else's.
    (example,) = family.sample(1, np.random.default_rng(0), "train")
    return len(family.context(example))


def _contexts(
    family: TaskFamily | FewShotFamily, tasks: Sequence[Task] | Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Return the contexts of tasks, or of their stacked parameters, (tasks, size)."""
    if isinstance(tasks, Mapping):
        columns = zip(*(values.tolist() for values in tasks.values()), strict=True)
        tasks = [
            Task(family=family.name, params=dict(zip(tasks, row, strict=True)), split="train")
            for row in columns
        ]
    return np.stack([family.context(task) for task in tasks])


@dataclass(frozen=True)
class ToldFewShotFamily:
    """A supervised family whose inputs end in the task's context; a `FewShotFamily`."""

    inner: FewShotFamily

    @property
    def name(self) -> str:
        """The name of the family inside, whose tasks these are."""
        return self.inner.name

    @property
    def parameters(self) -> ParameterSpace | None:
        """The distribution of its tasks, if it says it."""
        return getattr(self.inner, "parameters", None)

    @cached_property
    def input_size(self) -> int:
        """Size of one input with the context."""
        return self.inner.input_size + _context_size(self.inner)

    @property
    def output_size(self) -> int:
        """Size of one label."""
        return self.inner.output_size

    @property
    def splits_overlap(self) -> bool:
        """Whether train and test tasks are the same by design."""
        return self.inner.splits_overlap

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        """Draw `n` tasks of `split`."""
        return self.inner.sample(n, rng, split)

    def sample_params(
        self, n: int, rng: np.random.Generator, split: Split
    ) -> Mapping[str, NDArray[np.float32]]:
        """Draw what `sample` draws from the same generator, as parameters stacked by name."""
        return self.inner.sample_params(n, rng, split)

    def context(self, task: Task) -> NDArray[np.float32]:
        """Return what the inputs end in."""
        return self.inner.context(task)

    def draw(
        self,
        tasks: Sequence[Task] | Mapping[str, NDArray[Any]],
        shots: int,
        query_shots: int,
        generator: torch.Generator,
    ) -> tuple[FewShotBatch, FewShotBatch]:
        """Draw the points that the family inside draws, each input followed by the context."""
        support, query = self.inner.draw(tasks, shots, query_shots, generator)
        contexts = torch.from_numpy(_contexts(self.inner, tasks)).to(support.x)

        def told(points: FewShotBatch) -> FewShotBatch:
            beside = contexts.unsqueeze(1).expand(-1, points.x.shape[1], -1)
            return FewShotBatch(torch.cat([points.x, beside], -1), points.y)

        return told(support), told(query)


@dataclass(frozen=True)
class ToldFamily:
    """A family whose observations end in the task's context; a `TaskFamily`.

    Raises:
        UsageError: observations are no vectors.
    """

    inner: TaskFamily

    def __post_init__(self) -> None:
        space = self.inner.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise UsageError(
                f"observations of {self.inner.name!r} are {space}; an oracle reads the task beside "
                "a vector of real numbers, so choose another family"
            )

    @property
    def name(self) -> str:
        """The name of the family inside, whose tasks these are."""
        return self.inner.name

    @property
    def parameters(self) -> ParameterSpace | None:
        """The distribution of its tasks, if it says it."""
        return getattr(self.inner, "parameters", None)

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """The observations inside, then the context, which has no bounds."""
        space = self.inner.observation_space
        assert isinstance(space, gym.spaces.Box)
        free = np.full(_context_size(self.inner), np.inf)
        low, high = np.concatenate([space.low, -free]), np.concatenate([space.high, free])
        return gym.spaces.Box(low.astype(np.float32), high.astype(np.float32))

    @property
    def action_space(self) -> gym.Space[Any]:
        """The space of one environment's action."""
        return self.inner.action_space

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""
        return self.inner.horizon

    @property
    def splits_overlap(self) -> bool:
        """Whether train and test tasks are the same by design."""
        return self.inner.splits_overlap

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        """Draw `n` tasks of `split`."""
        return self.inner.sample(n, rng, split)

    def context(self, task: Task) -> NDArray[np.float32]:
        """Return what the observations end in."""
        return self.inner.context(task)

    def make(self, task: TaskSource, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return a Gymnasium environment of `task`."""
        return TaskContext(self.inner.make(task, render_mode))

    def make_vec(
        self, tasks: Sequence[TaskSource], seed: int | None = None
    ) -> VectorEnv[Any, Any, Any]:
        """Return a Gymnasium vector environment with one sub-environment per task."""
        return VectorTaskContext(self.inner.make_vec(tasks, seed))

    def batch(
        self, tasks: Sequence[Task], *, repeats: int = 1, device: torch.device | str = "cpu"
    ) -> EpisodeBatch:
        """Return a batch with `repeats` slots per task, task-major."""
        contexts = torch.from_numpy(_contexts(self.inner, tasks)).to(device)
        episodes = episode_batch(self.inner, tasks, repeats=repeats, device=device)
        return _ToldBatch(episodes, contexts.repeat_interleave(repeats, 0))


@dataclass(frozen=True)
class _ToldBatch:
    """Episodes whose observations end in the slot's context (slots, size)."""

    inner: EpisodeBatch
    contexts: Tensor

    @property
    def horizon(self) -> int:
        """Steps of an episode that nothing ends."""
        return self.inner.horizon

    def reset(self, seeds: Tensor) -> Tensor:
        """Start an episode in every slot."""
        return self._told(self.inner.reset(seeds))

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Step every slot."""
        observations, rewards, terminated, truncated = self.inner.step(actions)
        return self._told(observations), rewards, terminated, truncated

    def _told(self, observations: Tensor) -> Tensor:
        return torch.cat([observations, self.contexts.to(observations.dtype)], -1)
