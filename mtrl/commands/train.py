"""`mtrl train`: train in a new run directory, or resume the run in one."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import torch
import tyro

from mtrl.commands.parsing import parse
from mtrl.config import check_positive, from_toml
from mtrl.errors import UsageError
from mtrl.family_files import with_kept_family
from mtrl.manifest import read_manifest
from mtrl.meta.distributed import Processes, join, processes_of
from mtrl.meta.following import open_together
from mtrl.meta.kinds import KINDS, Kind, get_kind
from mtrl.runs import CONFIG, MANIFEST

__all__ = ["TrainOptions", "parse_training", "run", "train"]

C = TypeVar("C")

HELP = """usage: mtrl train {kinds} --dir RUNDIR [options]
       mtrl train --resume RUNDIR

Train in a new run directory, or continue the run in one where it stopped.
`mtrl train {first} --help` shows the options. A resumed run has the settings that it was started
with; --checkpoint-every, --device, --threads and, in meta-training, --iterations may be given anew."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Generic[C]):
    """Train in a new run directory. Options override --config, which overrides the defaults."""

    directory: Annotated[Path, tyro.conf.arg(name="dir")]
    """Run directory, made if missing."""
    settings_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """TOML file of settings, such as another run's config.toml."""
    threads: int = 1
    """CPU threads of torch. These tensors are small: one is quickest, and several runs side by side
    use several cores."""
    settings: Annotated[C, tyro.conf.arg(name="")]

    def __post_init__(self) -> None:
        check_positive(self, "threads")


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        print(HELP.format(kinds="|".join(KINDS), first=next(iter(KINDS))))
    elif first == "--resume" or first.startswith("--resume="):
        _resume(arguments)
    elif first in KINDS:
        _start(KINDS[first], arguments[1:])
    else:
        problem = f"unknown kind of run {first!r}; " if first else ""
        kinds = " or ".join(f"`mtrl train {kind}`" for kind in KINDS)
        raise UsageError(f"{problem}write {kinds}, or `mtrl train --resume RUNDIR`")


def parse_training(
    kind: Kind, arguments: Sequence[str], command: str, *, defaults: Any = None
) -> TrainOptions[Any]:
    """Return the options of a new run; those not given come from --config, else from `defaults`.

    Without `defaults` they come from the kind's own.

    Raises:
        UsageError: an option or the file is wrong.
    """
    path = _option_value(arguments, "--config")
    settings = (defaults or kind.config()) if path is None else from_toml(kind.config, path)
    return _parse(kind, arguments, command, settings=settings)


def train(kind: Kind, options: TrainOptions[Any], *, resume: bool = False) -> None:
    """Train in `options.directory`, together with the processes that `torchrun` started beside this one."""
    torch.set_num_threads(options.threads)
    kept = with_kept_family(options.settings, options.directory) if resume else options.settings
    kind.check(kept)
    processes = processes_of(os.environ)
    if processes.count > 1:
        _check_together(kind, options.settings, processes)
    where = shlex.quote(str(options.directory))
    with (
        join(processes, options.settings.device),
        open_together(
            processes, options.directory, config=options.settings, kind=kind.name, resume=resume
        ) as opened,
    ):
        if processes.leads:
            print(f"watch it with: mtrl watch {where}", file=sys.stderr)
        if kind.train_together is None:
            kind.train(options.settings, opened)
        else:
            kind.train_together(options.settings, opened, processes)
    if processes.leads:
        print(f"evaluate it with: mtrl evaluate {where}", file=sys.stderr)


def _check_together(kind: Kind, settings: Any, processes: Processes) -> None:
    if kind.train_together is None:
        can = " or ".join(f"`mtrl train {name}`" for name in KINDS if KINDS[name].train_together)
        raise UsageError(
            f"there are {processes.count} processes, and `mtrl train {kind.name}` runs in one; only "
            f"{can} splits its work"
        )
    processes.share(settings.tasks_per_batch)


def _start(kind: Kind, arguments: Sequence[str]) -> None:
    if any(argument.partition("=")[0] == "--resume" for argument in arguments):
        raise UsageError("a run is resumed with `mtrl train --resume RUNDIR`, which knows its kind")
    train(kind, parse_training(kind, arguments, f"mtrl train {kind.name}"))


def _resume(arguments: Sequence[str]) -> None:
    directory = _option_value(arguments, "--resume")
    if directory is None:
        raise UsageError("--resume needs the run's directory: `mtrl train --resume RUNDIR`")
    if not (directory / MANIFEST).exists():
        raise UsageError(f"no run to resume in {directory}; start one with `mtrl train KIND --dir`")
    kind = get_kind(read_manifest(directory / MANIFEST)["kind"])
    rest = arguments[1:] if "=" in arguments[0] else arguments[2:]
    settings = from_toml(kind.config, directory / CONFIG)
    command = f"mtrl train --resume {directory}"
    options = _parse(kind, rest, command, settings=settings, directory=directory)
    train(kind, options, resume=True)


def _parse(
    kind: Kind,
    arguments: Sequence[str],
    command: str,
    *,
    settings: Any,
    directory: Any = tyro.MISSING,
) -> TrainOptions[Any]:
    options: Any = TrainOptions[kind.config]  # type: ignore[name-defined]  # a type made at run time
    default = TrainOptions[Any](directory=directory, settings=settings)
    return parse(options, arguments, command=command, default=default)


def _option_value(arguments: Sequence[str], name: str) -> Path | None:
    """Return the value of an option that must be known before the others can be parsed."""
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == name and equals:
            return Path(value)
        if flag == name and index + 1 < len(arguments):
            return Path(arguments[index + 1])
    return None
