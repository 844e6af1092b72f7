"""What the faces share: a `SlotBatch` whose slots have seeds and sources of tasks.

Two random streams per slot: one decides which task comes next (`mtrl.seeding`, only where tasks
are drawn), the other what happens inside it (`mtrl.envs.noise`). Drawing tasks never changes the
noise, and the reverse.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.arrays import seem_finite
from mtrl.envs.family import TaskSource
from mtrl.envs.simulation import Simulation, SlotBatch, StepResult, SupportsNext
from mtrl.envs.task import Task, check_split
from mtrl.errors import CheckpointError, MtrlError, UsageError
from mtrl.seeding import numpy_generator

__all__ = ["Slots", "StepResult", "check_source"]

_SEED_BITS = 63
"""Slot seeds are non-negative int64; longer seeds are cut to their low bits."""


def check_source(family: Simulation, source: TaskSource) -> TaskSource:
    """Return `source` if it is a task of `family` or a split.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(source, Task):
        family.parameters.check(source)
        return source
    return check_split(source)


class Slots:
    """Slots with a source of tasks each: a task, or the split to draw one from at a reset.

    Attributes:
        refuse_nonfinite: whether an observation or a reward that is not finite is an error, or is
            left to the caller.
    """

    def __init__(self, family: Simulation, sources: Sequence[TaskSource]) -> None:
        if not sources:
            raise UsageError("tasks is empty; give one task (or split) per environment")
        family.check_installed()
        self.family = family
        self.sources = [check_source(family, source) for source in sources]
        self.seeds: list[int | None] = [None] * len(self.sources)
        self.tasks: list[Task] = []
        self._task_streams: dict[int, SupportsNext] = {}
        self.ids: NDArray[np.object_] = np.empty(len(self.sources), dtype=object)
        self._action_shape = (len(self.sources), *(family.action_space.shape or ()))
        self._env: SlotBatch | None = None
        self.refuse_nonfinite = True

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def env(self) -> SlotBatch:
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
        self._task_streams[slot] = self.family.task_stream(numpy_generator(seed, "tasks"))

    def _next_task(self, slot: int) -> Task:
        source = self.sources[slot]
        if isinstance(source, Task):
            return source
        return self._task_streams[slot].next(source)

    def reset(self, seeds: Sequence[int | None], tasks: Sequence[Task | None]) -> NDArray[Any]:
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
        if self._env is None:
            self._env = self.family.slot_batch(self.tasks)
        else:
            self._env.set_tasks(range(len(self)), self.tasks)
        obs = self._env.reset(np.array(self.seeds, np.int64), episodes)
        if self.refuse_nonfinite and not seem_finite(obs):
            self._check_each("observation", obs)
        return obs

    def reset_slots(self, slots: NDArray[np.intp]) -> NDArray[Any]:
        """Begin the next episode from its source in these slots; return their observations."""
        changed = [slot for slot in slots.tolist() if self.sources[slot] is not self.tasks[slot]]
        if changed:
            for slot in changed:
                self.tasks[slot] = self._next_task(slot)
                self.ids[slot] = self.tasks[slot].id
            self.env.set_tasks(changed, [self.tasks[slot] for slot in changed])
        obs = self.env.reset_slots(slots)
        if self.refuse_nonfinite and not seem_finite(obs):
            self._check_each("observation", obs, slots)
        return obs

    def step(self, actions: Any) -> StepResult:
        """Apply one action per slot.

        Raises:
            UsageError: actions of the wrong shape, NaN, or not in a discrete space; the message
                names the family and the task.
            MtrlError: the dynamics gave an observation or a reward that is not finite; the message
                names the family, the task and its parameters.
        """
        result = self.env.step(self._checked(actions))
        if self.refuse_nonfinite:
            if not seem_finite(result.obs):
                self._check_each("observation", result.obs)
            if not seem_finite(result.reward):
                self._check_each("reward", result.reward)
        return result

    def _check_each(
        self, what: str, values: NDArray[Any], slots: NDArray[np.intp] | None = None
    ) -> None:
        """Refuse values that are not finite, of all slots unless some are given."""
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if finite.all():
            return
        row = int(finite.argmin())
        slot = row if slots is None else int(slots[row])
        task = self.tasks[slot]
        raise MtrlError(
            f"environment {slot} of family {self.family.name!r}, task {task.id} "
            f"{dict(task.params)}: the {what} is {values[row]}, which is not finite; "
            "narrow the family's ranges so that its dynamics do not diverge"
        )

    def _checked(self, actions: Any) -> NDArray[Any]:
        space = self.family.action_space
        array = np.array(actions, dtype=space.dtype, order="C")
        if array.shape != self._action_shape:
            wanted = self._action_shape[1:]
            raise self._action_error(0, f"actions of shape {array.shape[1:]}, wanted {wanted}")
        if isinstance(space, gym.spaces.Discrete):
            # Unsigned, what is below the first action is above all others. `argmax` takes a fifth
            # of the time that a comparison of all or `max` does.
            index = (array - space.start if space.start else array).astype(np.uint64)
            slot = int(index.argmax())
            good = index[slot] < space.n
        else:
            good, slot = np.isfinite(array).all(), 0
            if not good:
                slot = int(np.isfinite(array).reshape(len(self), -1).all(axis=1).argmin())
        if not good:
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

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values): tasks, streams and every slot's state, for a checkpoint.

        Raises:
            UsageError: it was never reset.
        """
        tensors, batch = self.env.state_dict()
        streams = [self._task_streams[slot].state_dict() for slot in range(len(self))]
        for slot, (arrays, _) in enumerate(streams):
            tensors |= {f"streams/{slot}/{name}": array for name, array in arrays.items()}
        return tensors, {
            "sources": [_source_text(source) for source in self.sources],
            "tasks": [task.to_json() for task in self.tasks],
            "seeds": self.seeds,
            "streams": [values for _, values in streams],
            "batch": batch,
        }

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken of as many slots of the same family.

        Raises:
            CheckpointError: the state is not one of such slots.
        """
        tasks = [Task.from_json(text) for text in values["tasks"]]
        sources = [_source_of(text) for text in values["sources"]]
        counts = {len(tasks), len(sources), len(values["seeds"]), len(values["streams"])}
        if counts != {len(self)}:
            raise CheckpointError(
                f"the checkpoint has {len(tasks)} environments of {self.family.name!r}, "
                f"and there are {len(self)} here; make as many as it has"
            )
        for task in tasks:
            self.family.parameters.check(task)
        self.sources[:] = [check_source(self.family, source) for source in sources]
        self.tasks, self.ids[:] = tasks, [task.id for task in tasks]
        self._env = self.family.slot_batch(tasks)
        self._env.load_state_dict(tensors, values["batch"])
        for slot, stream in enumerate(values["streams"]):
            self._seed(slot, values["seeds"][slot])
            prefix = f"streams/{slot}/"
            own = {name: tensors[name] for name in tensors if name.startswith(prefix)}
            arrays = {name.removeprefix(prefix): array for name, array in own.items()}
            self._task_streams[slot].load_state_dict(arrays, stream)


def _source_text(source: TaskSource) -> str:
    return source.to_json() if isinstance(source, Task) else source


def _source_of(text: str) -> TaskSource:
    return Task.from_json(text) if text.startswith("{") else check_split(text)
