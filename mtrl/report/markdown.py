"""A report as Markdown, in the dialect of GitHub, with its pictures in a folder beside it."""

import re
from itertools import count

from mtrl.report.page import (
    Block,
    Code,
    Gallery,
    Marked,
    Page,
    Picture,
    Problems,
    Table,
    Text,
    clean,
)

__all__ = ["render_markdown"]

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&$])")
# Marks of a list, a heading or a rule; what they begin is a line.
_LEADING = re.compile(r"^(\d*)([-+=#]+|[.)])(?=\s|$)")
_XML = b'<?xml version="1.0" encoding="utf-8"?>\n'


def render_markdown(page: Page, folder: str) -> tuple[str, dict[str, bytes]]:
    """Return the text, and its pictures by the path under which it names them, below `folder`."""
    return _Renderer(folder).page(page)


class _Renderer:
    """Renders one page; numbers and keeps its pictures."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._numbers = count(1)
        self._pictures: dict[str, bytes] = {}

    def page(self, page: Page) -> tuple[str, dict[str, bytes]]:
        parts = [f"# {_escape(page.title)}"]
        for section in page.sections:
            parts.append(f"## {_escape(section.title)}")
            parts += [self._block(block) for block in section.blocks]
        return "\n\n".join(parts) + "\n", self._pictures

    def _block(self, block: Block) -> str:
        match block:
            case Text(text=text):
                return _escape(text)
            case Problems(items=items):
                return "\n".join(f"- {_escape(item)}" for item in items)
            case Code(text=text):
                return _fenced(text)
            case Table():
                return _table(block)
            case Gallery(pictures=pictures):
                return "\n\n".join(self._picture(picture) for picture in pictures)

    def _picture(self, picture: Picture) -> str:
        path = f"{self._folder}/{next(self._numbers):03d}-{picture.name[:60]}.{picture.format}"
        self._pictures[path] = (_XML if picture.format == "svg" else b"") + picture.content
        caption = f"\n\n{_escape(picture.caption)}" if picture.caption else ""
        return f"![{_escape(picture.alt)}]({path}){caption}"


def _table(table: Table) -> str:
    rows = ["| " + " | ".join(map(_cell, row)) + " |" for row in (table.header, *table.rows)]
    rows.insert(1, "|" + "---|" * len(table.header))
    return f"{_escape(table.caption)}:\n\n" + "\n".join(rows)


def _cell(cell: str) -> str:
    escaped = _escape(cell)
    return f"**{escaped}**" if isinstance(cell, Marked) and escaped.strip() else escaped


def _fenced(text: str) -> str:
    """Return text between fences longer than any in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{clean(text)}\n{fence}"


def _escape(text: str) -> str:
    """Return one line that shows `text` as it is."""
    line = " ".join(clean(text).split())
    return _LEADING.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", line))
