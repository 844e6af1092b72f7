"""The Stable-Baselines3 face: equal to a `DummyVecEnv` of the Gymnasium face, but one batch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mtrl.envs.family import TaskSource
from mtrl.envs.simulation import Simulation
from mtrl.envs.slots import Slots, check_source
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["BatchedVecEnv"]

Indices = int | Iterable[int] | None


@dataclass(frozen=True)
class _SlotView:
    """What `get_attr` and `env_method` see of one sub-environment."""

    slots: Slots
    index: int
    render_mode: None = None
    spec: None = None

    @property
    def family(self) -> Simulation:
        return self.slots.family

    @property
    def observation_space(self) -> gym.Space[Any]:
        return self.family.observation_space

    @property
    def action_space(self) -> gym.Space[Any]:
        return self.family.action_space

    @property
    def task(self) -> Task:
        return self.slots.tasks[self.index]

    @property
    def task_source(self) -> TaskSource:
        return self.slots.sources[self.index]

    def set_task_source(self, source: TaskSource) -> None:
        self.slots.sources[self.index] = check_source(self.family, source)

    def reset(self) -> tuple[NDArray[np.float32], dict[str, Any]]:
        (first,) = self.slots.reset_slots(np.array([self.index]))
        return first, {"task_id": self.task.id}


class BatchedVecEnv(VecEnv):
    """Sub-environments of one family for Stable-Baselines3.

    `infos[i]["task_id"]` is that of the step's own episode, also in the step that ends it; the
    task of the episode just begun is in `reset_infos[i]`. `env_method("set_task_source", source)`
    decides the tasks of later episodes, `set_options({"task": task})` that of the next explicit
    reset; `env_method("reset", indices=i)` ends sub-environment i's episode and begins the next one.

    Args:
        family: what simulates the environments.
        sources: per sub-environment a task, or the split to draw tasks from.
        seed: as if `seed(seed)` were called: the next reset gives sub-environment i seed + i.
    """

    def __init__(
        self, family: Simulation, sources: Sequence[TaskSource], *, seed: int | None = None
    ) -> None:
        self._slots = Slots(family, sources)
        self._actions: Any = None
        super().__init__(len(sources), family.observation_space, family.action_space)
        if seed is not None:
            self.seed(seed)

    def pass_nonfinite(self) -> None:
        """Return observations and rewards that are not finite from now on, instead of raising.

        For a wrapper that handles them.
        """
        self._slots.refuse_nonfinite = False

    def _views(self, indices: Indices) -> list[_SlotView]:
        return [_SlotView(self._slots, index) for index in self._get_indices(indices)]

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode everywhere, with the seeds and options set since the last reset."""
        tasks = [self._slots.option_task(options) for options in self._options]
        obs = self._slots.reset(self._seeds, tasks)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = self._infos()
        return obs

    def _infos(self) -> list[dict[str, Any]]:
        return [{"task_id": task_id} for task_id in self._slots.ids.tolist()]

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step with the kept actions and reset the sub-environments whose episode ends.

        Raises:
            UsageError: reset was never called, or actions of the wrong shape or not finite.
        """
        result = self._slots.step(self._actions)
        done, obs = result.done, result.obs
        time_up = (result.truncated & ~result.terminated).tolist()
        infos: list[dict[str, Any]] = [
            {"task_id": task_id, "TimeLimit.truncated": up}
            for task_id, up in zip(self._slots.ids.tolist(), time_up, strict=True)
        ]
        ended = np.flatnonzero(done)
        if len(ended) > 0:
            for index, last in zip(ended.tolist(), obs[ended], strict=True):
                infos[index]["terminal_observation"] = last
            obs[ended] = self._slots.reset_slots(ended)
            for index in ended.tolist():
                self.reset_infos[index] = {"task_id": self._slots.tasks[index].id}
        return obs, result.reward.astype(np.float32), done, infos

    def close(self) -> None:
        """Nothing is held that needs closing."""

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return (tensors, JSON values) from which `load_state_dict` continues every episode.

        Raises:
            UsageError: it was never reset, or a seed or options wait for the next reset.
        """
        if any(self._options) or any(seed is not None for seed in self._seeds):
            raise UsageError("a seed or options wait for the next reset; call reset() first")
        return self._slots.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken of as many sub-environments of the same family.

        What they do from there is the same to the last bit.

        Raises:
            CheckpointError: the state is not one of such sub-environments.
        """
        self._slots.load_state_dict(tensors, values)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = self._infos()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute of the sub-environments, such as `task`.

        Raises:
            AttributeError: there is no such attribute.
        """
        return [getattr(view, attr_name) for view in self._views(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Refuse: the sub-environments are rows of one batch and have no attributes of their own.

        Raises:
            UsageError: always; the message says what to call instead.
        """
        raise UsageError(
            f"attribute {attr_name!r} of a batched environment cannot be set; "
            'choose tasks with env_method("set_task_source", task)'
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the sub-environments, such as `set_task_source`.

        Raises:
            AttributeError: there is no such method.
        """
        views = self._views(indices)
        return [getattr(view, method_name)(*method_args, **method_kwargs) for view in views]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Return False for each: wrap the whole with a `VecEnvWrapper` such as `VecMonitor`."""
        return [False for _ in self._get_indices(indices)]
