"""`mtrl benchmark quality`: learners by families by seeds on the same unseen tasks."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from mtrl.benchmarks.quality.carry_out import QualityPlace, compare_quality
from mtrl.benchmarks.quality.plan import QUICK, QualitySettings
from mtrl.commands.parsing import parse
from mtrl.config import check_file_name, check_positive
from mtrl.reproduce.trainings import cpu_count

__all__ = ["QualityOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """Train learners on families with several seeds, test all on the same unseen tasks, and write a page,
    a figure, and every score as CSV and JSON.

    Every training is a run directory, done ones are not repeated, and the same command continues what was
    stopped.
    """

    quick: bool = False
    """Scaled down to some minutes, to see that it works; its page says so. What is given beside it counts."""
    work: Path = Path("runs/benchmark-quality")
    """Folder of the run directories."""
    output: Path = Path("docs/results")
    """Folder of the page, the scores and the figure."""
    name: str = "benchmark-quality"
    """What these files are called."""
    processes: int = field(default_factory=cpu_count)
    """Trainings at a time, one thread each; as many as CPU cores if left out."""
    settings: Annotated[QualitySettings, tyro.conf.arg(name="")] = field(
        default_factory=QualitySettings
    )

    def __post_init__(self) -> None:
        check_positive(self, "processes")
        check_file_name(self.name)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse_quality(arguments)
    torch.set_num_threads(1)
    written = compare_quality(
        options.settings,
        QualityPlace(
            work=options.work,
            output=options.output,
            name=options.name,
            processes=options.processes,
            quick=options.quick,
            command=shlex.join(["mtrl", "benchmark", "quality", *arguments]),
        ),
    )
    print(written.text)
    files = (written.page, written.table, written.scores, written.figure)
    print(f"written to {', '.join(map(str, files))}", file=sys.stderr)


def parse_quality(arguments: Sequence[str]) -> QualityOptions:
    """Return the options; with --quick, its numbers are the defaults.

    Raises:
        UsageError: an option is wrong.
    """
    default = QualityOptions(settings=QualitySettings(**(QUICK if "--quick" in arguments else {})))
    return parse(QualityOptions, arguments, command="mtrl benchmark quality", default=default)
