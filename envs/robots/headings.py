"""Directions in the plane, as angles in degrees: 0 is along x, 180 against it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.distributions import Choice, RangeSpec

__all__ = ["ANY_HEADING", "FORWARD_OR_BACKWARD", "along"]

FORWARD_OR_BACKWARD: Mapping[str, RangeSpec] = {"angle": Choice((0.0, 180.0))}
ANY_HEADING: Mapping[str, RangeSpec] = {"angle": (-180.0, 180.0)}


def along(angle: NDArray[Any], velocity: NDArray[Any]) -> NDArray[Any]:
    """Return the part of velocities (slots, 2) along angles (slots,).

    At 180 degrees it is minus the velocity along x, to within 2e-16 of that along y.
    """
    radians = np.deg2rad(angle)
    return np.asarray(np.cos(radians) * velocity[:, 0] + np.sin(radians) * velocity[:, 1])
