"""Environments of several families for Stable-Baselines3, all of them of one family at a time.

A sequence of tasks from several families needs one agent, and so one space: observations are padded
with zeros and actions cut as in `mtrl.envs.contexts.spaces`. Each family has as many sub-environments
as there are here, and those of the others rest where they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mtrl.envs.contexts.spaces import common_action_space, common_observation_space
from mtrl.envs.task import Task
from mtrl.errors import CheckpointError, UsageError

__all__ = ["AlternatingVecEnv", "fit_actions", "pad_observations"]

Array = NDArray[Any]
Indices = Any


@runtime_checkable
class _Vectorised(Protocol):
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def make_sb3(self, tasks: Any, seed: int | None = None) -> VecEnv:
        """Return an environment of Stable-Baselines3 for each task."""


def pad_observations(observations: Array, common: Box) -> Array:
    """Return observations (slots, *own shape) as (slots, *common shape), zeros at the ends of axes."""
    if observations.shape[1:] == common.shape:
        return observations
    padded = np.zeros((len(observations), *common.shape), common.dtype)
    padded[tuple(map(slice, observations.shape))] = observations
    return padded


def fit_actions(actions: Array, own: gym.Space[Any], common: gym.Space[Any]) -> Array:
    """Return actions (slots, ...) of the `common` space as those of `own`: `fit_action`, as a batch."""
    if own == common:
        return actions
    if isinstance(own, Discrete):
        start = int(own.start)
        chosen: Array = start + (actions - start) % int(own.n)
        return chosen
    assert isinstance(own, Box)
    leading = actions[(slice(None), *map(slice, own.shape))]
    return np.clip(leading, own.low, own.high)


class AlternatingVecEnv(VecEnv):
    """Sub-environments that play tasks of one family, until they are given one of another.

    `env_method("set_task_source", task)` for all of them decides the family; the next `reset` begins its
    episodes. Those of the other families are left as they are, and go on with their seeds' next
    episodes when their turn comes again.

    Args:
        families: by name; that of the first task plays first.
        tasks: one at least of each family.
        slots: how many sub-environments there are.
        seed: as if `seed(seed)` were called.

    Raises:
        UsageError: a family has no environments for Stable-Baselines3, no task is of it, or spaces that no
            padding makes one.
    """

    def __init__(
        self,
        families: Mapping[str, Any],
        tasks: Sequence[Task],
        slots: int,
        *,
        seed: int | None = None,
    ) -> None:
        first: dict[str, Task] = {}
        for task in tasks:
            first.setdefault(task.family, task)
        self._venvs = {
            name: _made(name, family, first.get(name), slots) for name, family in families.items()
        }
        self._playing = tasks[0].family
        self._began = False
        common = common_observation_space([each.observation_space for each in families.values()])
        if not isinstance(common, Box):
            raise UsageError(
                f"families have the observation space {common}; only vectors and pictures of numbers "
                "can be padded"
            )
        self._common: Box = common
        actions = common_action_space([each.action_space for each in families.values()])
        super().__init__(slots, common, actions)
        if seed is not None:
            self.seed(seed)

    @property
    def playing(self) -> VecEnv:
        """The sub-environments of the family whose turn it is."""
        return self._venvs[self._playing]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Give every family's sub-environment i the seed + i, from its next reset on."""
        given = [venv.seed(seed) for venv in self._venvs.values()]
        return given[0]

    def reset(self) -> Array:
        """Begin an episode everywhere, of the family whose turn it is."""
        self.playing.set_options(self._options)
        self._reset_options()
        observations: Any = self.playing.reset()
        self.reset_infos = self.playing.reset_infos
        self._began = True
        return pad_observations(observations, self._common)

    def step_async(self, actions: Array) -> None:
        """Pass the actions on.

        Raises:
            UsageError: the family has changed and reset was not called.
        """
        if not self._began:
            raise UsageError(f"it is the turn of {self._playing!r}: call reset() before step()")
        self.playing.step_async(fit_actions(actions, self.playing.action_space, self.action_space))

    def step_wait(self) -> Any:
        """Return what the family's sub-environments do, padded."""
        observations, rewards, dones, infos = self.playing.step_wait()
        for slot in np.flatnonzero(dones).tolist():
            last = np.asarray(infos[slot]["terminal_observation"])
            infos[slot]["terminal_observation"] = pad_observations(last[None], self._common)[0]
        self.reset_infos = self.playing.reset_infos
        padded: Any = pad_observations(np.asarray(observations), self._common)
        return padded, rewards, dones, infos

    def close(self) -> None:
        """Close all families' sub-environments."""
        for venv in self._venvs.values():
            venv.close()

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of sub-environments; `set_task_source` with another family's task is its turn.

        Raises:
            UsageError: a task of no family here, or of another family for some of them only.
        """
        if method_name == "set_task_source" and isinstance(method_args[0], Task):
            self._turn_to(method_args[0], indices)
        found = self.playing.env_method(method_name, *method_args, indices=indices, **method_kwargs)
        if method_name != "reset":
            return found
        return [(pad_observations(first[None], self._common)[0], info) for first, info in found]

    def _turn_to(self, task: Task, indices: Indices) -> None:
        if task.family == self._playing:
            return
        if task.family not in self._venvs:
            raise UsageError(
                f"task {task.id} is of family {task.family!r}, and the families here are "
                f"{', '.join(self._venvs)}"
            )
        if len(set(self._get_indices(indices))) < self.num_envs:
            raise UsageError(
                f"task {task.id} of family {task.family!r} for some sub-environments only, while the "
                f"others play {self._playing!r}; all play one family at a time"
            )
        self._playing, self._began = task.family, False

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute of the sub-environments whose turn it is."""
        return self.playing.get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the sub-environments whose turn it is."""
        self.playing.set_attr(attr_name, value, indices)

    def env_is_wrapped(self, wrapper_class: Any, indices: Indices = None) -> list[bool]:
        """Return whether the sub-environments whose turn it is are wrapped in it."""
        return self.playing.env_is_wrapped(wrapper_class, indices)

    # Checkpoints

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return (tensors, JSON values) of all families, or None if one cannot say where it is."""
        tensors: dict[str, Tensor] = {}
        parts: dict[str, Any] = {}
        for name, venv in self._venvs.items():
            said: Any = getattr(type(venv), "state_dict", None)
            if said is None:
                return None
            waiting = [*venv._seeds]
            if any(seed is not None for seed in waiting):
                # Its turn has not come yet, or not since it was seeded.
                parts[name] = {"waiting": waiting}
                continue
            own, values = said(venv)
            tensors |= {f"{name}/{key}": tensor for key, tensor in own.items()}
            parts[name] = {"values": values}
        return tensors, {"playing": self._playing, "began": self._began, "families": parts}

    def load_state_dict(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            CheckpointError: the state is of other families, or of other sub-environments.
        """
        parts = values["families"]
        if list(parts) != list(self._venvs):
            raise CheckpointError(
                f"the checkpoint has environments of {', '.join(parts)}, and here are those of "
                f"{', '.join(self._venvs)}; make the same in the same order"
            )
        for name, venv in self._venvs.items():
            if "waiting" in parts[name]:
                venv._seeds = list(parts[name]["waiting"])
                continue
            prefix = f"{name}/"
            own = {
                key.removeprefix(prefix): tensor
                for key, tensor in tensors.items()
                if key.startswith(prefix)
            }
            stateful: Any = venv
            stateful.load_state_dict(own, parts[name]["values"])
        self._playing, self._began = values["playing"], values["began"]
        self.reset_infos = self.playing.reset_infos


def _made(name: str, family: Any, task: Task | None, slots: int) -> VecEnv:
    if task is None:
        raise UsageError(f"no task is of family {name!r}; give one, or leave the family out")
    if not isinstance(family, _Vectorised):
        raise UsageError(f"family {name!r} has no environments for Stable-Baselines3")
    return family.make_sb3([task] * slots)
