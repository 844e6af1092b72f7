"""The page of a report: sound HTML that needs nothing else, safe from what it shows, on any screen."""

import html.parser
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mtrl.metrics import Series
from mtrl.report.curves import Curve, tag_curve
from mtrl.report.drawing import curves_figure, literal, svg_picture, to_svg
from mtrl.report.grouping import grouped
from mtrl.report.html import render_html
from mtrl.report.markdown import render_markdown
from mtrl.report.page import (
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
from mtrl.report.reading import RunRecord

pytest.importorskip("matplotlib")

NASTY = "<script>alert(\"x\")</script> & 'q' $a_b^c$ | `t` *s* [l](http://e.x) \x1b[31m \ud800"
TINY_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8"
    "ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)
VOID = {"meta", "link", "img", "br", "hr", "input", "use", "path", "rect", "image", "circle"}


def curve(shift: float) -> Curve:
    values = {"a": [1.0 + shift, 2.0, 3.0], "b": [2.0 + shift, 3.0, 5.0]}
    runs = [
        RunRecord(
            directory=Path(name),
            name=name,
            settings={"seed": seed, "x": 1},
            metrics={"outer/kl": Series([1, 2, 3], series)},
        )
        for seed, (name, series) in enumerate(values.items())
    ]
    (group,) = grouped(runs)
    found = tag_curve(group, "outer/kl", 0)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def drawing() -> Picture:
    curves = {NASTY: curve(0.0), "_hidden $x$": curve(1.0)}
    figure = curves_figure(curves, xlabel="step", ylabel="nats", title=NASTY)
    return svg_picture(figure, NASTY, f"alt of {NASTY}", caption=NASTY)


@pytest.fixture(scope="module")
def page(drawing: Picture) -> Page:
    """Return a page with one block of each kind, whose texts all try to be more than text."""
    wide = Table(
        caption=f"wide {NASTY}",
        header=tuple(f"column {i} {NASTY}" for i in range(12)),
        rows=((NASTY, *(Marked(NASTY) for _ in range(11))),) * 2,
    )
    png = Picture(name="png", content=TINY_PNG, format="png", alt=NASTY)
    blocks = (
        Text(text=NASTY),
        Problems(items=(NASTY, "second")),
        Code(text=f"mtrl train {NASTY}\nsecond ``` {'long' * 100}"),
        wide,
        Gallery(pictures=(drawing, drawing, replace(drawing, themed=False), png)),
    )
    sections = tuple(Section(title=NASTY, blocks=blocks) for _ in range(2))
    return Page(title=NASTY, sections=sections)


@dataclass(frozen=True)
class Element:
    """An element of a page with the text directly in it and everything below."""

    name: str
    attributes: dict[str, str]
    inside: tuple[str, ...]


class Reader(html.parser.HTMLParser):
    """Keeps all elements and texts; fails on an element that is closed wrongly or not at all."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append(Element(tag, attributes, tuple(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name: value or "" for name, value in attrs}
        self.elements.append(Element(tag, names, tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> list[Element]:
        return [element for element in self.elements if element.name == name]


@pytest.fixture(scope="module")
def parsed(page: Page) -> Reader:
    return Reader(render_html(page))


# The HTML itself


def test_texts_come_back_as_they_were_and_none_became_an_element(parsed: Reader) -> None:
    assert clean(NASTY) in parsed.texts
    assert parsed.all("script") == [] and parsed.all("a")
    assert {element.attributes.get("alt") for element in parsed.all("img")} == {clean(NASTY)}
    assert {svg.attributes["aria-label"] for svg in parsed.all("svg")} == {clean(f"alt of {NASTY}")}


def test_nothing_outside_the_page_is_referred_to(parsed: Reader) -> None:
    for element in parsed.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            value = element.attributes.get(name, "#")
            assert value.startswith(("#", "data:image/")), (element.name, name, value)
        assert element.name not in ("link", "script", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in element.attributes)
        style = element.attributes.get("style", "")
        assert all(place.startswith("#") for place in re.findall(r"url\(([^)]*)", style))
    (style,) = re.findall(
        r"<style>(.*?)</style>", render_html(Page(title="x", sections=())), re.DOTALL
    )
    assert "url(" not in style and "@import" not in style


def test_the_browser_is_told_to_load_nothing(parsed: Reader) -> None:
    metas = {
        meta.attributes.get("http-equiv") or meta.attributes.get("name"): meta.attributes
        for meta in parsed.all("meta")
    }
    policy = metas["Content-Security-Policy"]["content"]
    assert policy.startswith("default-src 'none';") and "http" not in policy
    assert metas["viewport"]["content"] == "width=device-width, initial-scale=1"
    assert metas["color-scheme"]["content"] == "light dark"
    assert parsed.all("html")[0].attributes == {"lang": "en"}


def test_names_are_unique_and_every_reference_has_its_place(parsed: Reader) -> None:
    names = Counter(e.attributes["id"] for e in parsed.elements if "id" in e.attributes)
    assert max(names.values()) == 1
    referred = [
        value.removeprefix("#")
        for element in parsed.elements
        for name, value in element.attributes.items()
        if name in ("href", "aria-labelledby") and not value.startswith("data:")
    ]
    for element in parsed.elements:
        for value in element.attributes.values():
            referred += re.findall(r"url\(#([^)]+)\)", value)
    # Marks and clips of the three drawings as well as contents and captions.
    assert len(referred) > 20
    assert set(referred) <= set(names)


def test_every_table_has_a_caption_a_head_and_names_for_its_rows(parsed: Reader) -> None:
    assert len(parsed.all("table")) == len(parsed.all("caption")) == len(parsed.all("thead")) == 2
    scopes = Counter(th.attributes["scope"] for th in parsed.all("th"))
    assert scopes == {"col": 24, "row": 4}
    for table in parsed.all("table"):
        assert table.inside[-1] == "div"
    boxes = [div.attributes for div in parsed.all("div") if div.attributes.get("role")]
    assert all(box["class"] == "scroll" and box["tabindex"] == "0" for box in boxes)


def test_headings_go_down_one_level_at_a_time(parsed: Reader) -> None:
    levels = [e.name for e in parsed.elements if re.fullmatch(r"h\d", e.name)]
    assert levels == ["h1", "h2", "h2"]


def test_a_drawing_takes_the_colours_of_the_page_and_a_map_keeps_its_own(drawing: Picture) -> None:
    def rendered(picture: Picture) -> str:
        section = Section(title="x", blocks=(Gallery(pictures=(picture,)),))
        return render_html(Page(title="x", sections=(section,))).split("<main>")[1]

    themed, own = rendered(drawing), rendered(replace(drawing, themed=False))
    assert "var(--ink)" in themed and "#333333" not in themed
    assert "var(--" not in own and "#333333" in own
    assert 'class="figure light"' in own


def test_a_row_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="does not have a cell for each"):
        Table(caption="x", header=("a", "b"), rows=(("1",),))


def test_what_cannot_be_written_is_replaced_and_the_rest_is_kept() -> None:
    assert clean("a\x00\x1b\ud800b\tü\n😀") == "a\ufffd\ufffd\ufffdb\tü\n😀"
    assert clean(NASTY).encode()
    assert [slug(text) for text in ("Step sizes", "../x y", "", "ä")] == [
        "step-sizes",
        "x-y",
        "part",
        "part",
    ]


# The drawings


def test_the_same_figure_is_the_same_svg_without_date_or_address(drawing: Picture) -> None:
    first, second = (
        to_svg(curves_figure({"a": curve(0.0)}, xlabel="x", ylabel="y")) for _ in range(2)
    )
    assert first == second and first.startswith(b"<svg")
    ElementTree.fromstring(first)
    outside = set(re.findall(rb"https?://[^\"'\s<]+", first))
    assert outside <= {b"http://www.w3.org/2000/svg", b"http://www.w3.org/1999/xlink"}


def test_labels_are_drawn_as_they_are(drawing: Picture) -> None:
    texts = [e.text or "" for e in ElementTree.fromstring(drawing.content).iter() if e.text]
    shown = " ".join("".join(texts).split())
    assert "$a_b^c$" in shown and "_hidden $x$" in shown
    assert literal("a$b") == r"a\$b" and literal("_a") == " _a"


def test_a_band_is_drawn_where_there_are_bounds_only() -> None:
    with_band = curves_figure({"a": curve(0.0)}, xlabel="x", ylabel="y").axes[0]
    assert len(with_band.collections) == 1
    single = replace(
        curve(0.0),
        intervals=tuple(replace(i, low=np.nan, high=np.nan) for i in curve(0.0).intervals),
    )
    assert len(curves_figure({"a": single}, xlabel="x", ylabel="y").axes[0].collections) == 0


# The Markdown


def test_markdown_shows_texts_as_they_are_and_names_its_pictures(page: Page) -> None:
    text, pictures = render_markdown(page, "beside")
    assert sorted(pictures) == sorted(re.findall(r"\]\((beside/[^)]+)\)", text))
    assert len(pictures) == 8 and all(len(path) < 90 for path in pictures)
    for path, content in pictures.items():
        if path.endswith(".svg"):
            ElementTree.fromstring(content)
    outside = re.sub(r"^````\n.*?^````$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert outside.count("````") == 0 and "\\<script\\>" in outside
    assert not re.search(r"(?<!\\)[<`$]", outside)
    # A bar in a cell is no new cell.
    (row,) = {line for line in outside.splitlines() if line.startswith("| \\<script")}
    assert len(re.findall(r"(?<!\\)\|", row)) == 13


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# a", "\\# a"),
        ("1. a", "1\\. a"),
        ("- a", "\\- a"),
        ("---", "\\---"),
        ("3.5 and -2.5", "3.5 and -2.5"),
        ("-2.5", "-2.5"),
        ("a\nb", "a b"),
    ],
)
def test_no_text_begins_a_list_or_a_heading(text: str, shown: str) -> None:
    section = Section(title="x", blocks=(Text(text=text),))
    page = Page(title="t", sections=(section,))
    assert render_markdown(page, "p")[0] == f"# t\n\n## x\n\n{shown}\n"


# A browser


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
in_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


def browse(path: Path, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Open a page in Chromium without a screen; return the document that it made."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    where = [f"--user-data-dir={folder / 'profile'}", "--dump-dom", *options, path.as_uri()]
    done = subprocess.run(
        [*map(str, command), *where], capture_output=True, text=True, timeout=120, check=True
    )
    return done


@in_browser
def test_a_browser_has_nothing_to_complain_of(page: Page, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render_html(page))
    done = browse(tmp_path / "report.html", tmp_path)
    assert "CONSOLE" not in done.stderr, done.stderr
    assert done.stdout.count("<svg") == 6 and "</html>" in done.stdout


MEASURE = """<!DOCTYPE html><body><script>
const texts = TEXTS;
addEventListener("load", async () => {
  const said = [];
  for (const width of [320, 360, 768, 1280]) {
    const frame = document.createElement("iframe");
    frame.style.cssText = `width:${width}px;height:800px;border:0`;
    frame.srcdoc = texts;
    const loaded = new Promise(done => frame.onload = done);
    document.body.append(frame);
    await loaded;
    const page = frame.contentDocument;
    const boxes = [...page.querySelectorAll(".scroll")];
    const drawn = [...page.querySelectorAll("figure svg, figure img")];
    said.push([width, page.documentElement.scrollWidth,
      boxes.filter(box => box.scrollWidth > box.clientWidth).length,
      Math.min(...drawn.map(each => each.getBoundingClientRect().height)),
      Math.max(...boxes.map(box => box.getBoundingClientRect().right))].join(" "));
    frame.remove();
  }
  document.body.textContent = "MEASURED " + said.join(";");
});
</script>"""


@in_browser
def test_on_no_screen_the_page_scrolls_sideways_but_its_wide_tables_do(
    page: Page, tmp_path: Path
) -> None:
    # As text of a script, the page may not end it.
    text = json.dumps(render_html(page)).replace("</", "<\\/")
    (tmp_path / "measure.html").write_text(MEASURE.replace("TEXTS", text))
    done = browse(tmp_path / "measure.html", tmp_path, "--virtual-time-budget=20000")
    measured = re.search(r"MEASURED ([^<]*)", done.stdout)
    assert measured is not None, done.stdout[-500:]
    lines = [tuple(map(float, line.split())) for line in measured[1].split(";")]
    assert [line[0] for line in lines] == [320, 360, 768, 1280]
    for width, page_width, scrolling, least_height, right in lines:
        assert page_width <= width, f"{width} pixels: the page is {page_width} wide"
        assert scrolling >= 2 and right <= width
        assert least_height >= 1


@in_browser
def test_a_browser_prints_it(page: Page, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render_html(page))
    target = tmp_path / "report.pdf"
    browse(tmp_path / "report.html", tmp_path, f"--print-to-pdf={target}")
    assert target.read_bytes().startswith(b"%PDF")
