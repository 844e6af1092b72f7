"""The Gymnasium vector face: equal to a SAME_STEP `SyncVectorEnv`, but one batch."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mtrl.envs.family import TaskSource
from mtrl.envs.simulation import Simulation
from mtrl.envs.slots import Slots, check_source
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["BatchedVectorEnv"]

Objects = NDArray[np.object_]
Flags = NDArray[np.bool_]


class BatchedVectorEnv(VectorEnv[NDArray[np.float32], Any, NDArray[Any]]):
    """Sub-environments of one family; a finished one is reset in the step that ends its episode.

    In that step `info["task_id"]` is already the new episode's; the finished episode's is in
    `info["final_info"]["task_id"]`, and its last observation in `info["final_obs"]`.

    Args:
        family: what simulates the environments.
        sources: per sub-environment a task, or the split to draw tasks from.
        seed: that of the first reset, if none is given there; sub-environment i has seed + i.
    """

    def __init__(
        self, family: Simulation, sources: Sequence[TaskSource], *, seed: int | None = None
    ) -> None:
        self.family = family
        self.num_envs = len(sources)
        self.metadata = {
            "render_modes": list(family.render_modes),
            "render_fps": family.render_fps,
            "autoreset_mode": AutoresetMode.SAME_STEP,
        }
        self.single_observation_space = family.observation_space
        self.single_action_space = family.action_space
        self._slots = Slots(family, sources)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._first_seed = seed
        self._everywhere: Flags = np.ones(self.num_envs, dtype=np.bool_)

    @property
    def tasks(self) -> list[Task]:
        """The task that each sub-environment plays now."""
        return list(self._slots.tasks)

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]  # as Sync
        """The seed of each sub-environment, None before the first reset."""
        return tuple(self._slots.seeds)

    def set_task_source(self, source: TaskSource, indices: Iterable[int] | None = None) -> None:
        """Take the tasks of these sub-environments' next episodes (all by default) from `source`.

        Raises:
            UsageError: `source` is neither a task of the family nor a split.
        """
        checked = check_source(self.family, source)
        for slot in range(self.num_envs) if indices is None else indices:
            self._slots.sources[slot] = checked

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            seed = self._first_seed
        self._first_seed = None
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int):
            return [seed + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise UsageError(f"seed has {len(seed)} entries; give one, or {self.num_envs}")
        return list(seed)

    def _info(self) -> dict[str, Any]:
        return {"task_id": self._slots.ids.copy(), "_task_id": self._everywhere.copy()}

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode everywhere; `options={"task": task}` chooses one task for all.

        Raises:
            UsageError: a list of seeds of the wrong length, or a partial reset.
        """
        if options is not None and "reset_mask" in options:
            raise UsageError("options['reset_mask'] needs autoreset disabled; this is SAME_STEP")
        task = self._slots.option_task(options)
        obs = self._slots.reset(self._seeds(seed), [task] * self.num_envs)
        return obs, self._info()

    def step(
        self, actions: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Apply one action per sub-environment and reset those whose episode ends.

        Raises:
            UsageError: reset was never called, or actions of the wrong shape or not finite.
        """
        obs, reward, terminated, truncated = self._slots.step(actions)
        done, info = terminated | truncated, {}
        ended = done.nonzero()[0]
        if len(ended) > 0:
            info = self._final(done, ended, obs.take(ended, axis=0))
            obs[ended] = self._slots.reset_slots(ended)
        info["task_id"], info["_task_id"] = self._slots.ids.copy(), self._everywhere.copy()
        return obs, reward.astype(np.float64), terminated, truncated, info

    def _final(
        self, done: Flags, ended: NDArray[np.intp], last: NDArray[np.float32]
    ) -> dict[str, Any]:
        """Return the infos that report the episodes just ended, laid out as SyncVectorEnv does."""
        final_obs: Objects = np.empty(self.num_envs, dtype=object)
        final_obs[ended] = np.fromiter(last, dtype=object, count=len(ended))
        task_ids: Objects = np.empty(self.num_envs, dtype=object)
        task_ids[ended] = self._slots.ids.take(ended)
        return {
            "final_obs": final_obs,
            "_final_obs": done,
            "final_info": {"task_id": task_ids, "_task_id": done.copy()},
            "_final_info": done.copy(),
        }
