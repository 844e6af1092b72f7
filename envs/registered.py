"""Entry points of the environments that are registered with Gymnasium as `mtrl/...-v0`."""

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from mtrl.envs.family import TaskFamily, TaskSource
from mtrl.envs.registry import get_family
from mtrl.errors import UsageError

__all__ = ["make_env", "make_vector_env"]


def _family(name: str, preset: str | None, arguments: dict[str, Any]) -> TaskFamily:
    family = get_family(name, preset, **arguments)
    if not isinstance(family, TaskFamily):
        raise UsageError(f"family {name!r} is supervised and has no environments")
    return family


def make_env(
    *,
    family: str,
    preset: str | None = None,
    task: TaskSource = "train",
    render_mode: str | None = None,
    **arguments: Any,
) -> gym.Env[Any, Any]:
    """Return the environment of `gymnasium.make`; `arguments` are those of the family."""
    return _family(family, preset, arguments).make(task, render_mode)


def make_vector_env(
    *,
    family: str,
    num_envs: int = 1,
    preset: str | None = None,
    task: TaskSource = "train",
    **arguments: Any,
) -> VectorEnv[Any, Any, Any]:
    """Return the environment of `gymnasium.make_vec`, with the same task source everywhere."""
    return _family(family, preset, arguments).make_vec([task] * num_envs)
