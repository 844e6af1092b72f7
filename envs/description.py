"""Task families in words: what `mtrl families` prints of their tasks, spaces, splits and faces."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from mtrl.envs.distributions import Choice, Distribution, FlatDirichlet, Intervals, Normal, Range
from mtrl.envs.dynamics import Dynamics
from mtrl.envs.episodes import SupportsBatch
from mtrl.envs.family import FamilySpec, FewShotFamily, TaskFamily
from mtrl.envs.parameters import ParameterSpace
from mtrl.errors import MissingExtraError

__all__ = ["bare_facts", "faces", "facts", "requirements", "space_text", "splits_text"]

Family = TaskFamily | FewShotFamily
_FEW = 6
"""Choices of no more values than this are listed."""


def facts(spec: FamilySpec, family: Family) -> Iterator[tuple[str, str]]:
    """Yield what there is to know of `family`, made by `spec`, as pairs of a label and a text."""
    yield "presets", ", ".join(spec.presets)
    yield from _parameters(family)
    if isinstance(family, FewShotFamily):
        yield "input", _numbers(family.input_size)
        yield "output", _numbers(family.output_size)
    else:
        yield "observation", space_text(family.observation_space)
        yield "action", space_text(family.action_space)
        yield "horizon", f"{family.horizon:,} steps"
    yield "splits", splits_text(family)
    yield "faces", "; ".join(faces(spec.name, family))
    yield "needs", requirements(spec, family)
    for note in getattr(family, "notes", ()):
        yield "note", note


def _parameters(family: Family) -> Iterator[tuple[str, str]]:
    """Yield those that vary one by one, and the constants together."""
    space = getattr(family, "parameters", None)
    units: Mapping[str, str] = getattr(family, "units", {})
    if not isinstance(space, ParameterSpace):
        (task,) = family.sample(1, np.random.default_rng(0), "train")
        for name in task.params:
            yield "parameter", name + _unit_text(units, name)
        return
    constants = []
    for name, how in sorted(space.ranges.items()):
        text = _range_text(how) + _unit_text(units, name)
        if how.constant is None:
            yield "parameter", f"{name}: {text}"
        else:
            constants.append(f"{name} {text}")
    if constants:
        yield "constant", "; ".join(constants)


def _unit_text(units: Mapping[str, str], name: str) -> str:
    return f" ({units[name]})" if name in units else ""


def _range_text(how: Distribution) -> str:
    if how.constant is not None:
        values = f"{how.constant:g}"
    elif isinstance(how, Range):
        values = f"{how.low:g} to {how.high:g}"
    elif isinstance(how, Intervals):
        values = " or ".join(_interval_text(interval) for interval in sorted(how.intervals))
    elif isinstance(how, Choice):
        values = _choice_text(how.values)
    elif isinstance(how, Normal):
        values = f"normal, mean {how.mean:g}, deviation {how.std:g}"
    elif isinstance(how, FlatDirichlet):
        values = f"flat Dirichlet in {how.rows} rows of {how.outcomes}"
    else:
        values = str(how)
    return values if how.size is None else f"{how.size} numbers, {values}"


def _interval_text(interval: tuple[float, float]) -> str:
    return f"{interval[0]:g} to {interval[1]:g}"


def _choice_text(values: Sequence[float]) -> str:
    different = sorted(set(values))
    if len(different) <= _FEW:
        return " or ".join(f"{value:g}" for value in different)
    return f"one of {len(different)} values from {different[0]:g} to {different[-1]:g}"


def _numbers(count: int) -> str:
    return "1 number" if count == 1 else f"{count} numbers"


def space_text(space: gym.Space[Any]) -> str:
    """Return a space in words; one that is neither a `Box` nor `Discrete` as Gymnasium prints it."""
    if isinstance(space, gym.spaces.Discrete):
        first, last = int(space.start), int(space.start + space.n - 1)
        return f"one of {space.n} choices, {first} to {last}"
    if not isinstance(space, gym.spaces.Box):
        return str(space)
    shape = " x ".join(map(str, space.shape)) + " numbers"
    if len(space.shape) <= 1:
        shape = _numbers(int(np.prod(space.shape)))
    low, high = space.low.ravel(), space.high.ravel()
    if np.isinf(low).all() and np.isinf(high).all():
        return shape
    if len({*zip(low.tolist(), high.tolist(), strict=True)}) == 1:
        return f"{shape}, {low[0]:.4g} to {high[0]:.4g}"
    if len(low) > _FEW:
        return f"{shape}, between {low.min():.4g} and {high.max():.4g}"
    return f"{shape}, {_row_text(low)} to {_row_text(high)}"


def _row_text(values: NDArray[Any]) -> str:
    return f"({', '.join(f'{value:.3g}' for value in values)})"


def splits_text(family: Family) -> str:
    """Return how training and test tasks differ."""
    if family.splits_overlap:
        return "training and test tasks are the same, by design"
    space = getattr(family, "parameters", None)
    if not isinstance(space, ParameterSpace):
        return "no task in both"
    if space.split_rule == "random":
        return "random: one distribution, no task in both"
    held_out = " and ".join(
        f"{name} in {' or '.join(map(_interval_text, intervals))}"
        for name, intervals in space.held_out.items()
    )
    return f"{space.split_rule}: test tasks have {held_out}, training tasks never"


def faces(name: str, family: Family) -> list[str]:
    """Return the kinds of environments or batches that the family makes."""
    if isinstance(family, FewShotFamily):
        return ["support and query points on any device"]
    ids = [
        spec.id
        for spec in gym.registry.values()
        if spec.namespace == "mtrl" and spec.kwargs.get("family") == name
    ]
    found = ["Gymnasium" + f" ({', '.join(ids)})" * bool(ids), "vector"]
    if hasattr(family, "make_sb3"):
        found.append("SB3")
    if isinstance(family, Dynamics):
        found.append("batch on any device")
    elif isinstance(family, SupportsBatch):
        found.append("batch on the CPU")
    return found


def requirements(spec: FamilySpec, family: Family | None) -> str:
    """Return which extra the family's environments need, and whether what it installs is there."""
    if spec.extra is None:
        return "nothing more"
    command = f'pip install "mtrl-suite[{spec.extra}]"'
    check = getattr(family, "check_installed", None)
    if check is None:
        return command
    try:
        check()
    except MissingExtraError:
        return f"{command}, which is not installed"
    return f"the extra {spec.extra}, which is installed"


def bare_facts(spec: FamilySpec, error: MissingExtraError) -> Iterator[tuple[str, str]]:
    """Yield what can be said of a family that cannot be made for want of a package."""
    yield "presets", ", ".join(spec.presets)
    yield "needs", re.sub(r"\s+", " ", str(error))
