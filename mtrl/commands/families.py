"""`mtrl families`: list the task families, show one, draw its tasks, or print some of them."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mtrl.commands.parsing import parse
from mtrl.config import check_at_least, check_positive
from mtrl.durable import reporting
from mtrl.envs.description import bare_facts, facts
from mtrl.envs.registry import family_names, family_spec, get_family
from mtrl.envs.strips import strips
from mtrl.envs.task import Split
from mtrl.errors import MissingExtraError, MtrlError, UsageError
from mtrl.seeding import numpy_generator

__all__ = ["FamiliesOptions", "run"]

_LABEL = 13
_WIDEST = 100


@dataclass(frozen=True, kw_only=True)
class FamiliesOptions:
    """List the task families, show one with a picture of its tasks, or print tasks drawn from it.

    Tasks are printed as JSON, one per line: a file that `mtrl train --train-tasks` reads.
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """A family, or a family's TOML file; all families are listed if left out."""
    sample: int | None = None
    """Print this many tasks of it."""
    split: Split = "train"
    """Which tasks to print."""
    picture: Path | None = None
    """Draw its tasks into this PNG file."""
    preset: str | None = None
    """The family's preset; its first if left out."""
    seed: int = 0
    """Of the tasks drawn."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "seed")
        check_positive(self, "sample")
        if self.name is None and (self.sample or self.preset or self.picture):
            raise UsageError("sample, picture and preset need a family: `mtrl families NAME ...`")
        if self.sample is not None and self.picture is not None:
            raise UsageError("sample prints tasks and picture draws them; give one of the two")


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(FamiliesOptions, arguments, command="mtrl families")
    if options.name is None:
        _list()
    elif options.picture is not None:
        _draw(options.name, options.picture, options)
    elif options.sample is None:
        _show(options.name, options)
    else:
        family = get_family(options.name, options.preset)
        for task in family.sample(
            options.sample, numpy_generator(options.seed, "tasks"), options.split
        ):
            print(task.to_json())


def _list() -> None:
    broken = 0
    for name in family_names():
        try:
            print("\n".join(_card(name, None)), end="\n\n")
        except MtrlError as error:
            # One bad package must not hide the families of the others.
            broken += 1
            print(f"mtrl: {error}", file=sys.stderr)
    if broken:
        raise MtrlError(f"{broken} families cannot be loaded")


def _show(name: str, options: FamiliesOptions) -> None:
    print("\n".join(_card(name, options.preset)))
    preset = options.preset or next(iter(family_spec(name).presets))
    print(f"\n  tasks of the preset {preset}, seed {options.seed}:")
    plain = not _can_print("▁█")
    family = get_family(name, options.preset)
    for line in strips(family, seed=options.seed, plain=plain):
        print(f"  {line}")


def _draw(name: str, path: Path, options: FamiliesOptions) -> None:
    # matplotlib and torch, which the list does without.
    from mtrl.commands.task_figures import task_picture
    from mtrl.figures import save

    figure = task_picture(get_family(name, options.preset), seed=options.seed)
    with reporting("write", path):
        save(figure, path)
    print(f"tasks of {name} drawn in {path}")


def _card(name: str, preset: str | None) -> Iterator[str]:
    """Yield the lines that describe one family."""
    spec = family_spec(name)
    yield f"{spec.name}: {spec.summary}"
    try:
        found: Iterable[tuple[str, str]] = list(facts(spec, get_family(name, preset)))
    except MissingExtraError as error:
        found = bare_facts(spec, error)
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    for label, text in found:
        yield from textwrap.wrap(
            text,
            max(width, 4 * _LABEL),
            initial_indent=f"  {label:{_LABEL}}",
            subsequent_indent=" " * (_LABEL + 4),
            break_on_hyphens=False,
        )


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
