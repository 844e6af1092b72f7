"""The trainings that the entries of a comparison need, and what each logged while it ran."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtrl.benchmarks.quality.plan import Entry
from mtrl.meta.supervised import SupervisedConfig
from mtrl.metrics import read_metrics
from mtrl.reproduce.trainings import Training
from mtrl.runs import METRICS

__all__ = ["Curve", "training_curve", "training_of"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How the score on a run's own held-out tasks rose while it trained.

    Attributes:
        done: (points,), environment steps, or meta-iterations where there are none.
        scores: (points, steps + 1), means over the tasks after 0, 1, ... adaptation steps.
    """

    done: NDArray[np.float64]
    scores: NDArray[np.float64]


def training_of(entry: Entry, folder: Path, code: Mapping[str, str]) -> Training | None:
    """Return the training that an entry needs, in `folder`; None if it is not trained.

    Entries that differ in how they are tested only share one.
    """
    if not entry.contender.trained:
        return None
    config = entry.contender.config
    name = f"{entry.family}, {config.learner.name}, seed {entry.seed}"
    return Training(name=name, config=config, folder=folder, code=code)


def training_curve(training: Training) -> Curve:
    """Return what the run logged while it trained.

    Raises:
        MtrlError: its metrics are missing or damaged.
    """
    metrics = read_metrics(training.directory / METRICS)
    reinforced = not isinstance(training.config, SupervisedConfig)
    kind = "return" if reinforced else "error"
    columns = [
        metrics[tag]
        for tag in sorted(
            (tag for tag in metrics if tag.startswith(f"adapt/{kind}_after_")),
            key=lambda tag: int(tag.rpartition("_")[2]),
        )
    ]
    steps = columns[0].steps
    if reinforced:
        taken = metrics["meta/env_steps"]
        at = dict(zip(taken.steps, taken.values, strict=True))
        done = np.array([at[step] for step in steps])
    else:
        done = np.array(steps, np.float64)
    return Curve(done=done, scores=np.array([column.values for column in columns]).T)
