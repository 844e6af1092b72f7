"""Both examples of Schlesinger and Vodolazskiy 2017: three strategies at every sample size.

Nothing is trained and nothing is random: the numbers are solutions of linear programs.
"""

import csv
import importlib.metadata
import io
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mtrl.figure_style import (
    GREY,
    INK,
    LARGE,
    MARKERS,
    PALETTE,
    dress,
    legend_below,
    new_figure,
)
from mtrl.reproduce.carry_out import Outcome, Place, record_of, require_figures, write_files
from mtrl.reproduce.page import (
    QUICK,
    Record,
    bullets,
    markdown_table,
    provenance,
    quick_notice,
)
from mtrl.reproduce.provenance import commit
from mtrl.reproduce.short_samples import SIGNAL_CELLS
from mtrl.reproduce.three_strategies import (
    DEVIATION,
    EXAMPLES,
    LIKELIHOOD,
    MINIMAX,
    QUICK_SIZES,
    STRATEGIES,
    Comparison,
    Example,
    claims,
    compare,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["minimax_deviation_table"]

TITLE = "Minimax deviation on short samples"
LOOKS = {
    name: (PALETTE[index], MARKERS[index])
    for index, name in enumerate((DEVIATION, LIKELIHOOD, MINIMAX))
}
TICKS = (0.003, 0.01, 0.03, 0.1, 0.3)
DEFINITIONS = (
    (
        "The risk of a strategy at a model is the probability that it names the wrong state; its "
        "deviation is the risk less the smallest risk that any strategy has at that model."
    ),
    (
        "Maximum likelihood takes the model that makes the learning sample likeliest and decides as if it "
        "were true; minimax has the smallest maximum risk, and minimax deviation the smallest maximum "
        "deviation, among all strategies that see the object and the sample, random ones included."
    ),
    (
        "Unknown mean (Example 1): equally likely states give signals N((2, 0), I) and N((0, θ), I), θ in "
        "[-6, 6]; n signals of the second state with variance 16 are the sample."
    ),
    (
        "Unknown share (Example 2, after Robbins): a signal is N(-1, 1) in the first state, whose "
        "probability θ in [0, 1] is unknown, and N(1, 1) in the second; n unlabelled signals are the sample."
    ),
    (
        "The two solutions come from linear programs (HiGHS) over mixtures of Bayesian strategies. Their "
        "dual is a prior over models, and no strategy has a smaller maximum than the Bayesian one has as "
        "mean under it; the duality gap is what is left between the two."
    ),
)
CHOICES = (
    (
        "The sample is of other objects than the one that is decided on, as in the paper's general "
        "form. With the object among the n, the numbers of Example 2's minimax deviation belong to n + 1."
    ),
    (
        "The interval of θ is a grid of 49 values (Example 1) or 41 (Example 2), and maximum likelihood "
        "picks one of them."
    ),
    (
        "In Example 1 the second signal and the sample's mean lie on lattices of half a standard "
        "deviation. In Example 2 each signal of the sample, though not that of the object, is rounded to one "
        f"of {', '.join(f'{cells[0]} cells at n = {n}' for n, cells in SIGNAL_CELLS.items())}. Rounding "
        "the sample can only raise the minimax deviation."
    ),
    (
        "The change is that of the maximum deviation from half this resolution: half as many values of θ, "
        "lattices of twice the width, and "
        f"{', '.join(str(cells[1]) for cells in SIGNAL_CELLS.values())} cells. A margin counts as one if "
        "it is above twice the largest change plus the duality gap."
    ),
    "Sizes above 10 are ours. Nothing is random: `--seed` changes nothing.",
)


def minimax_deviation_table(place: Place) -> Outcome:
    """Solve both examples at all sample sizes, and write the page, the numbers and the figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    clock, revision = time.monotonic(), commit()
    rows = [
        compare(example, samples, quick=place.quick)
        for example in EXAMPLES
        for samples in example.sizes
        if not place.quick or samples in QUICK_SIZES
    ]
    record = record_of(place, revision, time.monotonic() - clock)
    solver = {"scipy": importlib.metadata.version("scipy")}
    record = replace(record, versions={**record.versions, **solver})
    return write_files(
        place,
        _page(rows, record),
        _scores(rows, record),
        lambda: _figure(rows, record),
        None if place.quick else all(claims(rows).values()),
    )


def _page(rows: Sequence[Comparison], record: Record) -> str:
    found = claims(rows) if not record.quick else {}
    sections = [
        f"# {TITLE}" + f" ({QUICK})" * record.quick,
        quick_notice("two sample sizes, at half the resolution.") if record.quick else "",
        "Source: Schlesinger and Vodolazskiy 2017 (arXiv:1707.04849), which shows curves and no table.",
        f"**{sum(found.values())} of {len(found)} claims hold.**" if found else "",
        bullets([f"{'Yes' if met else 'NO'}: {claim}" for claim, met in found.items()]),
        (
            "Deviations and risks below are the largest over θ; n is the size of the learning sample. "
            "The margin is how far minimax deviation is below the better one of the others."
        ),
        *(_section(example, rows) for example in EXAMPLES),
        f"![Risks and maximum deviations{f', {QUICK}' * record.quick}]({record.stem}.png)",
        "## Definitions",
        bullets(DEFINITIONS),
        "## What the paper leaves open",
        bullets(CHOICES),
        "## How this was made",
        provenance(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(example: Example, rows: Sequence[Comparison]) -> str:
    """Return an example's heading and table."""
    changed = any(row.change for row in rows)
    head = ["n", *(f"deviation: {name}" for name in STRATEGIES), "margin"]
    head += ["largest change"] * changed
    head += [f"risk: {name}" for name in STRATEGIES] + ["duality gap"]
    body = []
    for row in (row for row in rows if row.example == example.name):
        line = [str(row.samples) if row.of_paper else f"{row.samples} (ours)"]
        line += [f"{row.max_deviation(name):.4f}" for name in STRATEGIES] + [f"{row.margin:.4f}"]
        line += [f"{max(map(abs, row.change.values())):.4f}"] if changed else []
        line += [f"{row.max_risk(name):.4f}" for name in STRATEGIES] + [f"{row.gap:.0e}"]
        body.append(line)
    return f"## Example: {example.name}\n\n" + markdown_table(head, body)


def _scores(rows: Sequence[Comparison], record: Record) -> str:
    """Return every number as CSV, in full precision: the maxima, then the risks that are drawn."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["reproduction", "run", "example", "samples", "strategy", "quantity", "model", "value"]
    )
    run = "quick" if record.quick else "full"
    for row in rows:
        where = [record.name, run, row.example, row.samples]
        for name in STRATEGIES:
            writer.writerow([*where, name, "max deviation", "", repr(row.max_deviation(name))])
            writer.writerow([*where, name, "max risk", "", repr(row.max_risk(name))])
            if row.change:
                writer.writerow([*where, name, "change by resolution", "", repr(row.change[name])])
        writer.writerow([*where, "", "duality gap", "", repr(row.gap)])
    for row in (row for row in rows if row.samples in QUICK_SIZES):
        for name, risks in (("best", row.best_risks), *row.risks.items()):
            for model, risk in zip(row.models.tolist(), risks.tolist(), strict=True):
                where = [record.name, run, row.example, row.samples]
                writer.writerow([*where, name, "risk", repr(model), repr(risk)])
    return text.getvalue()


def _figure(rows: Sequence[Comparison], record: Record) -> "Figure":
    """Draw for each example the risk at every model for two sample sizes, and all maxima."""
    figure = new_figure(9.6, 6.0)
    grid = figure.subplots(len(EXAMPLES), 3)
    for example, (*panels, last) in zip(EXAMPLES, grid, strict=True):
        curve = [row for row in rows if row.example == example.name]
        shown = [row for row in curve if row.samples in QUICK_SIZES]
        for axes, row in zip(panels, shown, strict=True):
            axes.plot(row.models, row.best_risks, color=GREY, ls="--", lw=1.4, label="model known")
            for name, (colour, _) in LOOKS.items():
                axes.plot(row.models, row.risks[name], color=colour, lw=1.7, label=name)
            axes.set_ylim(0, 1.05 * max(row.max_risk(name) for row in shown for name in STRATEGIES))
            title = f"{example.name}, n = {row.samples}"
            dress(axes, title=title, xlabel=example.parameter, ylabel="risk")
        sizes = [row.samples for row in curve]
        for name, (colour, marker) in LOOKS.items():
            values = [row.max_deviation(name) for row in curve]
            last.loglog(sizes, values, color=colour, marker=marker, ms=5, lw=1.7)
        last.set_xticks(sizes, [str(size) for size in sizes])
        last.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        last.minorticks_off()
        dress(
            last,
            title=f"{example.name}, worst θ",
            xlabel="n, size of the learning sample",
            ylabel="maximum deviation",
        )
    title = f"{TITLE}: lower is better" + f" ({QUICK})" * record.quick
    figure.suptitle(title, fontsize=LARGE, color=INK)
    legend_below(figure, grid[0, 0])
    return figure
