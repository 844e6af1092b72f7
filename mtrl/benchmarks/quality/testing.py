"""Testing the entries of a comparison; what was done before is found and not repeated."""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mtrl.benchmarks.quality.plan import Entry
from mtrl.benchmarks.quality.step_sizes import Search, search_step_size, with_step_size
from mtrl.config import to_dict
from mtrl.durable import replace_file, reporting
from mtrl.envs.task import Task
from mtrl.errors import MtrlError
from mtrl.evaluation.trained import EvaluationSettings, Scores, TrainedRun, load_run
from mtrl.meta.pearl.config import PearlConfig
from mtrl.meta.reinforcement import ReinforcementConfig, build_policy, seen_episodes
from mtrl.meta.supervised import SupervisedConfig, build_regressor, seen_points
from mtrl.reproduce.experiment import Config
from mtrl.reproduce.trainings import Training
from mtrl.seeding import torch_generator

__all__ = ["Tested", "tested"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What an entry reached.

    Attributes:
        tasks: that it was tested on.
        scores: (tasks, steps + 1); not finite where adaptation diverged.
        search: how its step size was chosen, if it was.
    """

    tasks: Sequence[Task]
    scores: Scores
    search: Search | None


def tested(entry: Entry, training: Training | None, folder: Path) -> Tested:
    """Return the scores of an entry, measured once and kept beside its training.

    Raises:
        MtrlError: the training has no good checkpoint, a file is damaged, or no step size converges.
    """
    config = entry.contender.config
    run = _untrained(config) if training is None else load_run(training.directory)
    evaluation = run.complete(entry.evaluation)
    place = folder if training is None else training.directory
    how = [asdict(evaluation), run.iteration]
    search = None
    if entry.step_sizes:
        grid, tasks = entry.step_sizes, entry.validation_tasks
        search = _kept(
            place / _file("step-size", entry, to_dict(config), how, grid, tasks),
            lambda: search_step_size(run, grid, evaluation, tasks).to_dict(),
            Search.from_dict,
        )
        _say(f"{entry.name}: step size {search.chosen}, of {len(search.tried)} tried")
    taken = run if search is None else with_step_size(run, search.chosen)
    unseen = run.unseen_tasks(evaluation)
    shape = (len(unseen), (evaluation.steps or 0) + 1)
    adapting = entry.contender.adapting
    scores = _kept(
        place / _file("scores", entry, to_dict(taken.config), how, adapting),
        lambda: _measured(entry.name, taken, unseen, evaluation, adapting).tolist(),
        lambda values: _table(values, shape),
    )
    return Tested(tasks=unseen, scores=scores, search=search)


def _measured(
    name: str,
    run: TrainedRun,
    tasks: Sequence[Task],
    evaluation: EvaluationSettings,
    adapting: bool,
) -> Scores:
    _say(f"{name}: testing on {len(tasks)} tasks")
    if not isinstance(run.config, PearlConfig):
        return run.raw_scores(tasks, evaluation, adapting=adapting)
    # The episodes of a round share a belief. Trials of one episode a round, several of each task, are what
    # other learners' episodes are: they do not see each other.
    trials = evaluation.episodes or 1
    repeated = [task for task in tasks for _ in range(trials)]
    one = replace(evaluation, episodes=1)
    scores = run.raw_scores(repeated, one, adapting=adapting)
    means: Scores = scores.reshape(len(tasks), trials, -1).mean(1)
    return means


def _untrained(config: Config) -> TrainedRun:
    """Return what a run with these settings starts from."""
    generator = torch_generator(config.seed, "initial")
    if isinstance(config, SupervisedConfig):
        meta = build_regressor(config, seen_points(config)).initial(generator)
    else:
        assert isinstance(config, ReinforcementConfig), "learners within trials are trained"
        meta = build_policy(config, seen_episodes(config)).initial(generator)
    return TrainedRun(directory=Path("untrained"), config=config, meta=meta, iteration=0)


def _file(what: str, entry: Entry, *content: Any) -> str:
    """Return the name of the file for what depends on `content`."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return f"{what}-{entry.family}-{entry.learner}-{entry.seed}-{digest}.json"


def _kept(path: Path, make: Callable[[], Any], read: Callable[[Any], T]) -> T:
    """Return what `read` makes of the JSON values in a file; without a file, `make` them and keep them there."""
    if not path.exists():
        values = make()
        with reporting("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(values).encode())
    with reporting("read", path):
        content = path.read_bytes()
    try:
        return read(json.loads(content))
    except (ValueError, TypeError, KeyError) as error:
        raise MtrlError(f"{path} is damaged ({error}); delete it, and the test is repeated") from (
            error
        )


def _table(values: Any, shape: tuple[int, int]) -> Scores:
    scores = np.array(values, np.float64)
    if scores.shape != shape:
        raise ValueError(f"scores of shape {scores.shape}, not {shape}")
    return scores


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
