"""What `mtrl reproduce` writes: a page in Markdown, all its numbers as CSV, a figure."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mtrl.evaluation.statistics import Interval, PairedDifference
from mtrl.figures import comparison_grid
from mtrl.progress import format_duration
from mtrl.reproduce.experiment import UNADAPTED, Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "QUICK",
    "Cell",
    "Part",
    "Record",
    "Results",
    "bullets",
    "draw_figure",
    "is_met",
    "markdown_table",
    "provenance",
    "quick_notice",
    "render_page",
    "render_scores",
]

QUICK = "scaled-down run"
DAGGER = "†"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Our numbers in one cell of the table.

    Attributes:
        row: label of the row.
        column: label of the column.
        ours: learner to its mean score with a 95 % interval over test tasks.
        differences: each other learner's score minus the target learner's, on identical tasks.
        tasks: number of test tasks.
    """

    row: str
    column: str
    ours: Mapping[str, Interval]
    differences: Mapping[str, PairedDifference]
    tasks: int


@dataclass(frozen=True, kw_only=True)
class Results:
    """All cells, and by row the scores that need no learner, where the family knows them.

    `tasks_name` is what the test tasks are called.
    """

    cells: Sequence[Cell]
    anchors: Mapping[str, Mapping[str, float]]
    tasks_name: str = "unseen tasks"

    def met(self, experiment: Experiment) -> list[bool]:
        """Return for each cell whether the target is met."""
        return [is_met(experiment, cell) for cell in self.cells]


class Part(NamedTuple):
    """A training, the time that it took, and whether it was found finished."""

    name: str
    seconds: float
    found: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """How the numbers were made.

    Attributes:
        processes: trainings at a time; nothing else is said of trainings where there were none.
        parts: the trainings.
        test_seconds: what testing them took.
    """

    name: str
    stem: str
    quick: bool
    command: str
    commit: str
    versions: Mapping[str, str]
    cpus: int
    total_seconds: float
    processes: int = 0
    parts: Sequence[Part] = ()
    test_seconds: float = 0.0


def is_met(experiment: Experiment, cell: Cell) -> bool:
    """Return whether the target learner is at or better than published, and better than the others.

    Better than another means that the whole paired interval lies on the good side of zero.
    """
    sign = 1 if experiment.better == "lower" else -1
    ours = cell.ours[experiment.target].estimate
    published = _published(experiment, experiment.target).get((cell.row, cell.column))
    paper = sign * math.inf if published is None else published.estimate
    ahead = all(
        min(sign * difference.low, sign * difference.high) > 0
        for difference in cell.differences.values()
    )
    return sign * ours <= sign * paper and ahead


