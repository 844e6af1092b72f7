"""The Stable-Baselines3 face of environments in worker processes."""

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from mtrl.envs.workers.vector_env import WorkerVectorEnv
from mtrl.errors import UsageError

__all__ = ["WorkerVecEnv"]

Indices = int | Iterable[int] | None


def _info_of(infos: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the info of one environment out of a vector's."""
    return {
        name: _info_of(value, index) if isinstance(value, dict) else value[index]
        for name, value in infos.items()
        if f"_{name}" in infos and infos[f"_{name}"][index]
    }


class WorkerVecEnv(VecEnv):
    """A `WorkerVectorEnv` for Stable-Baselines3, equal to a `DummyVecEnv` of its environments.

    Where a worker was restarted, `infos[i]["worker_restarted"]` is the cause; the step is reported
    as truncated, and what the action did is not known. `env_method("set_task_source", source)`
    decides the tasks of later episodes, `set_options({"task": task})` that of the next reset.

    Args:
        envs: the environments; they are closed with this.
    """

    def __init__(self, envs: WorkerVectorEnv) -> None:
        self.envs = envs
        self._actions: Any = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """Begin an episode everywhere, with the seeds and options set since the last reset.

        Raises:
            UsageError: the environments were given different options.
            WorkerError: an environment failed too often.
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise UsageError("set_options() got different options; give one dictionary for all")
        obs, infos = self.envs.reset(seed=self._seeds, options=options or None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [_info_of(infos, index) for index in range(self.num_envs)]
        return obs

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step with the kept actions and reset the environments whose episode ends.

        Raises:
            UsageError: there was no reset, or actions of the wrong shape or not finite.
            WorkerError: an environment failed too often.
        """
        obs, reward, terminated, truncated, vector_infos = self.envs.step(self._actions)
        done = terminated | truncated
        infos = [_info_of(vector_infos, index) for index in range(self.num_envs)]
        for index in np.flatnonzero(done).tolist():
            begun = infos[index]
            info = infos[index] = begun.pop("final_info", {})
            info["terminal_observation"] = begun.pop("final_obs")
            if "worker_restarted" in begun:
                info["worker_restarted"] = begun["worker_restarted"]
            self.reset_infos[index] = begun
        for info, time_up in zip(infos, truncated & ~terminated, strict=True):
            info["TimeLimit.truncated"] = bool(time_up)
        return obs, reward.astype(np.float32), done, infos

    def close(self) -> None:
        """Close the environments and end their processes."""
        self.envs.close()

    def _chosen(self, indices: Indices) -> list[int]:
        return list(self._get_indices(indices))

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute of the environments, such as `task`.

        Raises:
            AttributeError: there is no such attribute.
        """
        return list(self.envs.call_some(self._chosen(indices), attr_name))

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the environments to `value`."""
        chosen = self._chosen(indices)
        self.envs.set_attr(attr_name, [value] * len(chosen), chosen)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environments, such as `set_task_source`.

        Raises:
            AttributeError: there is no such method.
        """
        chosen = self._chosen(indices)
        return list(self.envs.call_some(chosen, method_name, *method_args, **method_kwargs))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Return False for each: wrap the whole with a `VecEnvWrapper` such as `VecMonitor`."""
        return [False for _ in self._get_indices(indices)]
