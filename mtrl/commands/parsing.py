"""Options from dataclasses with tyro, whose boxed errors become one line.

Only what tyro prints is used, none of its internals; a test holds each kind of error to its line.
"""

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro

from mtrl.errors import MtrlError, UsageError

__all__ = ["parse"]

Options = TypeVar("Options")

STYLE = re.compile(r"\x1b\[[0-9;]*m")
BORDER = re.compile(r"^[│|╭╰+]\s?|\s*[│|╮╯+]$")
RULE = re.compile(r"[─-]{3,}")
FLAG = re.compile(r"--[\w.-]+")
ARGUMENT = re.compile(r"--[\w.-]+|[A-Z][A-Z_-]*$")


def parse(
    options: type[Options],
    arguments: Sequence[str],
    *,
    command: str,
    default: Options | None = None,
) -> Options:
    """Return `options`, a dataclass, as the arguments of `command` (such as "mtrl train rl") say.

    Its docstring and its fields' are the help, which `--help` prints before it exits. With
    `default`, options that are not given have its values.

    Raises:
        UsageError: an unknown option, a bad value, or a contradiction.
    """
    printed = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    # Without it, options after `learner:maml` would have to be the learner's own.
    given["config"] = (tyro.conf.CascadeSubcommandArgs,)
    try:
        with redirect_stderr(printed):
            parsed: Options = tyro.cli(options, prog=command, args=list(arguments), **given)
            return parsed
    except SystemExit as stop:
        if not stop.code:
            raise
        refusal = _ours(stop)
        if refusal is not None:
            raise refusal from None
        raise UsageError(f"{_sentence(printed.getvalue())} (see `{command} --help`)") from None


def _ours(error: BaseException) -> MtrlError | None:
    """Return the error of a configuration that made tyro stop, if that is what did."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MtrlError):
        cause = cause.__context__
    return cause


def _sentence(box: str) -> str:
    title, sections = _unbox(box)
    said = " ".join(sections[0]) if sections else title
    if title == "Unrecognized options":
        found = re.search(r"options:\s+(\S+?),?(?:\s|$)", said)
        return _unknown(found[1] if found else said, sections)
    # An option that does not exist may be the misspelt one that is missing: it comes first.
    if unknown := [part[1] for part in sections if part[0] == "Unrecognized options:"]:
        return f"unknown option {unknown[0]}"
    if title == "Required options":
        missing = [found[0] for line in sections[0] if (found := ARGUMENT.match(line))]
        return f"missing {', '.join(missing) or said}"
    said = said.removeprefix("Error parsing ").rstrip(".")
    usage = [part[1] for part in sections if part[0] == "Argument helptext:" and len(part) > 1]
    return f"{said}; write {usage[0]}" if usage else said


def _unbox(box: str) -> tuple[str, list[list[str]]]:
    """Return the title of a box and, between its rules, the lines of its sections."""
    top, *rows = [BORDER.sub("", STYLE.sub("", line)) for line in box.splitlines()] or [box]
    sections: list[list[str]] = [[]]
    for row in rows:
        if RULE.fullmatch(row.strip()):
            sections.append([])
        elif row.strip():
            sections[-1].append(row.strip())
    return RULE.sub("", top).strip(" ─-"), [section for section in sections if section]


def _unknown(name: str, sections: Sequence[Sequence[str]]) -> str:
    """Say which option was meant or, for an option of another learner, where it belongs."""
    if ":" in name:
        choices = [" ".join(part) for part in sections if part and part[0].startswith("Available")]
        return "; ".join([f"unknown choice {name}", *(text.lower() for text in choices)])
    suggested: list[str] = []
    places: list[str] = []
    for line in (line for part in sections for line in part):
        flag, place = FLAG.match(line), re.search(r"(\S+:\S+) --help$", line)
        if flag:
            suggested.append(flag[0])
        elif suggested and suggested[-1] == name and place:
            places.append(place[1])
        elif suggested and suggested[-1] == name and line == "[...]":
            places.append("others")
    if places:
        owners = list(dict.fromkeys(places))
        which = "which" if len(owners) == 1 else "one of which"
        return f"{name} is an option of {', '.join(owners)}, {which} must come before it"
    return f"unknown option {name}" + (f"; did you mean {suggested[0]}?" if suggested else "")
