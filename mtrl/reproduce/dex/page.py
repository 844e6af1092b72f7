"""What `mtrl reproduce dex` writes: the page, and all its numbers as CSV."""

import csv
import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtrl.config import to_toml
from mtrl.evaluation.statistics import Interval, PairedDifference
from mtrl.progress import format_duration
from mtrl.reproduce.dex.courses import Course, DexSettings
from mtrl.reproduce.dex.results import PAPER, ROWS, Comparison, Results, claims, flagged, over_seeds
from mtrl.reproduce.page import QUICK, Record, bullets, markdown_table, provenance, quick_notice

__all__ = ["TITLE", "render_page", "render_scores"]

TITLE = "Dex: one level after another"
SOURCE = "Erickson and Zhao 2017 (arXiv:1706.05749)"
Array = NDArray[np.float64]

DEFINITIONS = (
    (
        "Random: uniform actions. Initial: the network of the level before, without training on this "
        "one. From scratch: a new network. Incremental: the initial network, trained on. The last two take "
        "equally many steps on the level."
    ),
    (
        "In the paper's table the network of the level before is the one that learnt it from "
        "scratch, so that every chain has two levels. The chain is what its definition is about: all "
        "levels so far, each for equally many steps, with no way back."
    ),
    (
        "A number is how many steps a greedy policy survives, of at most 500, where the episode is "
        "truncated; the paper's are seconds, at 50 actions a second and without an end."
    ),
    (
        "A negative transfer is flagged where the incremental mean is below that from scratch and the 95 % interval "
        "of the chance that an incremental agent survives longer than one from scratch lies below one half "
        "(`mtrl.evaluation.continual.negative_transfer`)."
    ),
    (
        "Only the network is handed on: the optimiser and the scale of rewards begin anew on every level, and the "
        "network is not told which level it plays. The aim is the level at hand; what is forgotten does not "
        "count, as in the paper."
    ),
    (
        "Agents of one seed begin with the same network. That a pair's initial network is, bit for bit, the one that "
        "learnt the level before from scratch, and that every stage of a course begins with the network "
        "that the stage before ended with, is checked when this page is made."
    ),
)

CHOICES = (
    (
        "Levels: the ten of `mtrl.envs.hexagon.LEVELS`, four of growing pattern complexity and then six that are "
        "harder and harder to see. The paper's ten are three of pattern and seven of representation, the first of "
        "them plain to see. Beside each level stand the paper's numbers of the environment in the same place. "
        "They are of other games: what can be compared is which ratios are above and below one."
    ),
    (
        "PPO on 12 numbers instead of an off-line A3C loss on pixels, the last network instead of that "
        "of the best episode, several seeds instead of one, and costs, which the paper leaves out."
    ),
    (
        "Seconds are those of training in one process with one thread, without measuring. Both sides "
        "of a comparison train at the same speed, so that equal steps are nearly equal seconds."
    ),
)


