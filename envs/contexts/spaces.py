"""One space for tasks whose environments have different ones.

Observations are padded with zeros at the end of every axis. Actions are cut: real-valued ones to the
leading numbers that the task's environment has, clipped to its bounds; a choice that it lacks
becomes the one as far beyond its first as the remainder of a division by their number.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from numpy.typing import NDArray

from mtrl.errors import UsageError

__all__ = [
    "action_mask",
    "common_action_space",
    "common_observation_space",
    "fit_action",
    "fit_observation",
]

Space = gym.Space[Any]
Array = NDArray[Any]


def common_observation_space(spaces: Sequence[Space]) -> Space:
    """Return the smallest space that holds the padded observations of all `spaces`.

    Raises:
        UsageError: they differ in more than their sizes and bounds.
    """
    first = spaces[0]
    if all(space == first for space in spaces):
        return first
    boxes = [space for space in spaces if isinstance(space, Box)]
    dicts = [space for space in spaces if isinstance(space, Dict)]
    if len(boxes) == len(spaces):
        return _common_box(boxes, filler=0.0)
    if len(dicts) == len(spaces) and all(one.keys() == dicts[0].keys() for one in dicts):
        parts = {key: [one[key] for one in dicts] for key in dicts[0]}
        return Dict({key: common_observation_space(part) for key, part in parts.items()})
    return _common_choice(spaces, "observation")


def common_action_space(spaces: Sequence[Space]) -> Space:
    """Return the space of the actions that `fit_action` turns into those of any of `spaces`.

    Raises:
        UsageError: they differ in more than their sizes and bounds.
    """
    first = spaces[0]
    if all(space == first for space in spaces):
        return first
    boxes = [space for space in spaces if isinstance(space, Box)]
    return _common_box(boxes) if len(boxes) == len(spaces) else _common_choice(spaces, "action")


def _common_choice(spaces: Sequence[Space], what: str) -> Discrete:
    choices = [space for space in spaces if isinstance(space, Discrete)]
    if len(choices) < len(spaces) or len({int(space.start) for space in choices}) > 1:
        raise _irreconcilable(spaces, what)
    return Discrete(max(int(space.n) for space in choices), start=int(choices[0].start))


def _common_box(boxes: Sequence[Box], filler: float = np.nan) -> Box:
    """Return the hull of `boxes`; `filler` is a bound where one of them ends, NaN for none."""
    if len({(len(box.shape), box.dtype) for box in boxes}) > 1:
        raise _irreconcilable(boxes, "box")
    shape = tuple(np.max([box.shape for box in boxes], axis=0).tolist())
    dtype = boxes[0].dtype
    # fmin and fmax pass over NaN: bounds where a box has none.
    low = np.fmin.reduce([_padded(box.low.astype(np.float64), shape, filler) for box in boxes])
    high = np.fmax.reduce([_padded(box.high.astype(np.float64), shape, filler) for box in boxes])
    # Nor may any box reach a corner of the hull.
    low, high = (np.where(np.isnan(bound), 0.0, bound) for bound in (low, high))
    return Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)


def _irreconcilable(spaces: Sequence[Space], what: str) -> UsageError:
    different = next(space for space in spaces if space != spaces[0])
    return UsageError(
        f"tasks have the {what} spaces {spaces[0]} and {different}, which no padding makes one; "
        "vary something else, or wrap the environment so that they agree in kind and dtype"
    )


def _padded(array: Array, shape: tuple[int, ...], filler: float = 0.0) -> Array:
    if array.shape == shape:
        return array
    missing = [(0, wanted - have) for have, wanted in zip(array.shape, shape, strict=True)]
    return np.pad(array, missing, constant_values=filler)


def fit_observation(observation: Any, common: Space) -> Any:
    """Return an observation of a task's environment as one of the `common` space."""
    if isinstance(common, Box):
        return _padded(np.asarray(observation), common.shape)
    if isinstance(common, Dict):
        return {key: fit_observation(observation[key], space) for key, space in common.items()}
    return observation


def fit_action(action: Any, own: Space, common: Space) -> Any:
    """Return an action of the `common` space as one of a task's `own`."""
    if own == common:
        return action
    if isinstance(own, Discrete):
        start = int(own.start)
        return start + (int(action) - start) % int(own.n)
    assert isinstance(own, Box)
    leading = tuple(slice(size) for size in own.shape)
    return np.clip(np.asarray(action, own.dtype)[leading], own.low, own.high)


def action_mask(own: Discrete, common: Discrete) -> NDArray[np.int8]:
    """Return 1 for each choice of `common` that is among a task's `own`, for `Discrete.sample`."""
    return (np.arange(int(common.n)) < int(own.n)).astype(np.int8)
