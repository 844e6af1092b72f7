"""`mtrl benchmark`: how well learners adapt (quality), and how fast (adaptation)."""

import importlib
import sys
from collections.abc import Sequence

from mtrl.errors import UsageError

__all__ = ["BENCHMARKS", "run"]

BENCHMARKS = {
    "quality": "how well learners adapt: families, seeds, intervals",
    "adaptation": "how fast: time and memory of adaptation, beside other libraries",
}


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    first, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if first in ("-h", "--help"):
        sys.stdout.write(_help())
    elif first in BENCHMARKS:
        importlib.import_module(f"mtrl.commands.benchmark_{first}").run(rest)
    else:
        problem = f"unknown benchmark {first!r}; " if first else ""
        names = " or ".join(f"`mtrl benchmark {name}`" for name in BENCHMARKS)
        raise UsageError(f"{problem}write {names}")


def _help() -> str:
    lines = [f"  {name:12}  {summary}" for name, summary in BENCHMARKS.items()]
    return "\n".join(["usage: mtrl benchmark NAME ...", "", "benchmarks:", *lines, ""])
