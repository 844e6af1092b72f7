"""Families whose tasks are named numbers, drawn from ranges that the user may choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from mtrl.envs.distributions import Distribution, Interval, RangeSpec, distribution_of
from mtrl.envs.parameters import ParameterSpace, SplitRule
from mtrl.envs.simulation import Simulation
from mtrl.envs.task import Split, Task
from mtrl.errors import UsageError

__all__ = ["RangedFamily"]


@dataclass(frozen=True, kw_only=True)
class RangedFamily(Simulation):
    """A family with named parameters.

    Args:
        ranges: bounds by parameter name; a parameter without is constant at its default.
        split_rule: how train and test tasks differ (`mtrl.envs.parameters`).
        held_out: intervals of test tasks by name, for `interpolation` and `extrapolation`.

    Raises:
        UsageError: a parameter that the family lacks, one that must be positive and is not, or an
            impossible split.
    """

    ranges: Mapping[str, RangeSpec] = field(default_factory=dict)
    split_rule: SplitRule = "random"
    held_out: Mapping[str, Sequence[Interval]] = field(default_factory=dict)

    defaults: ClassVar[Mapping[str, float]]
    units: ClassVar[Mapping[str, str]]
    positive: ClassVar[frozenset[str]] = frozenset()
    """Parameters that divide or have no meaning at 0 and below."""

    def __post_init__(self) -> None:
        for name in self.ranges:
            if name not in self.defaults:
                raise UsageError(
                    f"task family {self.name!r} has no parameter {name!r}; "
                    f"there are {', '.join(self.defaults)}"
                )
        for name in self.positive:
            if not self.bounds(name)[0] > 0:
                raise UsageError(
                    f"task family {self.name!r}: {name} goes down to {self.bounds(name)[0]}; "
                    "it must be positive"
                )
        if self.horizon < 1:
            raise UsageError(f"horizon of {self.name!r} is {self.horizon}; it must be at least 1")
        _ = self.parameters  # refuses impossible ranges and splits

    @cached_property
    def parameters(self) -> ParameterSpace:
        """The distribution of the tasks."""
        ranges: dict[str, Distribution] = {
            name: distribution_of(self.ranges.get(name, value))
            for name, value in self.defaults.items()
        }
        held_out = {
            name: tuple((float(low), float(high)) for low, high in intervals)
            for name, intervals in self.held_out.items()
        }
        return ParameterSpace(self.name, ranges, self.split_rule, held_out, strict=True)

    def bounds(self, name: str) -> Interval:
        """Return the lowest and highest value of parameter `name`."""
        return distribution_of(self.ranges.get(name, self.defaults[name])).support

    def task(self, split: Split = "train", **params: float) -> Task:
        """Return the task with these parameters, and the default values for the others.

        A parameter that is constant in this family has that constant instead.
        """
        constants = {name: self.bounds(name) for name in self.ranges}
        fixed = {name: low for name, (low, high) in constants.items() if low == high}
        task = Task(family=self.name, params={**self.defaults, **fixed, **params}, split=split)
        self.parameters.check(task)
        return task
