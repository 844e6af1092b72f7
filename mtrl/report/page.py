"""A report as data: sections of texts, tables, pictures and commands, which a renderer writes out.

Strings are plain text; escaping is the renderer's work. What a file or a name may hold and XML may
not, such as control characters, is replaced here, so that every renderer is safe from it.
"""

import re
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Block",
    "Code",
    "Gallery",
    "Marked",
    "Page",
    "Picture",
    "Problems",
    "Section",
    "Table",
    "Text",
    "clean",
    "slug",
]

# What XML 1.0 has no way to write, and the two that are never characters.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Marked(str):
    """A cell of a table that stands out, such as a setting in which runs differ."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Problems:
    """What is wrong or missing, one sentence each."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Commands, one a line, to be copied."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: what the table says; never empty.
        header: a name for each column.
        rows: a cell for each column; `Marked` ones stand out.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"row {row} does not have a cell for each of {self.header}")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with what it shows in words.

    Attributes:
        name: of its file, without the ending.
        content: the file.
        format: its ending.
        alt: what it shows, for those who do not see it; never empty.
        caption: may be empty.
        themed: its ink and paper may take the colours of the page; for an SVG only.
    """

    name: str
    content: bytes
    format: Literal["svg", "png", "gif", "jpg"]
    alt: str
    caption: str = ""
    themed: bool = False


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures beside each other where there is room."""

    pictures: tuple[Picture, ...]


Block = Text | Problems | Code | Table | Gallery


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a title of its own."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole report."""

    title: str
    sections: tuple[Section, ...]


def clean(text: str) -> str:
    """Return `text` with what cannot be written in XML replaced by U+FFFD."""
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def slug(text: str) -> str:
    """Return letters, digits and hyphens that may name a file or a place on the page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
