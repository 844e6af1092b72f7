"""Episode statistics that know which task each episode was of."""

import time
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics
from numpy.typing import NDArray

from mtrl.envs.wrappers.episode_table import EpisodeTable
from mtrl.envs.wrappers.infos import (
    PlainVectorWrapper,
    fresh_slots,
    of_transition,
    skips_reset_steps,
    task_id_of,
)

__all__ = ["TaskStatistics", "VectorTaskStatistics"]

SUCCESS_KEYS = ("success", "is_success")
"""What Meta-World and Stable-Baselines3 call it."""


class _Tabulating:
    """The part that the single and the vector wrapper have in common."""

    table: EpisodeTable

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the table as (tensors, JSON values) for a checkpoint, without episodes under way.

        Those of the single and the vector wrapper are interchangeable.
        """
        return self.table.state_dict()

    def load_state_dict(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Replace the table by the one that `state_dict` returned."""
        self.table.load_state_dict(tensors, values)


def _success(info: Mapping[str, Any], before: bool | None) -> bool | None:
    """Return whether the episode has succeeded by this step; None if nothing ever said."""
    reported = [bool(info[key]) for key in SUCCESS_KEYS if key in info]
    return before if not reported else bool(before) or any(reported)


class TaskStatistics(_Tabulating, RecordEpisodeStatistics[Any, Any], RecordConstructorArgs):
    """Gymnasium's `RecordEpisodeStatistics`, by task.

    `info["episode"]` of an episode's last step is Gymnasium's, {"r": return, "l": length, "t":
    seconds}, with "task_id", and with "success" if the environment reports `success` or
    `is_success`: an episode is a success if that was true at any of its steps.

    Args:
        env: an environment with `info["task_id"]`.
        window: how many of a task's episodes count as recent.

    Attributes:
        table: the statistics of all finished episodes.

    Raises:
        UsageError: a bad `window`, or an environment without task ids.
    """

    def __init__(self, env: gym.Env[Any, Any], *, window: int = 100) -> None:
        RecordConstructorArgs.__init__(self, window=window)
        self.table = EpisodeTable(window)
        RecordEpisodeStatistics.__init__(self, env, buffer_length=window)
        self._success: bool | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; one under way is not counted."""
        self._success = None
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Apply `action`; the episode counts if it ends."""
        observation, reward, terminated, truncated, info = super().step(action)
        self._success = _success(info, self._success)
        if terminated or truncated:
            episode, task_id = info["episode"], task_id_of(info)
            self.table.add(task_id, episode["r"], episode["l"], self._success)
            episode["task_id"] = task_id
            if self._success is not None:
                episode["success"] = self._success
        return observation, reward, terminated, truncated, info


class VectorTaskStatistics(_Tabulating, PlainVectorWrapper):
    """`TaskStatistics` over a vector environment, in every autoreset mode, with one table.

    `info["episode"]` has one array each, "r", "l", "t", "task_id" and, if reported, "success";
    `info["_episode"]` tells where an episode ended. Arguments as of `TaskStatistics`.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], *, window: int = 100) -> None:
        super().__init__(env)
        self.table = EpisodeTable(window)
        self._skips_reset_steps = skips_reset_steps(env)
        self._over = np.zeros(self.num_envs, np.bool_)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._started = np.zeros(self.num_envs)
        self._successes: NDArray[np.object_] = np.full(self.num_envs, None, dtype=object)

    def _begin(self, slots: NDArray[np.bool_]) -> None:
        self._returns[slots], self._lengths[slots] = 0.0, 0
        self._started[slots], self._successes[slots] = time.perf_counter(), None

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; those under way are not counted."""
        fresh = fresh_slots(options, self.num_envs)
        result: tuple[Any, dict[str, Any]] = self.env.reset(seed=seed, options=options)
        self._begin(fresh)
        self._over[fresh] = False
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Apply one action per slot; the episodes that end count."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        counts = ~self._over
        self._returns[counts] += rewards[counts]
        self._lengths[counts] += 1
        self._see_success(info)
        ended = terminated | truncated
        self._over = ended & self._skips_reset_steps
        if ended.any():
            info = {**info, "episode": self._finish(ended, info), "_episode": ended.copy()}
            self._begin(ended)
        return observations, rewards, terminated, truncated, info

    def _see_success(self, info: Mapping[str, Any]) -> None:
        for key in SUCCESS_KEYS:
            if key not in info and key not in info.get("final_info", {}):
                continue
            for slot, value in enumerate(of_transition(info, key, self.num_envs)):
                if value is not None and not self._over[slot]:
                    self._successes[slot] = bool(self._successes[slot]) or bool(value)

    def _finish(self, ended: NDArray[np.bool_], info: Mapping[str, Any]) -> dict[str, Any]:
        task_ids = of_transition(info, "task_id", self.num_envs)
        for slot in ended.nonzero()[0]:
            task_ids[slot] = task_id_of({"task_id": task_ids[slot]})
            self.table.add(
                task_ids[slot], self._returns[slot], self._lengths[slot], self._successes[slot]
            )
        task_ids[~ended] = None
        seconds = np.round(time.perf_counter() - self._started, 6)
        episode = {
            "r": np.where(ended, self._returns, 0.0),
            "l": np.where(ended, self._lengths, 0),
            "t": np.where(ended, seconds, 0.0),
            "task_id": task_ids,
        }
        judged = ended & np.array([success is not None for success in self._successes])
        if judged.any():
            episode |= {"success": np.where(judged, self._successes, False), "_success": judged}
        return episode
