"""`mtrl report`: one HTML page and one Markdown file of any runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from mtrl.commands.parsing import parse
from mtrl.config import check_at_least
from mtrl.durable import replace_file, reporting
from mtrl.errors import UsageError
from mtrl.meta.kinds import KINDS
from mtrl.report.build import build_report
from mtrl.report.discover import find_runs
from mtrl.report.html import render_html
from mtrl.report.markdown import render_markdown
from mtrl.report.page import Page

__all__ = ["ReportOptions", "run"]

HTML = "report.html"
MARKDOWN = "report.md"
PICTURES = "report-pictures"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write report.html, one page that needs nothing else, and report.md from the files of runs.

    Runs that differ in the seed only are taken together, with intervals over them. Nothing is
    measured anew: `mtrl evaluate` first gives the scores on single tasks.
    """

    directories: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR [DIR ...]")
    ]
    """Run directories, and directories that hold some."""
    output: Path | None = None
    """Where to write the files; DIR if there is only one."""
    seed: int = 0
    """Of the bootstrap's resamples: the same files and seed give the same report."""
    dated: bool = False
    """Say in the title when the report was made."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "seed")
        if not self.directories:
            raise UsageError("name a directory that `mtrl train` made")
        if self.output is None and len(self.directories) > 1:
            raise UsageError("several directories need --output FOLDER, where the report goes")


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(ReportOptions, arguments, command="mtrl report")
    runs = find_runs(options.directories)
    made = datetime.now(UTC).isoformat(sep=" ", timespec="minutes") if options.dated else ""
    page = build_report(runs, kinds=KINDS.keys(), seed=options.seed, made=made)
    folder = options.output or options.directories[0]
    pictures = _write(folder, page)
    written = f"{HTML}, {MARKDOWN} and {pictures} pictures"
    print(f"{page.title}: written to {folder}: {written}", file=sys.stderr)


def _write(folder: Path, page: Page) -> int:
    text, pictures = render_markdown(page, PICTURES)
    files = {HTML: render_html(page).encode(), MARKDOWN: text.encode(), **pictures}
    with reporting("write", folder):
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        replace_file(folder / name, content)
    return len(pictures)
