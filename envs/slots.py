"""What the faces share: a `BatchedEnv` on the CPU whose slots have seeds and sources of tasks.

Two random streams per slot: one decides which task comes next (`mtrl.seeding`, only where tasks
are drawn), the other what happens inside it (`mtrl.envs.noise`). Drawing tasks never changes the
noise, and the reverse.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.dynamics import BatchedEnv, Dynamics
from mtrl.envs.family import TaskSource
from mtrl.envs.task import Task, check_split
from mtrl.errors import UsageError
from mtrl.seeding import numpy_generator

__all__ = ["Slots", "StepResult", "check_source"]

_SEED_BITS = 63
"""Slot seeds are non-negative int64; longer seeds are cut to their low bits."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One step of all slots, the slots first; `done` is terminated or truncated."""

    obs: NDArray[Any]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which slots' episodes are over."""
        return self.terminated | self.truncated


def check_source(family: Dynamics, source: TaskSource) -> TaskSource:
    """Return `source` if it is a task of `family` or a split.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(source, Task):
        family.parameters.check(source)
        return source
    return check_split(source)


class Slots:
    """Slots with a source of tasks each: a task, or the split to draw one from at a reset."""

    def __init__(self, family: Dynamics, sources: Sequence[TaskSource]) -> None:
        if not sources:
            raise UsageError("tasks is empty; give one task (or split) per environment")
        self.family = family
        self.sources = [check_source(family, source) for source in sources]
        self.seeds: list[int | None] = [None] * len(self.sources)
        self.tasks: list[Task] = []
        self._task_streams: dict[int, np.random.Generator] = {}
        self._env: BatchedEnv | None = None

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def env(self) -> BatchedEnv:
        """The running batch.

        Raises:
            UsageError: it was never reset.
        """
        if self._env is None:
            raise UsageError(f"environment of {self.family.name!r}: call reset() before step()")
        return self._env

    def task_ids(self) -> NDArray[np.object_]:
        """Return the id of each slot's task."""
        return np.array([task.id for task in self.tasks], dtype=object)

    def _seed(self, slot: int, seed: int | None) -> None:
        seed = secrets.randbits(_SEED_BITS) if seed is None else seed & ((1 << _SEED_BITS) - 1)
        self.seeds[slot] = seed
        # Also for a slot with a fixed task: its source may change.
        self._task_streams[slot] = numpy_generator(seed, "tasks")

    def _next_task(self, slot: int) -> Task:
        source = self.sources[slot]
        if isinstance(source, Task):
            return source
        return self.family.sample(1, self._task_streams[slot], source)[0]

    def reset(
        self, seeds: Sequence[int | None], tasks: Sequence[Task | None]
    ) -> NDArray[np.float32]:
        """Begin an episode in every slot and return the observations.

        Args:
            seeds: a slot with a seed begins that seed's episode 0; without, the next episode of the
                seed it has, or of one from the operating system.
            tasks: a slot with a task plays it in this episode; without, the one from its source.
        """
        fresh = [given is not None or self.seeds[i] is None for i, given in enumerate(seeds)]
        for slot, given in enumerate(seeds):
            if fresh[slot]:
                self._seed(slot, given)
        episodes = torch.zeros(len(self), dtype=torch.int64)
        if self._env is not None:
            episodes = (self._env.episodes + 1).masked_fill(torch.tensor(fresh), 0)
        self.tasks = [given or self._next_task(slot) for slot, given in enumerate(tasks)]
        self._env = BatchedEnv(self.family, self.family.tensors(self.tasks))
        return self._env.reset(torch.tensor(self.seeds), episodes).numpy().copy()

    def reset_where(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Begin the next episode from its source where `mask` holds; return all observations."""
        changed = []
        for slot in np.flatnonzero(mask).tolist():
            task = self._next_task(slot)
            if task is not self.tasks[slot]:
                self.tasks[slot] = task
                changed.append(slot)
        if changed:
            for name, rows in self.family.tensors([self.tasks[i] for i in changed]).items():
                self.env.params[name] = self.env.params[name].index_put(
                    (torch.tensor(changed),), rows
                )
        return self.env.reset_where(torch.from_numpy(mask)).numpy().copy()

    def step(self, actions: Any) -> StepResult:
        """Apply one action per slot.

        Raises:
            UsageError: actions of the wrong shape, NaN, or not in a discrete space; the message
                names the family and the task.
        """
        env = self.env
        action = torch.from_numpy(self._checked(actions))
        obs, reward, terminated, truncated = env.step(action)
        return StepResult(
            obs=obs.numpy().copy(),
            reward=reward.numpy(),
            terminated=terminated.numpy(),
            truncated=truncated.numpy(),
        )

    def _checked(self, actions: Any) -> NDArray[Any]:
        space = self.family.action_space
        array = np.array(actions, dtype=space.dtype)
        shape = (len(self), *(space.shape or ()))
        if array.shape != shape:
            raise self._action_error(0, f"actions of shape {array.shape[1:]}, wanted {shape[1:]}")
        if isinstance(space, gym.spaces.Discrete):
            bad = (array < space.start) | (array >= space.start + space.n)
        else:
            bad = ~np.isfinite(array).reshape(len(self), -1).all(axis=1)
        if bad.any():
            slot = int(bad.argmax())
            raise self._action_error(slot, f"action {array[slot]} is not in {space}")
        return array

    def _action_error(self, slot: int, problem: str) -> UsageError:
        task = self.tasks[slot]
        return UsageError(
            f"environment {slot} of family {self.family.name!r}, task {task.id}: {problem}"
        )

    def option_task(self, options: dict[str, Any] | None) -> Task | None:
        """Return the task that `reset(options=...)` asks for, if it does.

        Raises:
            UsageError: it is not a task of this family.
        """
        task = (options or {}).get("task")
        if task is None:
            return None
        if not isinstance(task, Task):
            raise UsageError(f"options['task'] is {task!r}; it must be an mtrl.envs.task.Task")
        self.family.parameters.check(task)
        return task
