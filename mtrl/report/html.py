"""A report as one HTML page that asks nothing of any other place: styles and pictures are in it.

Every text is escaped. A picture that is an SVG becomes part of the page, with names of its own for
what it refers to, and takes the page's colours, light or dark.
"""

import base64
import html
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
    Section,
    Table,
    Text,
    clean,
    slug,
)
from mtrl.report.style import STYLE

__all__ = ["render_html"]

_MIME = {"png": "image/png", "gif": "image/gif", "jpg": "image/jpeg"}
# The browser itself refuses whatever would leave the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# Those of `mtrl.figure_style`, and what they are on the page.
_THEME = {
    "#333333": "var(--ink)",
    "#8a8a8a": "var(--grey)",
    "#e3e3e3": "var(--faint)",
    "#ffffff": "var(--paper)",
}
_ELEMENT = re.compile(r"<[^>]+>")
_ROOT = re.compile(r"<svg\b[^>]*>")
_VIEW = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')
_POINTS_TO_PIXELS = 4 / 3
_SMALLEST_SCALE = 0.6
"""Below this the letters of a figure are too small: its box scrolls instead."""


def render_html(page: Page) -> str:
    """Return the page as a whole HTML document."""
    return _Renderer().page(page)


class _Renderer:
    """Renders one page; numbers what needs a name of its own."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def page(self, page: Page) -> str:
        title = _escape(page.title)
        places = [f"{slug(section.title)}-{next(self._numbers)}" for section in page.sections]
        links = "".join(
            f'<li><a href="#{place}">{_escape(section.title)}</a></li>'
            for place, section in zip(places, page.sections, strict=True)
        )
        body = "\n".join(
            self._section(place, section)
            for place, section in zip(places, page.sections, strict=True)
        )
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
            f'<header>\n<h1>{title}</h1>\n<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
            f"</header>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
        )

    def _section(self, place: str, section: Section) -> str:
        blocks = "\n".join(self._block(block) for block in section.blocks)
        title = _escape(section.title)
        return (
            f'<section aria-labelledby="{place}">\n<h2 id="{place}">{title}</h2>\n{blocks}\n'
            "</section>"
        )

    def _block(self, block: Block) -> str:
        match block:
            case Text(text=text):
                return f"<p>{_escape(text)}</p>"
            case Problems(items=items):
                rows = "".join(f"<li>{_escape(item)}</li>" for item in items)
                return f'<ul class="problems">{rows}</ul>'
            case Code(text=text):
                # Focusable, so that the keyboard can scroll it.
                return f'<pre tabindex="0"><code>{_escape(text)}</code></pre>'
            case Table():
                return self._table(block)
            case Gallery(pictures=pictures):
                shown = "\n".join(self._picture(picture) for picture in pictures)
                return f'<div class="gallery">\n{shown}\n</div>'

    def _table(self, table: Table) -> str:
        name = f"table-{next(self._numbers)}"
        head = "".join(f'<th scope="col">{_escape(cell)}</th>' for cell in table.header)
        rows = "\n".join(f"<tr>{_row(row)}</tr>" for row in table.rows)
        return (
            f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0">\n'
            f'<table>\n<caption id="{name}"><span>{_escape(table.caption)}</span></caption>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
        )

    def _picture(self, picture: Picture) -> str:
        drawing = self._svg(picture) if picture.format == "svg" else _image(picture)
        caption = f"<figcaption>{_escape(picture.caption)}</figcaption>" if picture.caption else ""
        look = "figure" if picture.themed else "figure light"
        return f'<figure class="{look}"><div class="scroll">{drawing}</div>{caption}</figure>'

    def _svg(self, picture: Picture) -> str:
        prefix = f"p{next(self._numbers)}-"
        svg = _ELEMENT.sub(
            lambda found: _own_names(found[0], prefix, picture.themed), picture.content.decode()
        )
        view = _VIEW.search(svg)
        if view is None:
            raise ValueError(f"the SVG {picture.name} does not say how large it is")
        least = float(view[1]) * _POINTS_TO_PIXELS * _SMALLEST_SCALE
        root = (
            f'<svg viewBox="0 0 {view[1]} {view[2]}" role="img" aria-label="{_escape(picture.alt)}" '
            f'style="min-width: {least:.0f}px; max-width: {float(view[1]) * 1.6:.0f}px">'
        )
        return _ROOT.sub(lambda found: root, svg, count=1)


def _row(row: tuple[str, ...]) -> str:
    first, *others = row
    cells = "".join(
        f"<td><mark>{_escape(cell)}</mark></td>"
        if isinstance(cell, Marked)
        else f"<td>{_escape(cell)}</td>"
        for cell in others
    )
    return f'<th scope="row">{_escape(first)}</th>{cells}'


def _image(picture: Picture) -> str:
    data = base64.b64encode(picture.content).decode()
    source = f"data:{_MIME[picture.format]};base64,{data}"
    return f'<img src="{source}" alt="{_escape(picture.alt)}">'


def _own_names(element: str, prefix: str, themed: bool) -> str:
    """Return an element of an SVG with names that no other picture has, in the page's colours."""
    element = re.sub(r'\bid="', f'id="{prefix}', element)
    element = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}', element).replace(
        "xlink:href=", "href="
    )
    element = element.replace("url(#", f"url(#{prefix}")
    if themed:
        for colour, name in _THEME.items():
            element = element.replace(f": {colour}", f": {name}")
    return element


def _escape(text: str) -> str:
    return html.escape(clean(text), quote=True)
