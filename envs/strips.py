"""How a family's tasks are spread, as text: one strip of blocks per varying number and split."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.family import FewShotFamily, TaskFamily
from mtrl.envs.task import SPLITS, Split, params_of
from mtrl.seeding import numpy_generator

__all__ = ["sampled_numbers", "strips"]

_BLOCKS = " ▁▂▃▄▅▆▇█"
_PLAIN = " .:-=+*%@"
_COMPONENTS = 2
"""Parameters of more numbers than this are shown with all of their numbers together."""


@runtime_checkable
class SupportsSampleParams(Protocol):
    """A family that draws many tasks fast."""

    def sample_params(
        self, n: int, rng: np.random.Generator, split: Split
    ) -> Mapping[str, NDArray[Any]]:
        """Draw what `sample` draws, as parameters stacked by name."""


def sampled_numbers(
    family: TaskFamily | FewShotFamily, split: Split, *, tasks: int, seed: int
) -> dict[str, NDArray[Any]]:
    """Return the numbers of sampled tasks by label: every varying one, constants left out.

    A parameter of several numbers has them under `name[0]`, `name[1]`; where there are more than
    two, all are under `name`.
    """
    rng = numpy_generator(seed, f"{split} tasks")
    if isinstance(family, SupportsSampleParams):
        drawn: Mapping[str, NDArray[Any]] = family.sample_params(tasks, rng, split)
    else:
        drawn = params_of(family.sample(tasks, rng, split))
    numbers: dict[str, NDArray[Any]] = {}
    for name, values in drawn.items():
        if values.ndim == 1:
            numbers[name] = values
        elif values.shape[1] > _COMPONENTS:
            numbers[name] = values.ravel()
        else:
            numbers |= {f"{name}[{i}]": column for i, column in enumerate(values.T)}
    space = getattr(family, "parameters", None)
    constant = {
        name for name, how in getattr(space, "ranges", {}).items() if how.constant is not None
    }
    return {
        label: values for label, values in numbers.items() if label.split("[")[0] not in constant
    }


def strips(
    family: TaskFamily | FewShotFamily,
    *,
    seed: int = 0,
    tasks: int = 8000,
    width: int = 40,
    plain: bool = False,
) -> Iterator[str]:
    """Yield a line per varying number and split: how often sampled tasks have it where.

    A block's height is the number of tasks in its bin, in eighths of the fullest bin of its line; a
    bin that is not empty is never blank. Bins span the numbers of both splits, whose ends stand
    beside them. Families whose splits are the same have one line for both.

    Args:
        family: whose tasks.
        seed: of the tasks.
        tasks: how many of each split.
        width: in characters, of a strip.
        plain: draw with ASCII characters.
    """
    shown = SPLITS[:1] if family.splits_overlap else SPLITS
    drawn = {split: sampled_numbers(family, split, tasks=tasks, seed=seed) for split in shown}
    labels = list(drawn["train"])
    longest = max((len(label) for label in labels), default=0)
    for label in labels:
        values = [drawn[split][label] for split in shown]
        low, high = min(v.min() for v in values), max(v.max() for v in values)
        for split, numbers in zip(shown, values, strict=True):
            counts = np.histogram(numbers, bins=width, range=(low, high))[0]
            bar = _bar(counts, _PLAIN if plain else _BLOCKS)
            head = label if split == "train" else ""
            kind = "both" if family.splits_overlap else split
            yield f"{head:{longest}}  {kind:5}  {low:>8.3g} |{bar}| {high:.3g}"


def _bar(counts: NDArray[np.int64], heights: str) -> str:
    levels = np.ceil(counts / max(counts.max(), 1) * (len(heights) - 1)).astype(int)
    return "".join(heights[level] for level in levels)
