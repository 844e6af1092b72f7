"""A task: the named parameters that tell one member of a family from another.

Tasks are values: hashable, comparable, exact through JSON, and identified by a hash that is the
same in every process and Python version, so that a run can list the tasks it used and prove that
none was used twice.
"""

import hashlib
import json
import math
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mtrl.errors import UsageError

__all__ = [
    "SPLITS",
    "Params",
    "Split",
    "Task",
    "assert_disjoint",
    "check_split",
    "params_of",
    "split_digest",
]

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Value = float | tuple[float, ...]

# Made once: `json.dumps` makes an encoder in every call that has options.
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def check_split(split: str) -> Split:
    """Return `split` if it is one of `SPLITS`.

    Raises:
        UsageError: it is not.
    """
    for known in SPLITS:
        if split == known:
            return known
    raise UsageError(f"split is {split!r}; it must be one of {', '.join(map(repr, SPLITS))}")


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"task parameter {name!r} is {value!r}; it must be a number") from None
    if not math.isfinite(number):
        raise UsageError(f"task parameter {name!r} is {number}; it must be finite")
    return number + 0.0  # -0.0 becomes 0.0: one task must not have two ids


def _value(name: str, value: Any) -> Value:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_number(name, item) for item in value)
    return _number(name, value)


class Params(Mapping[str, Value]):
    """Read-only, hashable named values, in the order of their names whatever order they came in.

    Raises:
        UsageError: a value is not a finite number or a sequence of them; the message names it.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {name: _value(name, values[name]) for name in sorted(values)}

    @classmethod
    def drawn(cls, values: dict[str, Value]) -> "Params":
        """Return these parameters unchecked: finite floats by sorted names, as a family draws."""
        params = cls.__new__(cls)
        params._values = values
        return params

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    # The inherited views would call `__getitem__` for every value, which batches of tasks feel.
    def keys(self) -> KeysView[str]:
        """Return the names, sorted."""
        return self._values.keys()

    def values(self) -> ValuesView[Value]:
        """Return the values in the order of their names."""
        return self._values.values()

    def items(self) -> ItemsView[str, Value]:
        """Return pairs of a name and its value."""
        return self._values.items()

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: `params` (units in the family's documentation) and the split that it belongs to.

    `params` may be given as any mapping from names to numbers or sequences of numbers.
    """

    family: str
    params: Mapping[str, Value]
    split: Split = "train"

    def __post_init__(self) -> None:
        check_split(self.split)
        if not isinstance(self.params, Params):
            object.__setattr__(self, "params", Params(self.params))

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits that family and parameters determine; the split plays no part."""
        canonical = _canonical([self.family, dict(self.params)])
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the task as one line of JSON, from which `from_json` makes an equal task."""
        fields = {"family": self.family, "params": dict(self.params), "split": self.split}
        return json.dumps(fields, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """Return the task that `to_json` wrote.

        Raises:
            UsageError: the text is not such a task.
        """
        try:
            fields = json.loads(text)
            family, params, split = fields["family"], fields["params"], fields["split"]
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"not a task in JSON ({error!r}): {text[:80]!r}") from None
        if not isinstance(params, dict):
            raise UsageError(f"a task's 'params' must be a JSON object, got {params!r}")
        return cls(family=family, params=params, split=split)


def params_of(tasks: Sequence[Task]) -> dict[str, NDArray[np.float64]]:
    """Stack parameters: one float64 array per name, shaped (tasks,) or (tasks, size).

    Raises:
        UsageError: there is no task, or they differ in family, parameter names or sizes.
    """
    if not tasks:
        raise UsageError("tasks is empty; at least one task is needed")
    first = tasks[0]
    for task in tasks:
        if task.family != first.family or task.params.keys() != first.params.keys():
            raise UsageError(f"tasks of different kinds cannot be stacked: {first} and {task}")
    try:
        columns = zip(*(task.params.values() for task in tasks), strict=True)
        stacked = zip(first.params, columns, strict=True)
        return {name: np.array(column, np.float64) for name, column in stacked}
    except ValueError:
        raise UsageError(f"tasks of {first.family!r} have parameters of unequal sizes") from None


def split_digest(tasks: Iterable[Task]) -> str:
    """Return 16 hexadecimal digits for the set of `tasks`: order and repetition do not matter."""
    ids = sorted({task.id for task in tasks})
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def assert_disjoint(train: Iterable[Task], test: Iterable[Task]) -> None:
    """Check that no task is in both sets, whatever split it says it belongs to.

    Raises:
        UsageError: a task is in both; the message names it.
    """
    test_by_id = {task.id: task for task in test}
    for task in train:
        if task.id in test_by_id:
            raise UsageError(
                f"a test task in training: {task.id} of family {task.family!r}, {task.params}; "
                "draw the two sets with split='train' and split='test'"
            )
