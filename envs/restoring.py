"""What a state read from a checkpoint is held against before an environment takes it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.errors import CheckpointError

__all__ = ["restored_array"]


def restored_array(
    tensors: Mapping[str, torch.Tensor], name: str, like: NDArray[Any]
) -> NDArray[Any]:
    """Return `tensors[name]` as an array of its own, in the memory order of a new one.

    Raises:
        CheckpointError: it is missing, or not of the shape and the type of `like`.
    """
    if name not in tensors:
        raise CheckpointError(f"the environment's {name} is missing from the checkpoint")
    array = tensors[name].cpu().numpy()
    if array.shape != like.shape or array.dtype != like.dtype:
        raise CheckpointError(
            f"the environment's {name} is {array.dtype} {array.shape} in the checkpoint and "
            f"{like.dtype} {like.shape} here; make the environment with the family, options and "
            "number of tasks that it was saved with"
        )
    return np.array(array, order="C")
