"""Configurations are frozen dataclasses; here they become TOML and come back, all types checked.

A field whose type is a union of dataclasses is a table with a `kind` key, the class's name in kebab
case (`MetaSGD` -> "meta-sgd"), which is also its name on the command line; a field whose metadata says
`default_kind=...` is of that kind without the key. None, which TOML lacks, is left out where it is the
field's default and written "none" elsewhere.
"""

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from mtrl.errors import UsageError
from mtrl.toml_writer import dumps

__all__ = [
    "check_at_least",
    "check_fraction",
    "check_positive",
    "differing_fields",
    "from_dict",
    "from_toml",
    "kind_name",
    "to_dict",
    "to_toml",
]

C = TypeVar("C")
KIND = "kind"
NONE = "none"
DEFAULT_KIND = "default_kind"
WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<!^)(?=[A-Z][a-z])")


# Reading


def from_toml(cls: type[C], path: Path | str) -> C:
    """Read a `cls` from a TOML file.

    Raises:
        UsageError: the file is missing or not TOML, or `from_dict` refuses; the message starts with
        the path.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    try:
        return from_dict(cls, table)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def from_dict(cls: type[C], table: Mapping[str, Any]) -> C:
    """Build a `cls` from plain values, nested tables included.

    Raises:
        UsageError: an unknown or missing key, a value of another type, or a contradiction found by
            `__post_init__`; the message names the field, the value and the fix.
    """
    return typing.cast(C, _build(cls, table, ""))


def _build(cls: Any, table: Mapping[str, Any], where: str) -> Any:
    hints = _field_types(cls)
    for key in table:
        if key not in hints:
            raise UsageError(f"unknown key {where}{key}; {_suggest(str(key), list(hints))}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for field in fields.values():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in table:
            raise UsageError(f"missing key {where}{field.name}; it has no default")
    values = {
        key: _convert(hints[key], _with_kind(fields[key], value), f"{where}{key}")
        for key, value in table.items()
    }
    try:
        return cls(**values)
    except ValueError as error:
        table_name = f"in [{where[:-1]}]: " if where else ""
        raise UsageError(f"{table_name}{error}") from error


def _with_kind(field: dataclasses.Field[Any], value: Any) -> Any:
    if DEFAULT_KIND in field.metadata and isinstance(value, Mapping):
        return {KIND: field.metadata[DEFAULT_KIND], **value}
    return value


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where)
    if origin is Literal:
        return _one_of(typing.get_args(hint), value, where)
    if origin in (tuple, list):
        return _convert_sequence(hint, value, where)
    if origin is dict or origin is Mapping:
        table = _require(isinstance(value, Mapping), "a table", value, where)
        item = typing.get_args(hint)[1]
        return {key: _convert(item, entry, f"{where}.{key}") for key, entry in table.items()}
    if dataclasses.is_dataclass(hint):
        table = _require(isinstance(value, Mapping), "a table", value, where)
        return _build(hint, table, f"{where}.")
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(_one_of([member.value for member in hint], value, where))
    return _convert_scalar(hint, value, where)


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    # bool is an int to Python, and 1 is a float to a person.
    number = isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return float(_require(number or isinstance(value, float), "a number", value, where))
    if hint is int:
        return _require(number, "a whole number", value, where)
    if hint is bool:
        return _require(isinstance(value, bool), "true or false", value, where)
    if hint is Path:
        return Path(_require(isinstance(value, str | Path), "a path", value, where))
    if hint is str:
        return _require(isinstance(value, str), "text", value, where)
    raise TypeError(f"field {where} has type {hint}, which a configuration cannot hold")


def _convert_sequence(hint: Any, value: Any, where: str) -> Any:
    items = _require(isinstance(value, list | tuple), "a list", value, where)
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and arguments[-1] is not Ellipsis:
        _require(len(items) == len(arguments), f"{len(arguments)} values", value, where)
        item_hints: Sequence[Any] = arguments
    else:
        item_hints = [arguments[0]] * len(items)
    made = [
        _convert(item_hint, item, f"{where}[{index}]")
        for index, (item_hint, item) in enumerate(zip(item_hints, items, strict=True))
    ]
    return made if typing.get_origin(hint) is list else tuple(made)


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    options = [option for option in typing.get_args(hint) if option is not types.NoneType]
    if types.NoneType in typing.get_args(hint) and (value is None or value == NONE):
        return None
    tables = {kind_name(option): option for option in options if dataclasses.is_dataclass(option)}
    if tables and isinstance(value, Mapping):
        if len(tables) == 1 and KIND not in value:
            return _convert(next(iter(tables.values())), value, where)
        kind = _one_of(list(tables), value.get(KIND), f"{where}.{KIND}")
        fields = {key: item for key, item in value.items() if key != KIND}
        return _convert(tables[kind], fields, where)
    problems = []
    for option in options:
        try:
            return _convert(option, value, where)
        except UsageError as error:
            problems.append(str(error))
    raise UsageError("; or ".join(dict.fromkeys(problems)))


def _require(holds: bool, expected: str, value: Any, where: str) -> Any:
    if not holds:
        raise UsageError(f"{where} must be {expected}, got {value!r}")
    return value


def _one_of(choices: Sequence[Any], value: Any, where: str) -> Any:
    for choice in choices:
        # True == 1, yet they are different choices.
        if choice == value and type(choice) is type(value):
            return choice
    names = ", ".join(map(str, choices))
    raise UsageError(f"{where} must be one of {names}; got {value!r}")


def _suggest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"


# Writing


def to_toml(config: Any) -> str:
    """Return the TOML that `from_toml` reads back as an equal `config`."""
    return dumps(to_dict(config))


def to_dict(config: Any) -> dict[str, Any]:
    """Return `config` as plain values, which `from_dict` reads back as an equal `config`."""
    hints = _field_types(config.__class__)
    table = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None and field.default is None:
            continue
        table[field.name] = _without_kind(field, _plain(hints[field.name], value))
    return table


def _without_kind(field: dataclasses.Field[Any], plain: Any) -> Any:
    # So that a field may become a union while what was written before stays as it is.
    if isinstance(plain, dict) and plain.get(KIND) == field.metadata.get(DEFAULT_KIND, NONE):
        return {key: value for key, value in plain.items() if key != KIND}
    return plain


def _plain(hint: Any, value: Any) -> Any:
    if value is None:
        return NONE
    if dataclasses.is_dataclass(value):
        options = [option for option in typing.get_args(hint) if dataclasses.is_dataclass(option)]
        return ({KIND: kind_name(type(value))} if len(options) > 1 else {}) | to_dict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        item_hint = typing.get_args(hint)[1]
        return {key: _plain(item_hint, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(None, item) for item in value]
    return value


def kind_name(cls: Any) -> str:
    """Return the `kind` that names `cls` in a union: its name in kebab case, as tyro spells it."""
    return WORD_STARTS.sub("-", cls.__name__).lower()


# Comparing and checking


def differing_fields(cls: type, stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of fields whose plain values differ, but for fields that may change.

    A top-level field may change between a run and its resumption if its metadata says
    `resumable=True`.
    """
    free = {field.name for field in dataclasses.fields(cls) if field.metadata.get("resumable")}
    old, new = _flat(stored), _flat(current)
    # repr, so that NaN equals itself and 1 differs from 1.0 and True.
    return [
        name
        for name in sorted(old.keys() | new.keys())
        if name.partition(".")[0] not in free and repr(old.get(name)) != repr(new.get(name))
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        )
    return flat


def check_at_least(config: object, minimum: float, *names: str) -> None:
    """Raise UsageError unless each named field is None or at least `minimum`."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= minimum:
            raise UsageError(f"{name} must be at least {minimum}, got {value}")


def check_file_name(name: str, folder: str = "output") -> None:
    """Raise UsageError unless `name` is that of a file alone; `folder` is the option for its folder."""
    if Path(name).name != name:
        raise UsageError(f"name is {name!r}; it is that of a file, give the folder as {folder}")


def check_positive(config: object, *names: str) -> None:
    """Raise UsageError unless each named field is None or above zero (a count: at least 1)."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            bound = "at least 1" if isinstance(value, int) else "above 0"
            raise UsageError(f"{name} must be {bound}, got {value}")


def check_fraction(config: object, *names: str) -> None:
    """Raise UsageError unless each named field is None or from 0 to 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"{name} must be from 0 to 1, got {value}")


@cache
def _field_types(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}
