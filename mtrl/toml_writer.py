"""Plain values to TOML; the standard library only reads it."""

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["dumps"]

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dumps(table: Mapping[str, Any]) -> str:
    """Return `table` as TOML: text, numbers, booleans, lists of these, and nested tables.

    Floats are written by `repr`, so that they come back bit for bit.
    """
    return "\n".join(_table(table, ())).lstrip("\n") + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    # A table's own values come before its sub-tables, whose headers would swallow them.
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    header = ["", f"[{'.'.join(map(_key, path))}]"] if path else []
    lines = header + [f"{_key(key)} = {_value(value)}" for key, value in values.items()]
    for key, nested in tables.items():
        lines += _table(nested, (*path, key))
    return lines


def _key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"TOML cannot hold {value!r}")


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
