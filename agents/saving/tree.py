"""Nested values as tensors by name and JSON: what a checkpoint can hold.

Dictionaries with text keys, lists, tuples, plain values, tensors, NumPy arrays and NumPy numbers. An
array or tensor is named by where it lies ("optimizers/policy.optimizer/state/0/exp_avg"); its place in
the JSON says what it is. All come back as they were, dtypes and memory order included.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtrl.errors import CheckpointError, UsageError

__all__ = ["check_alike", "pack", "unpack"]

_KIND = "$"
# safetensors knows these only in its newest versions; their bits are stored as signed numbers.
_SIGNED = {"uint16": "int16", "uint32": "int32", "uint64": "int64"}


def pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON, and put what is no JSON into `tensors`.

    Raises:
        UsageError: a value that a checkpoint cannot hold; the message names its place.
    """
    if value is None or isinstance(value, bool | int | float | str):
        # NumPy's float64 is a float to Python, and would come back as one.
        return _number(value) if isinstance(value, np.generic) else value
    if isinstance(value, np.generic):
        return _number(value)
    if isinstance(value, Tensor | np.ndarray):
        return _array(value, place, tensors)
    if isinstance(value, Mapping):
        return _mapping(value, place, tensors)
    if isinstance(value, list | tuple):
        items = [pack(item, f"{place}/{index}", tensors) for index, item in enumerate(value)]
        return {_KIND: "tuple", "items": items} if isinstance(value, tuple) else items
    raise UsageError(f"{place} is a {type(value).__name__}, which a checkpoint cannot hold")


def _number(value: np.generic) -> dict[str, Any]:
    return {_KIND: "number", "dtype": value.dtype.name, "value": value.item()}


def _array(value: Any, place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if place in tensors:
        raise UsageError(f"two values are at {place!r}; rename one")
    if isinstance(value, Tensor):
        tensors[place] = value.detach()
        return {_KIND: "tensor"}
    marker = {_KIND: "array", "dtype": value.dtype.name, "column_major": bool(value.flags.fnc)}
    if value.dtype.kind not in "biuf":
        raise UsageError(f"{place} is an array of {value.dtype}, which a checkpoint cannot hold")
    signed = _SIGNED.get(value.dtype.name)
    # A copy: the caller goes on writing into its array.
    copied = np.array(value, order="C")
    tensors[place] = torch.from_numpy(copied if signed is None else copied.view(signed))
    return marker


def _mapping(value: Mapping[Any, Any], place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str) or key == _KIND:
            raise UsageError(f"keys in {place} are text other than {_KIND!r}, got {key!r}")
    return {key: pack(item, f"{place}/{key}", tensors) for key, item in value.items()}


def unpack(packed: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return the value of which `pack` made `packed` and `tensors`, and take its tensors out of them.

    Tensors and arrays are copies: what is trained on must not write into the checkpoint.

    Raises:
        CheckpointError: a tensor is missing; the message names it.
    """
    if isinstance(packed, list):
        return [unpack(item, f"{place}/{index}", tensors) for index, item in enumerate(packed)]
    if not isinstance(packed, dict):
        return packed
    kind = packed.get(_KIND)
    if kind is None:
        return {key: unpack(item, f"{place}/{key}", tensors) for key, item in packed.items()}
    if kind == "tuple":
        return tuple(unpack(packed["items"], place, tensors))
    if kind == "number":
        return np.dtype(packed["dtype"]).type(packed["value"])
    if kind not in ("tensor", "array"):
        raise CheckpointError(f"{place} is a {kind!r}, which this mtrl does not know")
    if place not in tensors:
        raise CheckpointError(f"tensor {place} is missing from the checkpoint")
    copied = tensors.pop(place).clone()
    return copied if kind == "tensor" else _as_array(copied, packed)


def _as_array(tensor: Tensor, marker: Mapping[str, Any]) -> Any:
    array = tensor.cpu().numpy()
    array = array.view(marker["dtype"]) if marker["dtype"] in _SIGNED else array
    return np.asfortranarray(array) if marker["column_major"] else array


def check_alike(place: str, saved: Any, here: Any) -> None:
    """Check that a saved array or tensor has the shape and the dtype of the one it replaces.

    Raises:
        CheckpointError: it has not; the message names the place and both.
    """
    if not isinstance(saved, Tensor | np.ndarray):
        raise CheckpointError(f"{place} is a {type(saved).__name__} in the checkpoint, no array")
    if tuple(saved.shape) != tuple(here.shape) or saved.dtype != here.dtype:
        raise CheckpointError(
            f"{place} is {saved.dtype} of shape {tuple(saved.shape)} in the checkpoint and "
            f"{here.dtype} of shape {tuple(here.shape)} here"
        )
