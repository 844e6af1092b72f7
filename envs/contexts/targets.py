"""What a task parameter of a `ContextFamily` can be: an attribute or a constructor keyword.

Attributes are looked up in the unwrapped environment; `unwrapped.` before one is allowed and means
nothing. MuJoCo model fields are in `mtrl.envs.contexts.model_fields`.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrl.errors import UsageError

__all__ = [
    "Attribute",
    "Keyword",
    "close_matches",
    "get_path",
    "number_at",
    "set_attribute",
]

_UNWRAPPED = "unwrapped."


@dataclass(frozen=True)
class Attribute:
    """The attribute at a dotted `path`, such as `"length"` or `"physics.gravity"`."""

    path: str

    @property
    def names(self) -> list[str]:
        """The attribute names on the way."""
        return self.path.removeprefix(_UNWRAPPED).split(".")


@dataclass(frozen=True)
class Keyword:
    """A keyword of the constructor.

    With `options`, a task's number says which of them: 0 is the first.
    """

    keyword: str
    options: tuple[bool | int | float | str, ...] | None = None


def close_matches(name: str, known: Iterable[str]) -> str:
    """Return a hint for somebody who wrote `name`."""
    names = sorted(one for one in known if not one.startswith("_"))
    close = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {names}"


def get_path(root: Any, names: Iterable[str], what: str = "attribute") -> Any:
    """Return the attribute of an attribute ... of `root`.

    Raises:
        UsageError: there is none.
    """
    value = root
    for name in names:
        # Not an instance's attributes alone: what a class has, its instances have.
        if not hasattr(value, name):
            raise UsageError(
                f"{what} {name!r} is missing in {type(value).__name__}; "
                f"{close_matches(name, dir(value))}"
            )
        value = getattr(value, name)
    return value


def number_at(env: Any, path: str) -> float:
    """Return the number at a dotted `path` of the unwrapped environment.

    Raises:
        UsageError: there is none, or it is not one number.
    """
    value = get_path(env, Attribute(path).names)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"attribute {path!r} is {value!r}, not a number") from None


def set_attribute(env: Any, attribute: Attribute, value: float | tuple[float, ...]) -> None:
    """Set an attribute of the unwrapped environment to a number of the kind that it has now.

    A whole number stays an int, a bool a bool, and an array keeps its shape and dtype.

    Raises:
        UsageError: there is no such attribute, it cannot be set, or it is of another shape.
    """
    *way, name = attribute.names
    owner = get_path(env, way)
    present = get_path(owner, [name])
    try:
        setattr(owner, name, _like(present, value))
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"attribute {attribute.path!r} cannot be set to {value}: {error}"
        ) from None


def _like(present: Any, value: float | tuple[float, ...]) -> Any:
    if isinstance(present, np.ndarray):
        if np.shape(value) not in ((), present.shape):
            raise ValueError(f"its shape is {present.shape}")
        return np.full_like(present, value)
    if isinstance(value, tuple):
        return type(present)(value) if isinstance(present, list | tuple) else value
    if isinstance(present, bool | np.bool_):
        return bool(value)
    if isinstance(present, int | np.integer) and value == int(value):
        return int(value)
    if present is not None and not isinstance(present, int | float | np.number):
        raise TypeError(f"it is a {type(present).__name__}, not a number")
    return value
