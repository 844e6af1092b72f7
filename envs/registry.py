"""Task families by name: ours, and those that installed packages declare.

A package adds a family with an entry point in the group `mtrl.task_families` that names a
`FamilySpec`:

    [project.entry-points."mtrl.task_families"]
    my_family = "my_package.families:my_family"

Nothing is imported before a family is asked for, so that a broken package harms its own families
only.
"""

import difflib
import importlib
import inspect
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mtrl.envs.family import FamilySpec, FewShotFamily, TaskFamily
from mtrl.errors import MtrlError, UsageError
from mtrl.family_files import is_family_file

__all__ = ["GROUP", "family_names", "family_spec", "get_family"]

GROUP = "mtrl.task_families"
OWN = "mtrl-suite"

# Known without metadata, for a checkout that is not installed.
_BUILT_IN = {
    "acrobot": "mtrl.envs.acrobot:acrobot",
    "ant-direction": "mtrl.envs.robots.ant:ant_direction",
    "ant-goal": "mtrl.envs.robots.ant:ant_goal",
    "ant-velocity": "mtrl.envs.robots.ant:ant_velocity",
    "bandit": "mtrl.envs.bandit:bandit",
    "cartpole": "mtrl.envs.cartpole:cartpole",
    "halfcheetah-direction": "mtrl.envs.robots.half_cheetah:halfcheetah_direction",
    "halfcheetah-velocity": "mtrl.envs.robots.half_cheetah:halfcheetah_velocity",
    "hexagon": "mtrl.envs.hexagon:hexagon",
    "hopper-parameters": "mtrl.envs.robots.planar_walkers:hopper_parameters",
    "humanoid-direction": "mtrl.envs.robots.humanoid:humanoid_direction",
    "mountaincar": "mtrl.envs.mountaincar:mountaincar",
    "mountaincar-continuous": "mtrl.envs.mountaincar:mountaincar_continuous",
    "navigation2d": "mtrl.envs.navigation2d:navigation2d",
    "pendulum": "mtrl.envs.pendulum:pendulum",
    "sinusoid": "mtrl.envs.sinusoid:sinusoid",
    "tabular-mdp": "mtrl.envs.tabular_mdp:tabular_mdp",
    "walker2d-parameters": "mtrl.envs.robots.planar_walkers:walker2d_parameters",
}


def _declared() -> dict[str, dict[str, EntryPoint]]:
    """Return entry points by name, then by target: one may be found twice on the path."""
    declared = {name: {value: EntryPoint(name, value, GROUP)} for name, value in _BUILT_IN.items()}
    for point in entry_points(group=GROUP):
        if point.name in _BUILT_IN and _distribution(point) == OWN:
            continue  # the metadata of a checkout may be older than its code
        declared.setdefault(point.name, {}).setdefault(point.value, point)
    return declared


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else OWN


def _unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}there are {', '.join(names) or 'none'}")


def _origin(point: EntryPoint) -> str:
    return f"{_distribution(point)} ({point.value})"


def _load(point: EntryPoint) -> FamilySpec:
    try:
        spec = getattr(importlib.import_module(point.module), point.attr)
    except Exception as error:  # whatever a third party's module raises, name its package
        raise MtrlError(
            f"task family {point.name!r} of {_origin(point)} cannot be loaded: {error!r}; "
            "repair or uninstall that package"
        ) from error
    if not isinstance(spec, FamilySpec):
        raise MtrlError(
            f"task family {point.name!r} of {_origin(point)} is a {type(spec).__name__}; "
            "its entry point must name an mtrl.envs.family.FamilySpec"
        )
    return spec


def family_names() -> list[str]:
    """Return the names of all families, sorted; none is imported."""
    return sorted(_declared())


def family_spec(name: str) -> FamilySpec:
    """Return what the family `name` declares; a name that ends in `.toml` is that of a file.

    Raises:
        UsageError: no family has that name, several packages claim it, or the file is wrong.
        MtrlError: the package that declares it is broken.
    """
    if is_family_file(name):
        # Gymnasium's environments, which few runs need.
        from mtrl.envs.contexts.files import read_family

        return read_family(name)
    declared = _declared()
    if name not in declared:
        raise _unknown("task family", name, declared)
    points = list(declared[name].values())
    if len(points) > 1:
        raise UsageError(
            f"task family {name!r} is declared by {' and by '.join(map(_origin, points))}; "
            "uninstall one of them"
        )
    return _load(points[0])


def get_family(
    name: str, preset: str | None = None, **overrides: Any
) -> TaskFamily | FewShotFamily:
    """Return the family `name` as its `preset` (default: the first) sets it up.

    `overrides` replace single arguments of the preset.

    Raises:
        UsageError: an unknown family, preset or argument; the message lists the known ones.
        MtrlError: the package that declares the family is broken.
    """
    spec = family_spec(name)
    preset = next(iter(spec.presets)) if preset is None else preset
    if preset not in spec.presets:
        raise _unknown(f"preset of {name!r}", preset, spec.presets)
    arguments = inspect.signature(spec.factory).parameters
    open_ended = any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values())
    for argument in overrides:
        if argument not in arguments and not open_ended:
            raise _unknown(f"argument of {name!r}", argument, arguments)
    return spec.factory(**{**spec.presets[preset], **overrides})
