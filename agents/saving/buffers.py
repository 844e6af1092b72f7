"""Contents of rollout and replay buffers: the filled places of every array.

Storage is known by its shape, (buffer size, environments, ...). Of it only what is filled is stored,
where the buffer's class is known; of a class that stores transitions in a way of its own, all is.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import (
    BaseBuffer,
    NStepReplayBuffer,
    ReplayBuffer,
    RolloutBuffer,
)
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import Tensor

from mtrl.agents.multitask.replay_buffer import MultiTaskReplayBuffer
from mtrl.agents.saving.torch_parts import check_names
from mtrl.agents.saving.tree import check_alike
from mtrl.errors import CheckpointError, UsageError

__all__ = ["buffer_state", "cut_episodes", "load_buffer"]


def buffer_state(buffer: BaseBuffer) -> dict[str, Any]:
    """Return what is in the buffer.

    A rollout that was trained on is not stored: the next one begins with an empty buffer.

    Raises:
        UsageError: it holds what a checkpoint cannot, such as infos (`copy_info_dict`).
    """
    if isinstance(buffer, RolloutBuffer) and (buffer.generator_ready or buffer.pos == 0):
        return {"pos": 0, "full": False, "arrays": {}}
    arrays = dict(_arrays(buffer))
    filled = _filled(buffer, buffer.pos, buffer.full, arrays)
    kept = {
        name: _flat(array)[filled] if _is_storage(buffer, array) else array
        for name, array in arrays.items()
    }
    return {"pos": int(buffer.pos), "full": bool(buffer.full), "arrays": kept}


def load_buffer(buffer: BaseBuffer, place: str, saved: Mapping[str, Any]) -> None:
    """Fill `buffer` with what was saved.

    Raises:
        CheckpointError: it is of another size, shape or kind.
    """
    pos, full, arrays = int(saved["pos"]), bool(saved["full"]), saved["arrays"]
    if not 0 <= pos <= buffer.buffer_size:
        raise CheckpointError(
            f"{place} was at row {pos}, and has {buffer.buffer_size} here; give it the same size"
        )
    buffer.reset()
    if isinstance(buffer, RolloutBuffer) and not arrays:
        return
    here = dict(_arrays(buffer))
    check_names(place, arrays, here)
    filled = _filled(buffer, pos, full, arrays)
    for name, array in here.items():
        target = _flat(array)[filled] if _is_storage(buffer, array) else array
        check_alike(f"{place}/{name}", arrays[name], target)
    for name, array in here.items():
        if _is_storage(buffer, array):
            _flat(array)[filled] = arrays[name]
        else:
            array[...] = arrays[name]
    buffer.pos, buffer.full = pos, full


def cut_episodes(buffer: BaseBuffer | None) -> None:
    """Mark the newest transitions as truncated, in a buffer that would join them to those that follow."""
    if isinstance(buffer, MultiTaskReplayBuffer):
        buffer.cut()
        return
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what is wanted here
            buffer.truncate_last_trajectory()
        return
    joins = isinstance(buffer, NStepReplayBuffer) or getattr(buffer, "optimize_memory_usage", False)
    if not (isinstance(buffer, ReplayBuffer) and joins and (buffer.full or buffer.pos)):
        return
    newest = (buffer.pos - 1) % buffer.buffer_size
    if buffer.handle_timeout_termination:
        running = buffer.dones[newest] == 0
        buffer.timeouts[newest][running] = 1
    buffer.dones[newest] = 1


def _filled(buffer: BaseBuffer, pos: int, full: bool, arrays: Mapping[str, Any]) -> Any:
    """Return which places hold something, of storage whose first two axes are taken as one."""
    if isinstance(buffer, MultiTaskReplayBuffer):
        counts = arrays["counts"]
        if (
            counts.shape != (buffer.tasks,)
            or not ((counts >= 0) & (counts <= buffer.capacity)).all()
        ):
            raise CheckpointError(f"the replay buffer has no room for {counts} transitions")
        # Each task fills a part of its own from the start.
        parts = [np.arange(count) + i * buffer.capacity for i, count in enumerate(counts.tolist())]
        return np.concatenate(parts)
    if full or not type(buffer).add.__module__.startswith("stable_baselines3."):
        return slice(None)
    # The last next observation may lie in the row after.
    ahead = int(pos > 0 and getattr(buffer, "optimize_memory_usage", False))
    return slice((pos + ahead) * buffer.n_envs)


def _flat(array: Any) -> Any:
    return array.reshape(-1, *array.shape[2:])


def _is_storage(buffer: BaseBuffer, array: Any) -> bool:
    return tuple(array.shape[:2]) == (buffer.buffer_size, buffer.n_envs)


def _arrays(buffer: BaseBuffer) -> Iterator[tuple[str, Any]]:
    for name, value in vars(buffer).items():
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        for key, part in parts:
            if isinstance(part, np.ndarray) and part.dtype == object:
                _check_empty(name, part)
            elif isinstance(part, np.ndarray | Tensor) and _lasts(buffer, part):
                yield name if key is None else f"{name}.{key}", part


def _lasts(buffer: BaseBuffer, array: Any) -> bool:
    # What else a rollout buffer holds is made anew for each rollout.
    return not isinstance(buffer, RolloutBuffer) or _is_storage(buffer, array)


def _check_empty(name: str, objects: Any) -> None:
    if any(objects.flat):
        raise UsageError(
            f"the replay buffer's {name} holds Python objects, which a checkpoint cannot; "
            "make the buffer without copy_info_dict"
        )
