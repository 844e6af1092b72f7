"""Two scripted players of `hexagon`: one goes by what it sees, the other knows the walls.

Both take NumPy arrays and tensors, the slots first. `planned_actions` is an expert to imitate and
shows that a task can be survived; `greedy_actions` is what a player without foresight reaches.
"""

import math
from collections.abc import Mapping

from mtrl.envs.arrays import Array, astype, columns, namespace

__all__ = ["greedy_actions", "planned_actions"]


def greedy_actions(params: Mapping[str, Array], observations: Array) -> Array:
    """Go to the middle of the nearest wall's opening, as far as it is seen; else stay.

    Args:
        params: the tasks' parameters by name, each (slots,), as `Hexagon.tensors` makes them.
        observations: (slots, 12).

    Returns:
        int64 (slots,).
    """
    xp = namespace(observations)
    seen = columns(astype(observations, "float64"))
    player, opening = xp.arctan2(seen[1], seen[0]), xp.arctan2(seen[5], seen[4])
    away = xp.remainder(opening - player + math.pi, 2 * math.pi) - math.pi
    target = away * params["sides"] / (2 * math.pi)
    visible = seen[4] ** 2 + seen[5] ** 2 > 0
    return _towards(xp.where(visible, target, xp.zeros_like(target)), params["player_speed"])


def planned_actions(params: Mapping[str, Array], states: Array) -> Array:
    """Stand in the nearest wall's opening, at the end that is nearest to the opening of the next.

    Args:
        params: as of `greedy_actions`.
        states: (slots, state), as `Hexagon.step` returns them: nothing is hidden.

    Returns:
        int64 (slots,).
    """
    xp = namespace(states)
    values = columns(states)
    half, period = params["gap"] / 2, params["sides"] / params["openings"]
    nearest = _wrap(xp, values[4] + half - values[0], period)
    following = _wrap(xp, values[5] - values[4], period)
    # It stops up to half a step from where it wants to be.
    room = xp.clip(half - params["player_speed"] / 2, 0, None)
    ahead = xp.minimum(xp.maximum(following, -room), room)
    return _towards(nearest + ahead, params["player_speed"])


def _wrap(xp: Array, offset: Array, period: Array) -> Array:
    """Return the shortest of the offsets that differ by whole periods."""
    return xp.remainder(offset + period / 2, period) - period / 2


def _towards(target: Array, speed: Array) -> Array:
    """Return the action that goes `target` sides, or stays if that is less than half a step."""
    left, right = target > speed / 2, target < -speed / 2
    return 1 - astype(left, "int64") + astype(right, "int64")
