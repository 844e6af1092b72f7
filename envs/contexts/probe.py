"""What can be known of a `ContextFamily` only by making its environments."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from mtrl.envs.contexts.recipe import Instance, Recipe
from mtrl.envs.contexts.targets import Keyword
from mtrl.envs.distributions import Choice, Distribution, Intervals, Range
from mtrl.errors import UsageError

__all__ = ["Probed", "probe"]

Space = gym.Space[Any]
_MOST_VARIANTS = 256
"""Combinations of keywords whose environments are made to compare their spaces."""


@dataclass(frozen=True)
class Probed:
    """What making the environments has told.

    Attributes:
        spaces: the different pairs of observation and action space that tasks have.
        horizon: steps after which an episode is truncated.
        metadata: that of the environment.
    """

    spaces: list[tuple[Space, Space]]
    horizon: int
    metadata: dict[str, Any]


def probe(recipe: Recipe, drawn: Mapping[str, Distribution], typical: Mapping[str, Any]) -> Probed:
    """Make the environment with every combination of its keywords, and set a task in each.

    Args:
        recipe: how it is made.
        drawn: how each parameter is drawn; of a range, its ends are tried.
        typical: a task's parameters, for those that are no keywords.

    Raises:
        UsageError: something that the recipe names is missing, there is no time limit, or spaces
            differ along a range, within which any might occur.
        MtrlError: the environment cannot be made.
    """
    spaces: list[tuple[Space, Space]] = []
    keywords = {n: drawn[n] for n, t in recipe.targets.items() if isinstance(t, Keyword)}
    for params in _variants(keywords, typical):
        instance = Instance(recipe, recipe.keywords_of(params))
        instance.set(params)
        env = instance.env
        if (found := (env.observation_space, env.action_space)) not in spaces:
            spaces.append(found)
        horizon = recipe.horizon or (env.spec and env.spec.max_episode_steps) or 0
        metadata = dict(env.metadata)
        env.close()
    if horizon < 1:
        raise UsageError(f"{recipe.env} has no time limit of its own; set horizon")
    lists = [
        how for how in keywords.values() if isinstance(how, Choice) or how.constant is not None
    ]
    if len(spaces) > 1 and len(lists) < len(keywords):
        ranged = [name for name, how in keywords.items() if how not in lists]
        raise UsageError(
            f"tasks have different spaces, such as {spaces[0]} and {spaces[1]}; "
            f"give {', '.join(ranged)} as a finite list of values"
        )
    return Probed(spaces, horizon, metadata)


def _variants(
    keywords: Mapping[str, Distribution], typical: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield a task's parameters with every combination of keywords."""
    values = [_extremes(how, typical[name]) for name, how in keywords.items()]
    if math.prod(map(len, values)) > _MOST_VARIANTS:
        raise UsageError(
            f"the keywords {', '.join(keywords)} have more than {_MOST_VARIANTS} combinations; "
            "vary fewer"
        )
    for row in itertools.product(*values):
        yield {**typical, **dict(zip(keywords, row, strict=True))}


def _extremes(how: Distribution, typical: Any) -> list[Any]:
    """Return all values of a finite list, else the ends of a range, else a typical value."""
    if isinstance(how, Choice):
        return sorted(set(map(float, how.values)))
    if isinstance(how, Range | Intervals) and how.size is None:
        return sorted(set(how.support))
    return [typical]
