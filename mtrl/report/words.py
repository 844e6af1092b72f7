"""How numbers, tags and scores are worded in a report."""

import math
from collections.abc import Sequence

from mtrl.errors import UsageError
from mtrl.evaluation.statistics import Interval
from mtrl.report.curves import AFTER, held_out_tags
from mtrl.report.reading import RunRecord
from mtrl.tags import find_tag

__all__ = ["NONE", "after", "cell", "direction", "meaning", "number", "plural", "unit_of"]

NONE = "\N{EN DASH}"
"""What a cell says that has nothing to say."""
_DIRECTIONS = {"error": "error (lower is better)", "return": "return (higher is better)"}


def number(value: float) -> str:
    """Return four significant digits."""
    return f"{value:.4g}"


def cell(interval: Interval) -> str:
    """Return an estimate with its bounds, if there are any."""
    return number(interval.estimate) if math.isnan(interval.low) else str(interval)


def plural(count: int, noun: str) -> str:
    """Return a count of things: "1 run", "2 runs"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def after(steps: int) -> str:
    """Return which number of adaptation steps a score is about."""
    return f"after {steps}" if steps else "before"


def meaning(tag: str) -> str:
    """Return what a held-out tag is in words, any other tag as it is."""
    found = AFTER.fullmatch(tag)
    return f"held-out {found[1]}, {after(int(found[2]))}" if found else tag


def unit_of(tag: str) -> str:
    """Return the unit of a tag, empty if it has none or is not known here."""
    try:
        return find_tag(tag).unit
    except UsageError:  # of a run that another version made
        return ""


def direction(runs: Sequence[RunRecord]) -> str:
    """Return what the held-out score is and which way is good, from the tags that the runs logged."""
    scores = {found[1] for tag in held_out_tags(runs) if (found := AFTER.fullmatch(tag))}
    return " or ".join(_DIRECTIONS[score] for score in sorted(scores)) or "score"
