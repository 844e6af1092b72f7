"""`mtrl reproduce`: the protocol of a published table, its numbers beside ours."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from mtrl.commands.parsing import parse
from mtrl.config import check_at_least, check_positive
from mtrl.errors import MtrlError
from mtrl.reproduce import REPRODUCTIONS, find_reproduction

__all__ = ["ReproduceOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Reproduce a published table; write a page with its numbers beside ours, a figure and a CSV."""

    name: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="NAME", help=f"One of {', '.join(REPRODUCTIONS)}."),
    ]
    quick: bool = False
    """Scaled down, to see that it works; its page says so."""
    seed: int = 0
    """Of all random streams."""
    output: Path = Path("docs/results")
    """Folder for the three files."""
    work: Path = Path("runs")
    """Where the trainings' run directories go; an interrupted reproduction continues from them."""
    threads: int = 1
    """CPU threads of torch."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "seed")
        check_positive(self, "threads")
        find_reproduction(self.name)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(ReproduceOptions, arguments, command="mtrl reproduce")
    torch.set_num_threads(options.threads)
    outcome = REPRODUCTIONS[options.name].run(
        options.output, options.quick, options.seed, options.work
    )
    print(outcome.text)
    print(f"written to {outcome.page}, {outcome.scores}, {outcome.figure}", file=sys.stderr)
    if outcome.met is False:
        raise MtrlError(f"{options.name} misses a target; see {outcome.page}")
