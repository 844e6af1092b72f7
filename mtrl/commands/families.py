"""`mtrl families`: list the task families, show one, or print tasks drawn from it."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from mtrl.commands.parsing import parse
from mtrl.config import check_at_least, check_positive
from mtrl.envs.family import FewShotFamily, TaskFamily
from mtrl.envs.parameters import ParameterSpace
from mtrl.envs.registry import family_names, family_spec, get_family
from mtrl.envs.task import Split
from mtrl.errors import MtrlError, UsageError
from mtrl.seeding import numpy_generator

__all__ = ["FamiliesOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class FamiliesOptions:
    """List the task families, show one, or print tasks drawn from it as JSON, one per line.

    A file of such lines is what `mtrl train --train-tasks` reads.
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """A family; all are listed if left out."""
    sample: int | None = None
    """Print this many tasks of it."""
    split: Split = "train"
    """Which tasks to print."""
    preset: str | None = None
    """The family's preset; its first if left out."""
    seed: int = 0
    """Of the tasks drawn."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "seed")
        check_positive(self, "sample")
        if self.name is None and (self.sample is not None or self.preset is not None):
            raise UsageError("sample and preset need a family: `mtrl families NAME ...`")


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(FamiliesOptions, arguments, command="mtrl families")
    if options.name is None:
        _list()
    elif options.sample is None:
        print("\n".join(_describe(options.name, options.preset)))
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
            print("\n".join(_describe(name, None)), end="\n\n")
        except MtrlError as error:
            # One bad package must not hide the families of the others.
            broken += 1
            print(f"mtrl: {error}", file=sys.stderr)
    if broken:
        raise MtrlError(f"{broken} families cannot be loaded")


def _describe(name: str, preset: str | None) -> Iterator[str]:
    spec, family = family_spec(name), get_family(name, preset)
    yield f"{name}: {spec.summary}"
    yield f"  presets      {', '.join(spec.presets)}"
    yield from (f"  parameter    {line}" for line in _parameters(family))
    if isinstance(family, FewShotFamily):
        yield f"  input        {family.input_size} numbers"
        yield f"  output       {family.output_size} numbers"
    else:
        yield f"  observation  {family.observation_space}"
        yield f"  action       {family.action_space}"
        yield f"  horizon      {family.horizon} steps"


def _parameters(family: TaskFamily | FewShotFamily) -> list[str]:
    """Return the task parameters, with their distributions if the family tells."""
    space = getattr(family, "parameters", None)
    if isinstance(space, ParameterSpace):
        drawn = {name: str(how).replace(", size=None", "") for name, how in space.ranges.items()}
        return [f"{name}: {how}" for name, how in drawn.items()]
    (task,) = family.sample(1, numpy_generator(0, "tasks"), "train")
    return list(task.params)
