"""Spaces as JSON and back, to the last bit of their bounds."""

from typing import Any

import gymnasium as gym
import numpy as np

from mtrl.errors import UsageError

__all__ = ["require_space", "space_from_json", "space_to_json"]


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Return a Box or a Discrete as JSON values.

    Raises:
        UsageError: a space of another kind.
    """
    if isinstance(space, gym.spaces.Box):
        bounds = {"low": space.low.tolist(), "high": space.high.tolist()}
        return {"kind": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **bounds}
    if isinstance(space, gym.spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    raise UsageError(f"the space {space} cannot be stored; flatten it to a Box or a Discrete")


def space_from_json(value: dict[str, Any]) -> gym.Space[Any]:
    """Return the space that `space_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: these are no such values.
    """
    if value["kind"] == "Discrete":
        return gym.spaces.Discrete(int(value["n"]), start=int(value["start"]))
    if value["kind"] != "Box":
        raise ValueError(f"unknown kind of space {value['kind']!r}")
    dtype = np.dtype(value["dtype"])
    shape = tuple(int(size) for size in value["shape"])
    low, high = (np.array(value[bound], dtype).reshape(shape) for bound in ("low", "high"))
    return gym.spaces.Box(low, high, shape, dtype.type)


def require_space(name: str, found: gym.Space[Any], wanted: gym.Space[Any] | None) -> None:
    """Refuse demonstrations of another environment.

    Raises:
        UsageError: the spaces differ; the message says what each is.
    """
    if wanted is not None and found != wanted:
        raise UsageError(
            f"the demonstrations' {name} is {found}, and the environment's is {wanted}; record them "
            "in this environment"
        )
