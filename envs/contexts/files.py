"""A `ContextFamily` from a TOML file, so that nobody has to write Python for one.

    name = "my-cartpole"             # the ids of its tasks depend on it
    env = "CartPole-v1"

    [ranges]
    length = [0.25, 1.0]

`docs/families-own.md` shows every key.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mtrl.config import from_toml
from mtrl.envs.contexts.family import ContextFamily
from mtrl.envs.contexts.model_fields import ModelField
from mtrl.envs.contexts.recipe import Target
from mtrl.envs.distributions import Choice, Distribution, Normal, RangeSpec
from mtrl.envs.family import FamilySpec
from mtrl.envs.parameters import SplitRule
from mtrl.errors import UsageError

__all__ = ["read_family"]

_DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """A distribution other than bounds: some values, or a normal one."""

    values: tuple[float, ...] | None = None
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        normal = self.mean is not None and self.std is not None
        if normal == (self.values is not None) or (self.mean is None) != (self.std is None):
            raise UsageError("give either values = [...], or mean and std")
        if self.std is not None and not self.std > 0:
            raise UsageError(f"std must be above 0, got {self.std}")
        _ = self.distribution  # refuses no values

    @property
    def distribution(self) -> Distribution:
        """The distribution."""
        if self.values is not None:
            return Choice(self.values)
        assert self.mean is not None and self.std is not None
        return Normal(self.mean, self.std)


_Range = float | tuple[float, float] | tuple[tuple[float, float], ...] | _Drawn
_HeldOut = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class _Preset:
    """What a preset may change; `ranges` are laid over those of the file."""

    ranges: dict[str, _Range] = field(default_factory=dict)
    split_rule: SplitRule | None = None
    held_out: dict[str, _HeldOut] | None = None
    horizon: int | None = None

    def over(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """Return the family's arguments with this preset's laid over them."""
        given = {
            name: value
            for name in ("split_rule", "held_out", "horizon")
            if (value := getattr(self, name)) is not None
        }
        return {**base, **given, "ranges": {**base["ranges"], **_specs(self.ranges)}}


@dataclass(frozen=True, kw_only=True)
class _File:
    """The keys of a file: those of `ContextFamily`, a summary and presets."""

    name: str
    env: str
    summary: str = ""
    ranges: dict[str, _Range] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    derived: dict[str, str] = field(default_factory=dict)
    keywords: dict[str, bool | int | float | str] = field(default_factory=dict)
    split_rule: SplitRule = "random"
    held_out: dict[str, _HeldOut] = field(default_factory=dict)
    horizon: int = 0
    flatten: bool = False
    units: dict[str, str] = field(default_factory=dict)
    presets: dict[str, _Preset] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError("name is empty; the ids of the tasks depend on it")
        if _DEFAULT in self.presets:
            raise UsageError(f"the preset {_DEFAULT!r} is the file without its presets; rename it")

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of `ContextFamily`, before any preset."""
        own = {one.name for one in fields(ContextFamily)}
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name in own}
        return {**given, "ranges": _specs(self.ranges)}


def _specs(ranges: Mapping[str, _Range]) -> dict[str, RangeSpec | Distribution]:
    return {
        name: how.distribution if isinstance(how, _Drawn) else how for name, how in ranges.items()
    }


def read_family(path: Path | str) -> FamilySpec:
    """Return what the file at `path` declares: presets `default` and its own.

    Raises:
        UsageError: the file cannot be read, has an unknown key or a value of another type; the
            message names file and key. The factory's errors begin with the path too.
    """
    file = from_toml(_File, path)
    base = file.arguments
    presets = {name: preset.over(base) for name, preset in file.presets.items()}

    @functools.wraps(ContextFamily, updated=())  # the registry asks for the signature
    def factory(**arguments: Any) -> ContextFamily:
        try:
            return ContextFamily(**arguments)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    return FamilySpec(
        name=file.name,
        factory=factory,
        presets={_DEFAULT: base, **presets},
        summary=file.summary or f"{file.env}, as {path} varies it",
        extra="mujoco"
        if any(isinstance(one, ModelField) for one in base["targets"].values())
        else None,
    )
