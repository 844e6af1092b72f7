"""What the faces share: a `HostBatch` whose slots have seeds and sources of tasks.

Two random streams per slot: one decides which task comes next (`mtrl.seeding`, only where tasks
are drawn), the other what happens inside it (`mtrl.envs.noise`). Drawing tasks never changes the
noise, and the reverse.
"""

import secrets
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from mtrl.envs.dynamics import Dynamics
from mtrl.envs.family import TaskSource
from mtrl.envs.host import HostBatch, StepResult
from mtrl.envs.task import Task, check_split
from mtrl.errors import UsageError
from mtrl.seeding import numpy_generator

__all__ = ["Slots", "StepResult", "check_source"]

_SEED_BITS = 63
"""Slot seeds are non-negative int64; longer seeds are cut to their low bits."""


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
        self.ids: NDArray[np.object_] = np.empty(len(self.sources), dtype=object)
        self._action_shape = (len(self.sources), *(family.action_space.shape or ()))
        self._env: HostBatch | None = None

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def env(self) -> HostBatch:
        """The running batch.

        Raises:
            UsageError: it was never reset.
        """
        if self._env is None:
            raise UsageError(f"environment of {self.family.name!r}: call reset() before step()")
        return self._env

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
        episodes = np.zeros(len(self), np.int64)
        if self._env is not None:
            episodes = np.where(fresh, 0, self._env.episodes + 1)
        self.tasks = [given or self._next_task(slot) for slot, given in enumerate(tasks)]
        self.ids[:] = [task.id for task in self.tasks]
        self._env = HostBatch(self.family, self.tasks)
        return self._env.reset(np.array(self.seeds, np.int64), episodes)

    def reset_slots(self, slots: NDArray[np.intp]) -> NDArray[np.float32]:
        """Begin the next episode from its source in these slots; return their observations."""
        changed = [slot for slot in slots.tolist() if self.sources[slot] is not self.tasks[slot]]
        if changed:
            for slot in changed:
                self.tasks[slot] = self._next_task(slot)
                self.ids[slot] = self.tasks[slot].id
            self.env.set_tasks(changed, [self.tasks[slot] for slot in changed])
        return self.env.reset_slots(slots)

    def step(self, actions: Any) -> StepResult:
        """Apply one action per slot.

        Raises:
            UsageError: actions of the wrong shape, NaN, or not in a discrete space; the message
                names the family and the task.
        """
        return self.env.step(self._checked(actions))

    def _checked(self, actions: Any) -> NDArray[Any]:
        space = self.family.action_space
        array = np.array(actions, dtype=space.dtype, order="C")
        if array.shape != self._action_shape:
            wanted = self._action_shape[1:]
            raise self._action_error(0, f"actions of shape {array.shape[1:]}, wanted {wanted}")
        if isinstance(space, gym.spaces.Discrete):
            # Unsigned, what is below the first action is above all others: one comparison.
            index = array - space.start if space.start else array
            good = index.astype(np.uint64) < np.uint64(space.n)
        else:
            good = np.isfinite(array).reshape(len(self), -1).all(axis=1)
        if not good.all():
            slot = int(good.argmin())
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
