"""Batches of episodes for families without batched dynamics: one Gymnasium environment per slot."""

from collections.abc import Sequence
from typing import Any
from weakref import finalize

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.envs.failures import Blaming
from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["EpisodeEnvs"]

Envs = list[gym.Env[Any, Any]]


class EpisodeEnvs:
    """An `EpisodeBatch` of a family's Gymnasium environments, stepped one after the other.

    A slot that has ended is not stepped: its observation stays, its reward is 0 and its flags stay.
    Observations and rewards are float32.

    Args:
        family: whose observations are a `Box`.
        tasks: one per `repeats` slots, which are task-major.
        repeats: slots per task.
        device: of the tensors that are returned.
        idle: environments of the family to use before others are made; this batch's own go there
            when nothing refers to the batch any more. Without a list they are closed then.

    Raises:
        UsageError: there is no task, or observations are not a `Box`.
    """

    def __init__(
        self,
        family: TaskFamily,
        tasks: Sequence[Task],
        *,
        repeats: int = 1,
        device: torch.device | str = "cpu",
        idle: Envs | None = None,
    ) -> None:
        if not tasks:
            raise UsageError("tasks is empty; give at least one")
        shape = family.observation_space.shape
        if not isinstance(family.observation_space, gym.spaces.Box) or shape is None:
            raise UsageError(
                f"observations of {family.name!r} are {family.observation_space}; episodes need "
                "arrays (Box), so flatten them"
            )
        self._family, self._device = family, torch.device(device)
        self._tasks = [task for task in tasks for _ in range(repeats)]
        self._envs: Envs = []
        self._finalizer = finalize(self, _dispose, self._envs, idle)
        for task in self._tasks:
            self._envs.append(idle.pop() if idle else family.make(task))
        self._obs = np.zeros((len(self._tasks), *shape), np.float32)
        self._over = np.ones(len(self._tasks), np.bool_)
        self._terminated, self._truncated = ~self._over, ~self._over

    @property
    def horizon(self) -> int:
        """Steps of an episode that nothing ends."""
        return self._family.horizon

    def reset(self, seeds: Tensor) -> Tensor:
        """Begin an episode in every slot and return the observations.

        Args:
            seeds: int64, one per slot; each is its environment's.

        Raises:
            UsageError: seeds of another shape.
            MtrlError: an environment fails; the message names the task.
        """
        if seeds.shape != (len(self._tasks),):
            raise UsageError(
                f"seeds has shape {tuple(seeds.shape)}; give {len(self._tasks)} of them"
            )
        for slot, seed in enumerate(seeds.tolist()):
            task = self._tasks[slot]
            with self._blaming(slot, "reset"):
                self._obs[slot], _ = self._envs[slot].reset(seed=seed, options={"task": task})
        for flags in (self._over, self._terminated, self._truncated):
            flags[:] = False
        self._check("observation", self._obs, "reset")
        return self._tensor(self._obs)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Apply one action per slot; return (observation, reward, terminated, truncated).

        Raises:
            MtrlError: an environment fails or returns what is not finite; the message names the
                task.
        """
        rewards = np.zeros(len(self._tasks), np.float32)
        given = actions.cpu().numpy()
        for slot in np.flatnonzero(~self._over).tolist():
            rewards[slot] = self._step(slot, given[slot])
        self._check("observation", self._obs, "step")
        self._check("reward", rewards, "step")
        np.logical_or(self._terminated, self._truncated, out=self._over)
        flags = (self._tensor(self._terminated), self._tensor(self._truncated))
        return self._tensor(self._obs), self._tensor(rewards), *flags

    def _step(self, slot: int, action: Any) -> float:
        with self._blaming(slot, "step"):
            result = self._envs[slot].step(action)
            self._obs[slot], reward, self._terminated[slot], self._truncated[slot], _ = result
            return float(reward)

    def _check(self, what: str, values: NDArray[np.float32], doing: str) -> None:
        finite = np.isfinite(values).reshape(len(values), -1).all(1)
        if not finite.all():
            slot = int(finite.argmin())
            self._blaming(slot, doing).finite(what, values[slot])

    def _blaming(self, slot: int, doing: str) -> Blaming:
        return Blaming(self._family.name, self._tasks[slot], doing)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A copy: the caller keeps what it was given while the buffers go on changing.
        return torch.from_numpy(array.copy()).to(self._device)

    def close(self) -> None:
        """Let go of the environments; the batch cannot be used afterwards."""
        self._finalizer()


def _dispose(envs: Envs, idle: Envs | None) -> None:
    if idle is None:
        for env in envs:
            env.close()
    else:
        idle.extend(envs)
    envs.clear()
