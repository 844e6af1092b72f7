"""`mtrl compare`: does sharing help? Specialists, a shared trunk and nothing shared at equal budget."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from mtrl.commands.parsing import parse
from mtrl.compare.carry_out import Place, Written, compare, plan_of
from mtrl.compare.plan import parse_kinds
from mtrl.config import check_file_name, check_positive, from_toml
from mtrl.meta.kinds import get_kind
from mtrl.multitask.config import MultiTaskConfig
from mtrl.reproduce.trainings import cpu_count

__all__ = ["CompareOptions", "parse_comparison", "run"]


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Train specialists, the shared trunk of the settings and an agent that shares nothing, at equal
    total budget, and write what sharing does on each task.

    Every training is a run directory, done ones are not repeated, and the same command continues what
    was stopped. Options override --config, which overrides the defaults.
    """

    directory: Annotated[Path, tyro.conf.arg(name="dir")]
    """Directory of the comparison, made if missing."""
    settings_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """TOML file of settings, such as another comparison's config.toml."""
    seeds: int = 5
    """Trainings of each agent, with seeds that count from --seed."""
    agents: str = "specialists,shared,unshared"
    """Which agents, with commas between them: specialists, shared, unshared, blind. `blind` is not told
    the task: the negative control."""
    episodes: int = 20
    """Greedy episodes of each task in the final evaluation."""
    specialists: Path | None = None
    """Folder of the specialists, which comparisons may share; DIR/specialists if left out."""
    processes: int = field(default_factory=cpu_count)
    """Trainings at a time, one thread each; as many as CPU cores if left out."""
    output: Path | None = None
    """Folder for the page, the scores and the figure; DIR if left out."""
    name: str = "compare"
    """What these files are called."""
    settings: Annotated[MultiTaskConfig, tyro.conf.arg(name="")] = field(
        default_factory=MultiTaskConfig
    )

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "episodes", "processes")
        parse_kinds(self.agents)
        check_file_name(self.name)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse_comparison(arguments)
    torch.set_num_threads(1)
    get_kind("multitask").check(options.settings)
    plan = plan_of(
        options.settings,
        parse_kinds(options.agents),
        seeds=options.seeds,
        episodes=options.episodes,
    )
    if plan.rounding:
        print(plan.rounding, file=sys.stderr)
    where = shlex.quote(str(options.directory))
    print(f"watch it with: mtrl watch {where}", file=sys.stderr)
    place = Place(
        directory=options.directory,
        specialists=options.specialists,
        output=options.output,
        name=options.name,
        processes=options.processes,
        command=shlex.join(["mtrl", "compare", *arguments]),
    )
    _say(compare(plan, place))


def parse_comparison(arguments: Sequence[str]) -> CompareOptions:
    """Return the options; those not given come from --config, else from the defaults.

    Raises:
        UsageError: an option or the file is wrong.
    """
    missing: Any = tyro.MISSING
    default = CompareOptions(directory=missing, settings=_settings(arguments))
    return parse(CompareOptions, arguments, command="mtrl compare", default=default)


def _settings(arguments: Sequence[str]) -> MultiTaskConfig:
    """Return the settings that must be known before the other options can be parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", nargs="?")
    path = parser.parse_known_args(arguments)[0].config
    return MultiTaskConfig() if path is None else from_toml(MultiTaskConfig, path)


def _say(written: Written) -> None:
    print(written.text)
    print(f"written to {written.page}, {written.scores}, {written.figure}", file=sys.stderr)
    if written.regret is not None:
        regret = shlex.quote(str(written.regret))
        print(
            "train for the worst regret against these specialists with: "
            f"mtrl train multitask --dir RUNDIR --config {regret}",
            file=sys.stderr,
        )
