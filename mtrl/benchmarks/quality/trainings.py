"""Training and testing the entries of a comparison; what was done before is found and not repeated."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtrl.benchmarks.quality.learners import Config
from mtrl.benchmarks.quality.plan import Entry
from mtrl.config import to_dict
from mtrl.durable import replace_file, reporting
from mtrl.envs.task import Task
from mtrl.errors import MtrlError
from mtrl.evaluation.trained import Scores, TrainedRun, load_run
from mtrl.meta.reinforcement import ReinforcementConfig, build_policy, seen_episodes
from mtrl.meta.supervised import SupervisedConfig, build_regressor, seen_points
from mtrl.metrics import read_metrics
from mtrl.reproduce.trainings import Training
from mtrl.runs import METRICS
from mtrl.seeding import torch_generator

__all__ = ["Curve", "Tested", "tested", "training_curve", "training_of"]


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What an entry reached.

    Attributes:
        tasks: that it was tested on.
        scores: (tasks, steps + 1); not finite where adaptation diverged.
    """

    tasks: Sequence[Task]
    scores: Scores


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


def tested(entry: Entry, training: Training | None, folder: Path) -> Tested:
    """Return the scores of an entry, measured once and kept beside its training.

    Raises:
        MtrlError: the training has no good checkpoint, or a file is damaged.
    """
    config = entry.contender.config
    run = untrained(config) if training is None else load_run(training.directory)
    evaluation = run.complete(entry.evaluation)
    tasks = run.unseen_tasks(evaluation)
    content = json.dumps(
        [to_dict(config), asdict(evaluation), entry.contender.adapting, run.iteration],
        sort_keys=True,
    )
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    place = folder if training is None else training.directory
    path = place / f"scores-{entry.family}-{entry.learner}-{entry.seed}-{digest}.json"
    if not path.exists():
        scores = run.raw_scores(tasks, evaluation, adapting=entry.contender.adapting)
        with reporting("write", path):
            place.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(scores.tolist()).encode())
    return Tested(tasks=tasks, scores=_read(path, (len(tasks), (evaluation.steps or 0) + 1)))


def untrained(config: Config) -> TrainedRun:
    """Return what a run with these settings starts from."""
    generator = torch_generator(config.seed, "initial")
    if isinstance(config, SupervisedConfig):
        meta = build_regressor(config, seen_points(config)).initial(generator)
    else:
        meta = build_policy(config, seen_episodes(config)).initial(generator)
    return TrainedRun(directory=Path("untrained"), config=config, meta=meta, iteration=0)


def training_curve(training: Training) -> Curve:
    """Return what the run logged while it trained.

    Raises:
        MtrlError: its metrics are missing or damaged.
    """
    metrics = read_metrics(training.directory / METRICS)
    reinforced = isinstance(training.config, ReinforcementConfig)
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


def _read(path: Path, shape: tuple[int, int]) -> Scores:
    with reporting("read", path):
        content = path.read_bytes()
    try:
        scores = np.array(json.loads(content), np.float64)
        if scores.shape != shape:
            raise ValueError(f"scores of shape {scores.shape}, not {shape}")
    except (ValueError, TypeError) as error:
        raise MtrlError(f"{path} is damaged ({error}); delete it, and the test is repeated") from (
            error
        )
    return scores
