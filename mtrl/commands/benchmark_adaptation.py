"""`mtrl benchmark adaptation`: time and memory of adaptation, beside the libraries in use."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mtrl.benchmarks.adaptation.carry_out import Files, measure_adaptation
from mtrl.benchmarks.adaptation.settings import QUICK, AdaptationSettings
from mtrl.commands.parsing import parse
from mtrl.config import check_file_name
from mtrl.meta.kinds import check_device

__all__ = ["AdaptationOptions", "parse_adaptation", "run"]


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions:
    """Check that our results are the peers', then measure: milliseconds and adaptations per second in training
    and at test, what a meta-iteration's time goes into, and peak memory.

    `python scripts/install_peers.py` installs all peers, each in an environment of its own.
    """

    quick: bool = False
    """Fewer sizes and turns, without compilation, to see that it works. What is given beside it counts."""
    out: Path | None = None
    """Folder for the page, the table, the figure and tensorboard/; none is written if left out."""
    name: str = "benchmark"
    """What these files are called."""
    settings: Annotated[AdaptationSettings, tyro.conf.arg(name="")] = field(
        default_factory=AdaptationSettings
    )

    def __post_init__(self) -> None:
        check_file_name(self.name, "out")


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse_adaptation(arguments)
    check_device(options.settings.device)
    command = shlex.join(["mtrl", "benchmark", "adaptation", *arguments])
    files = Files(options.out, options.name) if options.out else None
    output = measure_adaptation(options.settings, command, files)
    print(output.text)
    if output.files:
        print(f"written to {', '.join(map(str, output.files))}", file=sys.stderr)


def parse_adaptation(arguments: Sequence[str]) -> AdaptationOptions:
    """Return the options; with --quick, its numbers are the defaults.

    Raises:
        UsageError: an option is wrong.
    """
    default = AdaptationOptions(
        settings=AdaptationSettings(**(QUICK if "--quick" in arguments else {}))
    )
    return parse(AdaptationOptions, arguments, command="mtrl benchmark adaptation", default=default)
