"""Functions that take NumPy arrays and torch tensors alike, and bridges between the two.

A family whose dynamics are written with `namespace` runs on NumPy on the CPU and on torch
elsewhere. NumPy's operations on a few hundred numbers cost half of torch's, and its sine is the one
that Gymnasium's environments use, so that results are theirs to the last bit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Array",
    "astype",
    "columns",
    "empty_columns",
    "from_columns",
    "namespace",
    "on_numpy",
    "on_torch",
    "seem_finite",
]

Array = Any
"""A NumPy array or a torch tensor; what a function returns is of the kind that it was given."""


def namespace(array: Array) -> Any:
    """Return the module whose functions take `array`: numpy or torch."""
    return np if isinstance(array, np.ndarray) else torch


def astype(array: Array, name: Literal["float32", "float64", "int64"]) -> Array:
    """Return `array` with the numbers of the type called `name`."""
    if isinstance(array, np.ndarray):
        return array.astype(name, order="C", copy=False)
    return array.to(getattr(torch, name))


def columns(state: Array) -> Array:
    """Return what unpacks to the columns of a state shaped (slots, columns)."""
    return state.T


def from_columns(parts: Sequence[Array]) -> Array:
    """Return the state, shaped (slots, columns), that has these columns."""
    # Column-major: each column is contiguous, and joining them is one copy.
    return namespace(parts[0]).concatenate(parts).reshape(len(parts), -1).T


def empty_columns(like: Array, count: int) -> Array:
    """Return `count` columns, each like `like` (slots,), to be written: the state is their `.T`."""
    if isinstance(like, np.ndarray):
        return np.empty((count, len(like)), like.dtype)
    return like.new_empty((count, len(like)))


def seem_finite(values: Array) -> bool:
    """Return True only if all are; False if one is not, or if their squares overflow.

    NumPy warns of an overflow, which is near divergence even where it is none.
    """
    flat = values.ravel()
    # A third of what looking at each number takes.
    return math.isfinite(flat.dot(flat))


def _map(convert: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: convert(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(convert(item) for item in value)
    return convert(value)


def _to_numpy(value: Tensor) -> Any:
    return value.detach().numpy()


def _call_on_numpy(function: Callable[..., Any], *arguments: Any) -> Any:
    return _map(torch.from_numpy, function(*(_map(_to_numpy, value) for value in arguments)))


def _call_on_torch(function: Callable[..., Any], *arguments: Any) -> Any:
    return _map(_to_numpy, function(*(_map(torch.from_numpy, value) for value in arguments)))


def on_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a function of NumPy arrays into one of CPU tensors, which share their memory."""
    return partial(_call_on_numpy, function)  # no closure: environments are pickled


def on_torch(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a function of CPU tensors into one of NumPy arrays, which share their memory."""
    return partial(_call_on_torch, function)
