"""The task as part of the observation: what a multi-task policy is conditioned on."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task
from mtrl.envs.wrappers.infos import PlainVectorWrapper, family_of, tasks_of
from mtrl.envs.wrappers.joining import Joiner, Layout
from mtrl.errors import UsageError

__all__ = ["ContextMode", "TaskContext", "VectorTaskContext"]

ContextMode = Literal["none", "one-hot", "parameters"]


def _parsed(tasks: Sequence[Task | str] | None) -> list[Task]:
    return [task if isinstance(task, Task) else Task.from_json(task) for task in tasks or ()]


class _Encoder:
    """Turns tasks into float32 vectors; `space` bounds them, None where there are none."""

    def __init__(self, family: TaskFamily, mode: ContextMode, tasks: Sequence[Task]) -> None:
        if mode not in get_args(ContextMode):
            raise UsageError(f"mode is {mode!r}; it must be one of {get_args(ContextMode)}")
        if (mode == "one-hot") != bool(tasks):
            raise UsageError(f"mode is {mode!r} with {len(tasks)} tasks; 'one-hot' needs tasks")
        self._family, self._one_hot = family, mode == "one-hot"
        self._places = {task.id: place for place, task in enumerate(tasks)}
        if len(self._places) < len(tasks):
            raise UsageError("tasks has the same task twice; list each once")
        self.space = self._space() if mode != "none" else None

    def _space(self) -> gym.spaces.Box:
        if self._one_hot:
            return gym.spaces.Box(0.0, 1.0, (len(self._places),), np.float32)
        # Any task tells the size; the generator is nobody else's.
        (example,) = self._family.sample(1, np.random.default_rng(0), "train")
        # No bounds: a task given by hand may lie outside the ranges that tasks are drawn from.
        return gym.spaces.Box(-np.inf, np.inf, self._family.context(example).shape, np.float32)

    @property
    def extras(self) -> dict[str, gym.spaces.Box]:
        return {} if self.space is None else {"context": self.space}

    def __call__(self, task: Task) -> NDArray[np.float32]:
        if not self._one_hot:
            return np.asarray(self._family.context(task), np.float32)
        if task.id not in self._places:
            raise UsageError(
                f"task {task.id} of family {task.family!r}, {task.params}, is not among the "
                f"{len(self._places)} tasks of the one-hot context; add it to tasks"
            )
        vector = np.zeros(len(self._places), np.float32)
        vector[self._places[task.id]] = 1.0
        return vector


class TaskContext(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The observation together with the context of the current episode's task.

    Needs the environment's `task` and `family`. Space by layout: `append` is a Box, the flattened
    observation first; `dict` is {"observation": ..., "context": Box}. With mode `none` there is no
    context: `append` leaves the observation as it is, `dict` has "observation" only.

    Args:
        env: an environment of a task family.
        mode: `parameters`, the family's context vector (float32, unbounded); `one-hot`, the place
            of the task in `tasks`; or `none`.
        tasks: for `one-hot`, all tasks that will be met, each a `Task` or the JSON of one.
        layout: `append` or `dict`.

    Raises:
        UsageError: arguments that contradict each other, or at a reset a task that is not among
            `tasks`, by name.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        mode: ContextMode = "parameters",
        tasks: Sequence[Task | str] | None = None,
        layout: Layout = "append",
    ) -> None:
        known = _parsed(tasks)
        as_json = [task.to_json() for task in known] or None
        RecordConstructorArgs.__init__(self, mode=mode, tasks=as_json, layout=layout)
        gym.Wrapper.__init__(self, env)
        self._encoder = _Encoder(family_of(env), mode, known)
        self._unchanged = mode == "none" and layout == "append"
        if not self._unchanged:
            self._joiner = Joiner(env.observation_space, self._encoder.extras, layout)
            self.observation_space = self._joiner.space
        self._context: list[NDArray[np.float32]] = []

    def _joined(self, observation: Any) -> Any:
        return observation if self._unchanged else self._joiner(observation, *self._context)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the context is that of its task."""
        observation, info = self.env.reset(seed=seed, options=options)
        if self._encoder.extras:
            self._context = [self._encoder(self.env.get_wrapper_attr("task"))]
        return self._joined(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Apply `action`; the context stays that of the episode."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._joined(observation), reward, terminated, truncated, info


class VectorTaskContext(PlainVectorWrapper):
    """`TaskContext` over a vector environment, in every autoreset mode.

    `final_obs` has the context of the episode that ended. Arguments as of `TaskContext`; the
    environment has `family` and `tasks`, or sub-environments with `family` and `task`.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        mode: ContextMode = "parameters",
        tasks: Sequence[Task | str] | None = None,
        layout: Layout = "append",
    ) -> None:
        super().__init__(env)
        self._encoder = _Encoder(family_of(env), mode, _parsed(tasks))
        self._unchanged = mode == "none" and layout == "append"
        if not self._unchanged:
            self._joiner = Joiner(env.single_observation_space, self._encoder.extras, layout)
            self.single_observation_space = self._joiner.space
            self.observation_space = batch_space(self._joiner.space, self.num_envs)
        self._tasks: list[Task | None] = [None] * self.num_envs
        width = 0 if self._encoder.space is None else self._encoder.space.shape[0]
        self._contexts = np.zeros((self.num_envs, width), np.float32)

    def _encode_new_tasks(self) -> None:
        for slot, task in enumerate(tasks_of(self.env)):
            if task is not self._tasks[slot]:
                self._contexts[slot] = self._encoder(task)
                self._tasks[slot] = task

    def _joined(self, observation: Any, slot: int | None = None) -> Any:
        if self._unchanged:
            return observation
        batch = (self.num_envs,) if slot is None else ()
        contexts = self._contexts if slot is None else self._contexts[slot]
        return self._joiner(observation, *([contexts] * len(self._encoder.extras)), batch=batch)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; each context is that of its slot's task."""
        observations, info = self.env.reset(seed=seed, options=options)
        if self._encoder.extras:
            self._encode_new_tasks()
        return self._joined(observations), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Apply one action per slot."""
        observations, reward, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            final = np.full(self.num_envs, None, dtype=object)
            for slot in info["_final_obs"].nonzero()[0]:
                final[slot] = self._joined(info["final_obs"][slot], slot)
            info = {**info, "final_obs": final}
        if self._encoder.extras and self._may_have_changed(info):
            self._encode_new_tasks()
        return self._joined(observations), reward, terminated, truncated, info

    def _may_have_changed(self, info: dict[str, Any]) -> bool:
        """Return whether a slot's task id is new: asking workers for tasks takes a round trip."""
        ids = [None if task is None else task.id for task in self._tasks]
        return list(info.get("task_id", ())) != ids