def render_page(results: Results, record: Record, tried: Sequence[str], found: int) -> str:
    """Return the page.

    Args:
        results: what it is of.
        record: how it was made.
        tried: sentences on what came before the settings.
        found: trainings that were found finished.
    """
    shown = {} if record.quick else claims(results)
    settings, seeds = results.settings, len(results.seeds)
    sections = [
        f"# {TITLE}" + f" ({QUICK})" * record.quick,
        _notice(results) if record.quick else "",
        f"Source of the published numbers: {SOURCE}, single runs.",
        f"**{sum(shown.values())} of {len(shown)} claims hold.**" if shown else "",
        bullets([f"{'Yes' if met else 'NO'}: {claim}" for claim, met in shown.items()]),
        _verdict(results),
        "## Pairs of levels, as in the paper's table",
        _rows(results),
        (
            f"Mean survival in steps over {seeds} seeds with the 95 % bootstrap interval over seeds in brackets, of "
            f"{settings.episodes} episodes each and after {settings.steps:,} steps of training on the level. "
            "Ratios are incremental over from scratch."
        ),
        f"![Survival by level, learning curves, equal total cost{f', {QUICK}' * record.quick}]({record.stem}.png)",
        "## The chain",
        _chain(results),
        (
            "From scratch as above, for as many steps on the level. The heights are those of the learning "
            "curves on the level, from its first step to its last: how fast, not only how well."
        ),
        "## What the chain costs",
        _ledger(results),
        f"Means over {seeds} seeds; totals are of this level and all before it.",
        "## From scratch at equal total cost",
        _equal_cost(results),
        (
            "From scratch the level is trained for all the steps that the chain has taken up to and with it. By seconds, "
            f"it has as many whole parts of {settings.steps:,} steps as fit into the seconds of the same seed's chain."
        ),
        "## Longest episodes, and what the last network still does",
        _longest(results),
        "Longest episode in steps, of all seeds; the last column is the mean survival of the chain's last network.",
        "## Definitions",
        bullets(DEFINITIONS),
        "## Choices",
        bullets(CHOICES),
        "## What was tried before",
        bullets(tried),
        "## Settings",
        f"```toml\n{to_toml(settings).strip()}\n```",
        "## How this was made",
        provenance(record) + "\n" + _effort(results, found),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _notice(results: Results) -> str:
    settings = results.settings
    return quick_notice(
        f"{len(results.seeds)} seeds, {settings.steps:,} steps instead of {DexSettings().steps:,} for each level."
    )


def _verdict(results: Results) -> str:
    """Return where incremental learning is ahead by whole intervals, and where it is flagged."""
    negative = flagged(results)
    head = ["comparison", "incremental ahead by its whole interval", "negative transfer"]
    body = [
        [
            name,
            f"{sum(each.gain.low > 0 for each in found)} of {len(found)} levels",
            ", ".join(negative[name]) or "none",
        ]
        for name, found in results.compared.items()
    ]
    return markdown_table(head, body)


# Tables -----------------------------------------------------------------------------------------------


def _whole(value: Interval) -> str:
    """Return an interval without decimals, and alone where nothing is known of its bounds."""
    if math.isnan(value.low):
        return f"{value.estimate:.0f}"
    return f"{value.estimate:.0f} [{value.low:.0f}, {value.high:.0f}]"


def _change(value: PairedDifference) -> str:
    if math.isnan(value.low):
        return f"{value.mean:+.0f}"
    return f"{value.mean:+.0f} [{value.low:+.0f}, {value.high:+.0f}]"


def _flag(negative: bool) -> str:
    return "**negative**" if negative else "-"


def _published(values: Sequence[float]) -> str:
    return " / ".join("-" if math.isnan(value) else f"{value:.2f}" for value in values)


def _rows(results: Results) -> str:
    """Return the four rows, a line for each level, with the paper's beside."""
    head = ["level", *("from scratch" if row == "scratch" else row for row in ROWS)]
    head += ["ratio", "transfer", "paper: " + " / ".join(ROWS), "paper's ratio"]
    body = []
    compared = {each.level: each for each in results.pairs}
    for place, level in enumerate(results.settings.levels):
        paper = PAPER[place]
        random = over_seeds(results.random[level].mean(1), f"random {level}")
        line = [level, _whole(random)]
        if level in compared:
            line += _compared(compared[level])
        else:
            alone = results.values(results.scratch(level), "after", 0)
            line += ["-", _whole(over_seeds(alone, f"scratch {level}")), "-", "-", "-"]
        published = _published((paper.random, paper.initial, paper.scratch, paper.incremental))
        body.append([*line, f"{paper.name}: {published}", _published([paper.ratio])])
    return markdown_table(head, body)


def _compared(each: Comparison) -> list[str]:
    rows = (("initial", each.initial), ("scratch", each.scratch), ("incremental", each.incremental))
    cells = [_whole(over_seeds(values, f"{name} {each.level}")) for name, values in rows]
    return [*cells, str(each.ratio), _flag(each.negative)]


def _chain(results: Results) -> str:
    head = ["level", "initial", "from scratch", "incremental", "ratio", "transfer"]
    head += ["incremental less from scratch", "height, from scratch", "height, incremental"]
    body = []
    for each in results.chain:
        heights = [f"{height:.0f}" for height in each.areas.mean(0)]
        body.append([each.level, *_compared(each), _change(each.gain), *heights])
    return markdown_table(head, body)


def _ledger(results: Results) -> str:
    head = ["level", "steps", "seconds", "total steps", "total seconds", "survival after it"]
    body = [
        [
            entry.level,
            f"{entry.steps:,}",
            f"{entry.seconds:.1f}",
            f"{entry.total_steps:,}",
            f"{entry.total_seconds:.1f}",
            f"{entry.survival:.0f}",
        ]
        for entry in results.ledger
    ]
    return markdown_table(head, body)


def _equal_cost(results: Results) -> str:
    head = ["level", "steps in all", "the chain", "from scratch, equal steps", "transfer"]
    head += ["the chain less from scratch", "from scratch, equal seconds"]
    body = []
    for each in results.total_cost:
        cells = [
            _whole(over_seeds(values, f"equal cost {name} {each.level}"))
            for name, values in (
                ("chain", each.incremental),
                ("steps", each.scratch),
                ("seconds", each.scratch_by_seconds),
            )
        ]
        line = [each.level, f"{each.steps:,}", *cells[:2], _flag(each.negative)]
        body.append([*line, _change(each.gain), cells[2]])
    return markdown_table(head, body)


def _longest(results: Results) -> str:
    head = ["level", *("from scratch" if row == "scratch" else row for row in ROWS)]
    head += ["the chain", "last network's mean"]
    chain = results.course
    body = []
    for place, level in enumerate(results.settings.levels):
        alone = results.values(results.scratch(level), "longest_after", 0)
        found = [f"{results.random[level].max():.0f}", "-", f"{alone.max():.0f}", "-"]
        if place > 0:
            pair = Course("pair", (results.settings.levels[place - 1], level))
            found[1] = f"{results.values(pair, 'longest_before').max():.0f}"
            found[3] = f"{results.values(pair, 'longest_after').max():.0f}"
        found.append(f"{results.values(chain, 'longest_after', place).max():.0f}")
        last = np.array([each.last[level] for each in results.taken[chain]])
        body.append([level, *found, _whole(over_seeds(last, f"last {level}"))])
    return markdown_table(head, body)


def _effort(results: Results, found: int) -> str:
    made = [each for taken in results.taken.values() for each in taken]
    steps, seconds = (
        sum(sum(getattr(each, what)) for each in made) for what in ("steps", "seconds")
    )
    return (
        f"- Trainings: {len(made)}, of which {found} were found finished, one thread each; all of them together "
        f"{steps:,} steps in {format_duration(seconds)} without measuring"
    )


# All numbers ------------------------------------------------------------------------------------------


def render_scores(results: Results, record: Record) -> str:
    """Return every number as CSV, in full precision: a line for each quantity of a stage of a course."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["reproduction", "run", "course", "seed", "stage", "level", "quantity", "steps", "value"]
    )
    where = [record.name, "quick" if record.quick else "full"]
    for level, survived in results.random.items():
        for seed, episodes in zip(results.seeds, survived, strict=True):
            for quantity, value in (("mean", episodes.mean()), ("longest", episodes.max())):
                writer.writerow(
                    [*where, "random", seed, "", level, quantity, "", repr(float(value))]
                )
    for course, taken in results.taken.items():
        for seed, each in zip(results.seeds, taken, strict=True):
            for stage, level in enumerate(course.stages):
                line = [*where, course.name, seed, stage + 1, level]
                for quantity in ("seconds", "before", "after", "longest_before", "longest_after"):
                    value = getattr(each, quantity)[stage]
                    writer.writerow([*line, quantity, sum(each.steps[: stage + 1]), repr(value)])
                at = course.curve_steps(stage, results.settings)
                for step, value in zip(at, each.curves[stage], strict=True):
                    writer.writerow([*line, "curve", sum(each.steps[:stage]) + step, repr(value)])
    return text.getvalue()
