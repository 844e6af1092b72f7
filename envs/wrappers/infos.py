"""What wrappers ask an environment: its family, its tasks, and what a vector's infos say of a slot.

In a vector environment with SAME_STEP autoreset, the infos of the step that ends an episode are
those of the next one; what belongs to the step itself is in `final_info`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = [
    "PlainVectorWrapper",
    "family_of",
    "fresh_slots",
    "of_transition",
    "skips_reset_steps",
    "states_of_slots",
    "task_id_of",
    "tasks_of",
]

Objects = NDArray[np.object_]
Flags = NDArray[np.bool_]

if TYPE_CHECKING:
    PlainVectorWrapper = VectorWrapper[Any, Any, Any, Any, NDArray[Any]]
else:
    PlainVectorWrapper = VectorWrapper  # the parameters are the type checker's


def _missing(env: Any, name: str) -> UsageError:
    return UsageError(
        f"{env} has no {name!r}: wrap the environment of a task family "
        "(gymnasium.make('mtrl/...'), family.make or family.make_vec)"
    )


def _sub_environments(env: VectorEnv[Any, Any, Any], name: str) -> Any:
    base: Any = env.unwrapped
    if not hasattr(base, "get_attr"):
        raise _missing(env, name)
    try:
        return base.get_attr(name)
    except AttributeError:
        raise _missing(env, name) from None


def family_of(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> TaskFamily:
    """Return the family of the environment, or of the first of several.

    Raises:
        UsageError: it has none.
    """
    family: Any
    if isinstance(env, VectorEnv):
        family = getattr(env.unwrapped, "family", None) or _sub_environments(env, "family")[0]
    else:
        try:
            family = env.get_wrapper_attr("family")
        except AttributeError:
            raise _missing(env, "family") from None
    if not isinstance(family, TaskFamily):
        raise _missing(env, "family")
    return family


def tasks_of(env: VectorEnv[Any, Any, Any]) -> Sequence[Task]:
    """Return the task that each sub-environment plays now.

    Raises:
        UsageError: the environment does not say.
    """
    tasks: Sequence[Task] | None = getattr(env.unwrapped, "tasks", None)
    return _sub_environments(env, "task") if tasks is None else tasks


def task_id_of(info: Mapping[str, Any]) -> str:
    """Return the task's id.

    Raises:
        UsageError: the environment does not report it.
    """
    if info.get("task_id") is None:
        raise UsageError("info has no 'task_id': wrap the environment of a task family")
    return str(info["task_id"])


def fresh_slots(options: Mapping[str, Any] | None, num_envs: int) -> Flags:
    """Return which slots a reset with `options` begins anew; ask before the reset.

    The environment removes the mask from the caller's options.
    """
    mask = (options or {}).get("reset_mask")
    return np.ones(num_envs, np.bool_) if mask is None else np.array(mask, np.bool_)


def skips_reset_steps(env: VectorEnv[Any, Any, Any]) -> bool:
    """Return whether the step after an episode's end only resets the slot."""
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    return bool(mode == AutoresetMode.NEXT_STEP)


def of_transition(info: Mapping[str, Any], key: str, num_envs: int) -> Objects:
    """Return what the step itself reported under `key` in each slot; None where it did not."""
    ended: Flags = info.get("_final_info", np.zeros(num_envs, np.bool_))
    values: Objects = np.full(num_envs, None, dtype=object)
    for source, where in ((info, ~ended), (info.get("final_info", {}), ended)):
        if key in source:
            reported = where & source.get(f"_{key}", True)
            values[reported] = np.asarray(source[key])[reported]
    return values


def states_of_slots(info: Mapping[str, Any], previous: Objects) -> Objects:
    """Return the task ids that belong to the returned observations; `previous` where not said."""
    if "task_id" not in info:
        return previous
    reported = info.get("_task_id", np.ones(len(previous), np.bool_))
    return np.where(reported, np.asarray(info["task_id"], dtype=object), previous)
