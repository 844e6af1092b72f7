"""Hexagon: walls close in on a player who circles the middle, and each has openings to slip through.

A stand-in for Open Hexagon, which Dex (Erickson and Zhao 2017, arXiv:1706.05749) wraps: three
actions, reward for surviving, and levels from easy to hard in two ways. The pattern of the walls
gets harder (faster, closer, narrower openings that lie further apart), and so does what is seen of
it (the world turns, the turning changes its sense, openings are blurred, far walls are hidden). What is
seen never changes what happens: the dynamics live in the frame that turns with the world.

The player's angle and all widths along a wall are measured in sides of the polygon, distances from the
player outwards in lengths; one is about the space between two walls.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.arrays import Array, astype, columns, from_columns, namespace
from mtrl.envs.batched import BatchedFamily
from mtrl.envs.distributions import Choice, RangeSpec
from mtrl.envs.family import FamilySpec
from mtrl.envs.hexagon_picture import Scene, picture
from mtrl.envs.ranged import RangedFamily
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["FURTHEST_SIGHT", "LEVELS", "RINGS", "START", "Hexagon", "hexagon"]

RINGS = 3
"""Walls that exist at a time; a new one comes when the nearest has passed."""
START = 0.75
"""Distance of the first wall at the beginning."""
FURTHEST_SIGHT = 1.25
"""As far as the picture reaches."""

_PATTERN: Mapping[str, RangeSpec] = {
    "wall_speed": (0.015, 0.045),
    "spacing": (0.8, 1.0),
    "gap": (0.8, 1.8),
    "openings": Choice([1.0, 2.0, 3.0]),
    "jump": (1.0, 3.0),
}
_REPRESENTATION: Mapping[str, RangeSpec] = {
    "rotation_speed": (0.0, 0.1),
    "reversal": (0.0, 0.5),
    "noise": (0.0, 0.5),
    "sight": (START, FURTHEST_SIGHT),
}


@dataclass(frozen=True, kw_only=True)
class Hexagon(RangedFamily, BatchedFamily):
    """The family. See `RangedFamily`.

    Actions: 0 left (anticlockwise), 1 stay, 2 right. A step moves the player, then the walls; it
    pays 1, or 0 and terminates where a wall touches the player outside of its openings.

    Args:
        horizon: steps after which an episode is truncated.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=lambda: {**_PATTERN, **_REPRESENTATION})
    horizon: int = 500

    name: ClassVar[str] = "hexagon"
    dtype: ClassVar[torch.dtype] = torch.float64
    takes_numpy: ClassVar[bool] = True
    reset_noise: ClassVar[int] = 1 + RINGS + RINGS
    step_noise: ClassVar[int] = 2 + RINGS
    render_modes: ClassVar[tuple[str, ...]] = ("rgb_array",)
    render_fps: ClassVar[int] = 50
    defaults: ClassVar[Mapping[str, float]] = {
        "sides": 6.0,
        "player_speed": 0.2,
        "thickness": 0.1,
        "wall_speed": 0.02,
        "spacing": 1.0,
        "gap": 1.0,
        "openings": 1.0,
        "jump": 3.0,
        "rotation_speed": 0.0,
        "reversal": 0.0,
        "noise": 0.0,
        "sight": FURTHEST_SIGHT,
    }
    units: ClassVar[Mapping[str, str]] = {
        "sides": "of the polygon",
        "player_speed": "sides/step",
        "thickness": "length, of a wall",
        "wall_speed": "length/step",
        "spacing": "length, from wall to wall",
        "gap": "sides, width of an opening",
        "openings": "of each wall, evenly spread",
        "jump": "sides, furthest from an opening to that of the next wall",
        "rotation_speed": "radians/step, of what is seen",
        "reversal": "chance that a wall changes the sense of rotation",
        "noise": "sides, largest error of a seen opening",
        "sight": "length, how far walls are seen",
    }
    positive: ClassVar[frozenset[str]] = frozenset(
        {"sides", "player_speed", "wall_speed", "spacing", "gap", "openings", "jump"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("sides", 3), ("openings", 1)):
            spec = self.ranges.get(name, self.defaults[name])
            values = spec.values if isinstance(spec, Choice) else self.bounds(name)
            whole = all(value == int(value) and value >= least for value in values)
            if not whole or (len(set(values)) > 1 and not isinstance(spec, Choice)):
                raise self._error(
                    f"{name} is {spec}; give a whole number from {least} on, or a Choice of them"
                )
        room = self.bounds("spacing")[0] - self.bounds("thickness")[1]
        if room <= self.bounds("wall_speed")[1]:
            raise self._error(
                f"spacing less thickness goes down to {room:g}; it must exceed wall_speed, "
                f"{self.bounds('wall_speed')[1]:g}, or two walls touch the player at once"
            )
        widest = self.bounds("gap")[1] * self.bounds("openings")[1]
        if widest >= self.bounds("sides")[0]:
            raise self._error(
                f"gap times openings goes up to {widest:g} sides; nothing is left shut"
            )
        if not 0 < self.bounds("sight")[0] <= self.bounds("sight")[1] <= FURTHEST_SIGHT:
            raise self._error(
                f"sight is in {self.bounds('sight')}; it must be above 0 and at most {FURTHEST_SIGHT}"
            )

    def _error(self, problem: str) -> UsageError:
        return UsageError(f"task family 'hexagon': {problem}")

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """See `observe`."""
        nearest = -self.bounds("thickness")[1] - self.bounds("wall_speed")[1]
        low, high = [-1.0, -1.0, 0.0], [1.0, 1.0, 1.0]
        low += [nearest, -1.0, -1.0] * RINGS
        high += [self.bounds("sight")[1], 1.0, 1.0] * RINGS
        return gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))

    @cached_property
    def action_space(self) -> gym.spaces.Discrete:
        """Left, stay, right."""
        return gym.spaces.Discrete(3)

    def derive(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Add the sides from opening to opening, and the radians of a side."""
        return {
            **params,
            "period": params["sides"] / params["openings"],
            "radians": 2 * math.pi / params["sides"],
        }

    def reset(self, params: Mapping[str, Array], noise: Array) -> Array:
        """Return states whose first wall is `START` away; the player is anywhere around.

        A state is: the player's angle, the nearest wall's distance, the angle by which the view is
        turned in radians, the sense of its rotation, where an opening of each wall begins, and a
        uniform number per wall from which its blur is made.
        """
        xp = namespace(noise)
        angle, first, second, third, *blur = columns(noise)
        sides = params["sides"]
        openings = [xp.floor(first * sides)]
        for uniform in (second, third):
            openings.append(_next_opening(params, openings[-1], uniform))
        one = xp.ones_like(angle)
        return from_columns([angle * sides, START * one, 0 * one, one, *openings, *blur])

    def step(
        self, params: Mapping[str, Array], state: Array, action: Array, noise: Array
    ) -> tuple[Array, Array, Array]:
        """Move the player, then the walls; see the class."""
        xp = namespace(state)
        angle, distance, turn, sense, nearest, second, third = columns(state)[: 4 + RINGS]
        fresh, flip, *blur = columns(noise)
        angle = xp.remainder(angle + (1 - action) * params["player_speed"], params["sides"])
        distance = distance - params["wall_speed"]
        # The wall that is nearest has not passed: once its front has arrived, it is at the player.
        outside = xp.remainder(angle - nearest, params["period"]) >= params["gap"]
        hit = (distance <= 0) & outside
        turn = xp.remainder(turn + sense * params["rotation_speed"], 2 * math.pi)
        passed = distance + params["thickness"] <= 0
        coming = _next_opening(params, third, fresh)
        moved = [
            xp.where(passed, after, before)
            for before, after in ((nearest, second), (second, third), (third, coming))
        ]
        distance = xp.where(passed, distance + params["spacing"], distance)
        sense = xp.where(passed & (flip < params["reversal"]), -sense, sense)
        following = from_columns([angle, distance, turn, sense, *moved, *blur])
        return following, astype(~hit, "float64"), hit

    def observe(self, params: Mapping[str, Array], state: Array) -> Array:
        """Return what is seen, in float32: 3 numbers, then 3 for each wall from the nearest on.

        First the cosine and sine of the player's angle and the width of an opening as a share of a
        turn; then a wall's distance and the cosine and sine of the middle of its opening nearest to
        the player, blurred by up to `noise`. Beyond `sight` they are `sight`, 0 and 0.
        """
        xp = namespace(state)
        angle, turn = columns(state)[0], columns(state)[2]
        player = turn + angle * params["radians"]
        distance, middles = self._seen_walls(params, state)
        walls = turn + middles * params["radians"]
        visible = distance <= params["sight"]
        parts = [xp.cos(player), xp.sin(player), params["gap"] / params["sides"]]
        for ring in range(RINGS):
            parts.append(xp.where(visible[ring], distance[ring], params["sight"]))
            parts += [
                xp.where(visible[ring], wave(walls[ring]), xp.zeros_like(angle))
                for wave in (xp.cos, xp.sin)
            ]
        return astype(from_columns(parts), "float32")

    def _seen_walls(self, params: Mapping[str, Array], state: Array) -> tuple[Array, Array]:
        """Return distances and blurred middles of the openings nearest to the player (RINGS, slots)."""
        xp = namespace(state)
        values = columns(state)
        angle, distance = values[0], values[1]
        begins, blur = values[4 : 4 + RINGS], values[4 + RINGS :]
        distances = [distance + ring * params["spacing"] for ring in range(RINGS)]
        half = params["period"] / 2
        offset = xp.remainder(begins + params["gap"] / 2 - angle + half, params["period"]) - half
        return xp.stack(distances), angle + offset + params["noise"] * (2 * blur - 1)

    def render(self, task: Task, state: NDArray[Any]) -> NDArray[np.uint8]:
        """Draw what is seen of one slot's state, 128 pixels wide: blurred, turned, as far as `sight`."""
        params = self.derive({name: np.array([value]) for name, value in task.params.items()})
        distances, middles = self._seen_walls(params, np.asarray(state)[None])
        scene = Scene(
            sides=float(params["sides"][0]),
            period=float(params["period"][0]),
            gap=float(params["gap"][0]),
            thickness=float(params["thickness"][0]),
            sight=float(params["sight"][0]),
            player=float(state[0]),
            turn=float(state[2]),
            walls=tuple(zip(distances[:, 0].tolist(), middles[:, 0].tolist(), strict=True)),
        )
        return picture(scene, furthest=FURTHEST_SIGHT)


def _next_opening(params: Mapping[str, Array], begins: Array, uniform: Array) -> Array:
    """Return where an opening begins after one at `begins`: 1 to ceil(jump) sides further or back."""
    xp = namespace(uniform)
    sides = 1 + xp.floor(xp.remainder(2 * uniform, 1) * params["jump"])
    return xp.remainder(begins + xp.where(uniform < 0.5, -sides, sides), params["sides"])


def _level(**params: float) -> Task:
    return Task(family=Hexagon.name, params={**Hexagon.defaults, **params})


def _levels() -> dict[str, Task]:
    turning = {"rotation_speed": 0.02}
    swaying = {"rotation_speed": 0.04, "reversal": 0.25}
    blurred = {"rotation_speed": 0.05, "reversal": 0.25, "noise": 0.4}
    hazy = {"rotation_speed": 0.06, "reversal": 0.5, "noise": 0.42, "sight": 0.9}
    rushing = {"rotation_speed": 0.08, "reversal": 0.5, "noise": 0.45, "sight": 0.8}
    storm = {"rotation_speed": 0.1, "reversal": 0.5, "noise": 0.5, "sight": 0.75}
    return {
        "three gates": _level(wall_speed=0.02, spacing=1.0, openings=3, jump=1),
        "two gates": _level(wall_speed=0.02, spacing=0.95, openings=2, jump=2),
        "wide gate": _level(wall_speed=0.025, spacing=0.9, gap=1.6, jump=2),
        "one gate": _level(wall_speed=0.0275, spacing=0.9),
        "turning": _level(wall_speed=0.03, spacing=0.9, **turning),
        "swaying": _level(wall_speed=0.033, spacing=0.9, **swaying),
        "blurred": _level(wall_speed=0.036, spacing=0.9, gap=0.95, **blurred),
        "hazy": _level(wall_speed=0.039, spacing=0.85, gap=0.9, **hazy),
        "rushing": _level(wall_speed=0.042, spacing=0.8, gap=0.85, **rushing),
        "storm": _level(wall_speed=0.045, spacing=0.8, gap=0.8, **storm),
    }


LEVELS: Mapping[str, Task] = MappingProxyType(_levels())
"""Ten tasks of the default preset by name, from easy to hard: four of pattern, then six in which what
is seen gets harder too. All can be survived; see `mtrl.envs.hexagon_players`."""

hexagon = FamilySpec(
    name="hexagon",
    factory=Hexagon,
    presets={
        "default": {},
        "pattern": {"ranges": _PATTERN},
        "representation": {"ranges": {"wall_speed": 0.03, "spacing": 0.9, **_REPRESENTATION}},
        "extrapolation": {
            "split_rule": "extrapolation",
            "held_out": {"wall_speed": ((0.038, 0.045),)},
        },
        "levels": {"split_rule": "shared"},
    },
    summary="slip through openings in walls that close in, in a world that turns",
)
