"""The picture of a hexagon state: sectors, walls with openings, and the player around the middle."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["HUB", "PIXELS", "Scene", "picture"]

PIXELS = 128
"""Width and height."""
HUB = 0.35
"""From the middle to the player's track, in lengths."""

_SECTORS = (44, 36, 64), (58, 48, 84)
_WALL = 238, 154, 60
_PLAYER = 250, 250, 250


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is seen of one state; angles in sides, distances in lengths, `turn` in radians.

    `walls` are pairs of a distance and the middle of one opening; the others lie `period` apart.
    """

    sides: float
    period: float
    gap: float
    thickness: float
    sight: float
    player: float
    turn: float
    walls: tuple[tuple[float, float], ...]


@cache
def _polar(half_width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return every pixel's distance from the middle and angle in radians; both are read-only."""
    centres = ((np.arange(PIXELS) + 0.5) / PIXELS * 2 - 1) * half_width
    x, y = np.meshgrid(centres, -centres)
    polar = np.hypot(x, y), np.arctan2(y, x)
    for array in polar:
        array.flags.writeable = False
    return polar


def picture(scene: Scene, *, furthest: float) -> NDArray[np.uint8]:
    """Return the scene as RGB, shaped (PIXELS, PIXELS, 3), which reaches `furthest` from the player."""
    radius, radians = _polar(HUB + furthest)
    side = np.mod((radians - scene.turn) * scene.sides / (2 * math.pi), scene.sides)
    # Along the middle of a side, so that lines of equal height are polygons.
    height = radius * np.cos((np.mod(side, 1.0) - 0.5) * 2 * math.pi / scene.sides)
    image: NDArray[np.uint8] = np.array(_SECTORS, np.uint8)[np.floor(side).astype(int) % 2]
    for distance, middle in scene.walls:
        if distance > scene.sight:
            continue
        shut = np.mod(side - middle + scene.gap / 2, scene.period) >= scene.gap
        inner = HUB + distance
        image[shut & (inner <= height) & (height <= inner + scene.thickness)] = _WALL
    image[np.abs(height - 0.6 * HUB) <= 0.025] = _WALL
    away = np.mod(side - scene.player + scene.sides / 2, scene.sides) - scene.sides / 2
    image[np.hypot(away * HUB, height - HUB) <= 0.06] = _PLAYER
    return image