def render_page(experiment: Experiment, results: Results, record: Record) -> str:
    """Return the page."""
    sections = [
        f"# {experiment.title}" + f" ({QUICK})" * record.quick,
        quick_notice(experiment.scaled_down) if record.quick else "",
        f"Source of the published numbers: {experiment.paper}." if experiment.paper else "",
        _verdict(experiment, results, record),
        markdown_table(*_comparison(experiment, results, record)),
        _notes(experiment, results),
        f"![{_caption(experiment)}{f', {QUICK}' * record.quick}]({record.stem}.png)",
        _anchors(experiment, results),
        "## Protocol",
        bullets(experiment.protocol),
        "## Settings the paper leaves open" if experiment.paper else "## Settings",
        bullets(experiment.choices),
        "## How this was made",
        provenance(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def render_scores(experiment: Experiment, results: Results, record: Record) -> str:
    """Return every number of the page as CSV, in full precision; an unknown bound is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["reproduction", "run", "row", "column", "learner", "source", "estimate", "low", "high"]
        + ["tasks"]
    )
    run = "quick" if record.quick else "full"
    for cell in results.cells:
        where = [record.name, run, cell.row, cell.column]
        for learner, ours in cell.ours.items():
            paper = _published(experiment, learner).get((cell.row, cell.column))
            if paper is not None:
                writer.writerow([*where, learner, "paper", *_numbers(paper), ""])
            writer.writerow([*where, learner, "ours", *_numbers(ours), cell.tasks])
        for other, difference in cell.differences.items():
            name = f"{other} minus {experiment.target}"
            writer.writerow(
                [*where, name, "paired difference", *_numbers(_as_interval(difference)), cell.tasks]
            )
    for row, anchors in results.anchors.items():
        for name, value in anchors.items():
            writer.writerow([record.name, run, row, "", name, "exact", repr(value), "", "", ""])
    return text.getvalue()


def draw_figure(experiment: Experiment, results: Results, record: Record) -> "Figure":
    """Return published and our numbers side by side, a panel for each row of the table."""
    rows, columns = list(experiment.trainings), list(experiment.columns)
    cells = {(cell.row, cell.column): cell for cell in results.cells}
    unknown = Interval(estimate=math.nan, low=math.nan, high=math.nan)

    def table(
        numbers: Mapping[tuple[str, str], Interval],
    ) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        found = [[numbers.get((row, column), unknown) for column in columns] for row in rows]
        return np.array([[(i.estimate, i.low, i.high) for i in line] for line in found])

    learners = next(iter(results.cells)).ours
    sources = {
        learner: {
            "paper": table(_published(experiment, learner)),
            "ours": table({key: cell.ours[learner] for key, cell in cells.items()}),
        }
        for learner in learners
    }
    if not experiment.published:
        sources = {learner: {"ours": each["ours"]} for learner, each in sources.items()}
    return comparison_grid(
        sources,
        panels=[f"{experiment.rows}: {row}" for row in rows],
        columns=columns,
        ylabel=f"mean {experiment.score} ({experiment.better} is better)",
        title=experiment.title + f" ({QUICK})" * record.quick,
    )


def quick_notice(scaled_down: str) -> str:
    """Return what a quick run's page says first; `scaled_down` is a sentence on what was cut."""
    return (
        f"> **This is a {QUICK}** (`--quick`): {scaled_down} "
        "Its numbers show that everything works; they are not a reproduction and are not judged."
    )


def _verdict(experiment: Experiment, results: Results, record: Record) -> str:
    if record.quick:
        return ""
    met = results.met(experiment)
    others = list(results.cells[0].differences)
    wanted = []
    if experiment.published:
        wanted.append("at or better than its published number")
    if others:
        names = [name if name == UNADAPTED else f"our {name}" for name in others]
        wanted.append(f"ahead of {' and '.join(names)} by a paired interval without zero")
    return (
        f"**Target met in {sum(met)} of {len(met)} cells**: our {experiment.target} "
        f"{' and '.join(wanted)}."
    )


def _comparison(
    experiment: Experiment, results: Results, record: Record
) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the main table."""
    first = results.cells[0]
    head = [experiment.rows, "test"]
    whose = ("paper's ", "our ") if experiment.published else ("",)
    head += [who + learner for learner in first.ours for who in whose]
    head += [f"{other} minus {experiment.target}" for other in first.differences]
    body = []
    for cell in results.cells:
        line = [cell.row, cell.column]
        for learner, ours in cell.ours.items():
            line += [_paper(experiment, learner, cell)] * bool(experiment.published) + [str(ours)]
        line += [str(_as_interval(difference)) for difference in cell.differences.values()]
        met = "yes" if is_met(experiment, cell) else "no"
        body.append([*line, "not judged" if record.quick else met])
    return [*head, "target met"], body


def _paper(experiment: Experiment, learner: str, cell: Cell) -> str:
    key = (cell.row, cell.column)
    paper = _published(experiment, learner).get(key)
    if paper is None:
        return "-"
    mark = DAGGER if key in experiment.unconfirmed else ""
    spread = "" if math.isnan(paper.high) else f" ± {paper.high - paper.estimate:.2f}"
    return f"{paper.estimate:.2f}{spread}{mark}"


def _published(experiment: Experiment, learner: str) -> Mapping[tuple[str, str], Interval]:
    return experiment.published.get(learner, {})


def _caption(experiment: Experiment) -> str:
    return "Published and our numbers" if experiment.published else "The numbers of the table"


def _notes(experiment: Experiment, results: Results) -> str:
    tasks = results.cells[0].tasks
    lines = [
        (
            f"Mean {experiment.score} ({experiment.better} is better) over {tasks:,} {results.tasks_name}, with "
            "the 95 % bootstrap interval over these tasks in brackets. Each number of ours comes from "
            "one training run; the intervals do not hold what another training seed would change."
        )
    ]
    for other in results.cells[0].differences:
        sign = "Above" if experiment.better == "lower" else "Below"
        lines.append(
            f"{other} minus {experiment.target} is the mean difference over pairs: identical tasks "
            f"and identical noise. {sign} zero, {experiment.target} is the better one."
        )
    if any((cell.row, cell.column) in experiment.unconfirmed for cell in results.cells):
        lines.append(f"{DAGGER} quoted from memory, not confirmed by a source at hand.")
    return "\n\n".join(lines)


def _anchors(experiment: Experiment, results: Results) -> str:
    if not results.anchors:
        return ""
    learners = list(results.cells[0].ours)
    body = []
    for cell in results.cells:
        low, high = results.anchors[cell.row].values()
        shares = [(cell.ours[learner].estimate - low) / (high - low) for learner in learners]
        body.append(
            [cell.row, cell.column, f"{low:.2f}", f"{high:.2f}", *(f"{s:.1%}" for s in shares)]
        )
    names = list(next(iter(results.anchors.values())))
    head = [experiment.rows, "test", *names, *(f"gap closed by {name}" for name in learners)]
    return "## Anchors\n\n" + markdown_table(head, body)


def provenance(record: Record) -> str:
    """Return how the page was made: the command, the code, and the time that each part took."""
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    found = sum(part.found for part in record.parts)
    total = f"- Total time: {format_duration(record.total_seconds)}"
    if found:
        total += f", without the {found} of {len(record.parts)} trainings that were found finished"
    trainings = (
        f"; trainings at a time: {record.processes}, one thread each" if record.parts else ""
    )
    facts = [
        f"- Command: `{record.command}`" + f" ({QUICK})" * record.quick,
        f"- Commit: {record.commit}",
        f"- Versions: {versions}",
        f"- CPU cores: {record.cpus}{trainings}",
        total,
    ]
    if not record.parts:
        return "\n".join(facts)
    times = [
        [part.name, format_duration(part.seconds), "found finished" if part.found else "trained"]
        for part in record.parts
    ]
    times.append(["testing and intervals", format_duration(record.test_seconds), ""])
    return "\n".join(facts) + "\n\n" + markdown_table(["part", "time", ""], times)


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table; every row has as many cells as the head."""
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def bullets(sentences: Sequence[str]) -> str:
    """Return a list, one entry a sentence."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _as_interval(difference: PairedDifference) -> Interval:
    return Interval(estimate=difference.mean, low=difference.low, high=difference.high)


def _numbers(value: Interval) -> list[str]:
    return ["" if math.isnan(x) else repr(x) for x in (value.estimate, value.low, value.high)]
