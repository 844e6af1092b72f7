"""The batch behind the faces: slots on the CPU, in NumPy, every one of them always running.

It has the numbers of `BatchedEnv` without its masks: a face resets a slot in the step that ends it,
or refuses to step it again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.arrays import on_torch
from mtrl.envs.dynamics import Dynamics
from mtrl.envs.noise import keys_of_episodes, seed_keys, uniforms
from mtrl.envs.restoring import restored_array
from mtrl.envs.simulation import StepResult
from mtrl.envs.task import Task, params_of

__all__ = ["HostBatch"]

Observations = NDArray[np.float32]


class _Rows(Mapping[str, NDArray[Any]]):
    """The parameters of some slots, taken when asked for: most resets need none."""

    def __init__(self, params: Mapping[str, NDArray[Any]], slots: NDArray[np.intp]) -> None:
        self._params, self._slots = params, slots

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._params[name][self._slots]

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)


class _ResetNoise:
    """The reset noise of every slot, computed for several of its episodes at a time.

    Hashing takes as long for one slot as for hundreds, and where episodes are short some slot is
    reset in every step.
    """

    AHEAD = 16

    def __init__(self, family: Dynamics, seed_keys: NDArray[np.int64]) -> None:
        self._width, self._dtype, self._seed_keys = family.reset_noise, family.dtype, seed_keys
        self._slots = len(seed_keys)
        self._stock: NDArray[Any] = np.empty((self._slots, 0))
        """(`AHEAD` * slots, width): the next episode of all slots, then the one after, ..."""

    def begin(self, episodes: NDArray[np.int64]) -> NDArray[Any]:
        """Compute the noise of these episodes, one per slot, and of those after; return theirs."""
        self._row_of_episode_0 = np.arange(self._slots) - self._slots * episodes
        if self._width > 0:
            ahead = episodes + np.arange(self.AHEAD)[:, None]
            keys = keys_of_episodes(self._seed_keys, ahead).ravel()
            self._stock = uniforms(keys, np.zeros_like(keys), self._width, self._dtype)
        return self._stock[: self._slots]

    def of(self, slots: NDArray[np.intp], episodes: NDArray[np.int64]) -> NDArray[Any]:
        """Return the noise of `slots`, where `episodes` of all slots are those that they begin."""
        if self._width == 0:
            return np.asarray(self._stock[slots])
        rows = self._row_of_episode_0.take(slots) + self._slots * episodes.take(slots)
        try:
            return self._stock.take(rows, axis=0)
        except IndexError:  # the stock of some slot is used up; looking first would cost as much
            return self.begin(episodes)[slots]


class HostBatch:
    """Slots of one family, each with its own task, seed and episode; `reset` comes first.

    Args:
        family: the dynamics.
        tasks: one per slot, which the caller has checked.
    """

    def __init__(self, family: Dynamics, tasks: Sequence[Task]) -> None:
        self.family = family
        self._functions = family.functions(None if family.takes_numpy else on_torch)
        self._no_noise = np.empty((len(tasks), 0))
        self.params = self._stack(tasks)
        self._limits = family.step_limits(self.params)

    def _stack(self, tasks: Sequence[Task]) -> dict[str, NDArray[Any]]:
        dtype = np.float32 if self.family.dtype == torch.float32 else np.float64
        stacked = {name: rows.astype(dtype) for name, rows in params_of(tasks).items()}
        derived: dict[str, NDArray[Any]] = self._functions.derive(stacked)
        return derived

    def set_tasks(self, slots: Sequence[int], tasks: Sequence[Task]) -> None:
        """Give these slots other tasks, just before their next reset."""
        for name, rows in self._stack(tasks).items():
            self.params[name][slots] = rows
        self._limits = self.family.step_limits(self.params)

    def reset(self, seeds: NDArray[np.int64], episodes: NDArray[np.int64]) -> Observations:
        """Begin these episodes of these seeds, one per slot, and return the observations."""
        self._seeds, self.episodes = seeds, episodes
        self.steps = np.zeros_like(episodes)
        self._seed_keys = seed_keys(seeds)
        self._keys = keys_of_episodes(self._seed_keys, episodes)
        self._reset_noise = _ResetNoise(self.family, self._seed_keys)
        noise = self._reset_noise.begin(episodes)
        # A copy: a family may return what belongs to the parameters.
        self.state = np.array(self._functions.reset(self.params, noise), order="K")
        return np.array(self._functions.observe(self.params, self.state), order="C")

    def reset_slots(self, slots: NDArray[np.intp]) -> Observations:
        """Begin the next episode in these slots and return their observations."""
        self.episodes[slots] += 1
        self.steps[slots] = 0
        if self.family.step_noise > 0:
            self._keys[slots] = keys_of_episodes(self._seed_keys[slots], self.episodes[slots])
        params = _Rows(self.params, slots)
        first = self._functions.reset(params, self._reset_noise.of(slots, self.episodes))
        self.state[slots] = first
        return np.asarray(self._functions.observe(params, first))

    def step(self, action: NDArray[Any]) -> StepResult:
        """Apply one action per slot; what is returned is the caller's own."""
        self.steps += 1
        noise = self._no_noise
        if self.family.step_noise > 0:
            noise = uniforms(self._keys, self.steps, self.family.step_noise, self.family.dtype)
        state, reward, terminated = self._functions.step(self.params, self.state, action, noise)
        # What comes from torch may be a view of what the family holds.
        self.state = state if self.family.takes_numpy else state.copy(order="K")
        obs = self._functions.observe(self.params, self.state)
        if obs.base is not None or obs is self.state or not obs.flags.c_contiguous:
            obs = np.array(obs, order="C")
        return StepResult(obs, reward, terminated, self.steps >= self._limits)

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values): all that steps and resets depend on beside the tasks."""
        arrays = {"seeds": self._seeds, "episodes": self.episodes, "steps": self.steps}
        arrays["state"] = self.state
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        return tensors, {"column_major": bool(self.state.flags.fnc)}

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken of a batch with the same tasks.

        Raises:
            CheckpointError: the state is not one of such a batch.
        """
        like = np.zeros(len(self._no_noise), np.int64)
        seeds, episodes = (restored_array(tensors, name, like) for name in ("seeds", "episodes"))
        self.reset(seeds, episodes)
        self.steps = restored_array(tensors, "steps", self.steps)
        state = restored_array(tensors, "state", self.state)
        # Loops over columns and over rows may differ in the last bit.
        self.state = np.asfortranarray(state) if values["column_major"] else state
