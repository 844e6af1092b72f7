"""Extra vectors beside an observation: appended to it, or as a dictionary."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np

from mtrl.errors import UsageError

__all__ = ["Joiner", "Layout"]

Layout = Literal["append", "dict"]
"""`append`: one vector, the observation first; `dict`: the observation under "observation"."""


def _appended_space(observation: gym.Space[Any], extras: Mapping[str, gym.spaces.Box]) -> Any:
    if not isinstance(observation, gym.spaces.Box):
        raise UsageError(
            f"layout is 'append' and the observation space {observation}; only a Box can be "
            "appended to, use layout='dict'"
        )
    floating = np.issubdtype(observation.dtype, np.floating)
    parts = [observation, *extras.values()]
    low, high = (
        np.concatenate([getattr(part, bound).ravel() for part in parts])
        for bound in ("low", "high")
    )
    dtype: Any = observation.dtype if floating else np.float32
    return gym.spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


class Joiner:
    """Puts observations and named extra vectors together.

    Appended, an observation of any shape is flattened; the result has its floating type, or
    float32 if it was of integers.

    Attributes:
        space: that of the result.

    Raises:
        UsageError: an unknown layout, or one that this observation space cannot have.
    """

    def __init__(
        self,
        observation: gym.Space[Any],
        extras: Mapping[str, gym.spaces.Box],
        layout: Layout,
    ) -> None:
        if layout not in get_args(Layout):
            raise UsageError(f"layout is {layout!r}; it must be one of {get_args(Layout)}")
        self._names = list(extras)
        self._append = layout == "append"
        self.space: gym.Space[Any] = (
            _appended_space(observation, extras)
            if self._append
            else gym.spaces.Dict({"observation": observation, **extras})
        )

    def __call__(self, observation: Any, *extras: Any, batch: tuple[int, ...] = ()) -> Any:
        """Return the joined observation; all arguments have the leading axes `batch`."""
        if not self._append:
            copies = (np.array(extra) for extra in extras)
            return {"observation": observation, **dict(zip(self._names, copies, strict=True))}
        depth = len(batch) + 1
        parts = (np.asarray(part) for part in (observation, *extras))
        flat = [part if part.ndim == depth else part.reshape(*batch, -1) for part in parts]
        return np.concatenate(flat, axis=-1, dtype=self.space.dtype)
