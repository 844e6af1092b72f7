"""The trainings of a comparison: each a run directory, and in it the scores of its final evaluation.

A specialist's directory is named by what decides its numbers, so that a folder of them serves many
comparisons.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.compare.plan import Kind, Plan, blind_config, specialist_config, unshared_config
from mtrl.config import differing_fields, from_toml, to_dict
from mtrl.durable import replace_file, reporting
from mtrl.envs.task import Task
from mtrl.errors import MtrlError
from mtrl.family_files import family_digest, is_family_file
from mtrl.multitask.config import MultiTaskConfig
from mtrl.multitask.tasks import task_names
from mtrl.runs import CONFIG, MANIFEST

__all__ = ["Scores", "Training", "specialist_digest", "specialists_of", "trainings_of"]

_NO_MATTER = (
    "task_file",
    "tasks",
    "log_every",
    "evaluate_every",
    "eval_episodes",
    "checkpoint_every",
    "device",
)
"""Settings that decide what is seen of a training and not what it makes; tasks count by themselves."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an agent reached.

    Attributes:
        returns: (tasks, episodes), of the final evaluation.
        random: the same of random actions; only specialists have it.
        steps: environment steps that the agent was trained for.
        seconds: that they took.
        commit: of the code that finished it.
    """

    returns: NDArray[np.float64]
    random: NDArray[np.float64] | None
    steps: int
    seconds: float
    commit: str

    def to_json(self, tasks: Sequence[Task]) -> str:
        """Return the scores on `tasks` as JSON."""
        values = {
            "tasks": [task.id for task in tasks],
            "returns": self.returns.tolist(),
            "random": None if self.random is None else self.random.tolist(),
            "steps": self.steps,
            "seconds": self.seconds,
            "commit": self.commit,
        }
        return json.dumps(values)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One agent of a comparison, with one seed.

    Attributes:
        name: what progress and errors call it.
        kind: of agent.
        config: its settings.
        tasks: that it is trained on and plays.
        directory: its run directory.
        episodes: of the final evaluation, on each task.
    """

    name: str
    kind: Kind
    config: MultiTaskConfig
    tasks: tuple[Task, ...]
    directory: Path
    episodes: int

    @property
    def scores_file(self) -> Path:
        """Return where the scores are, once there are any."""
        return self.directory / f"scores-{self.episodes}.json"

    @cached_property
    def stored_config(self) -> MultiTaskConfig:
        """Return the settings that the run directory was started with; ours if it was not.

        They may differ in what does not matter.

        Raises:
            MtrlError: they differ in what does.
        """
        if not (self.directory / MANIFEST).exists():
            return self.config
        stored = from_toml(MultiTaskConfig, self.directory / CONFIG)
        ours, theirs = (to_dict(replace(each, task_file=None)) for each in (self.config, stored))
        for name in differing_fields(MultiTaskConfig, theirs, ours):
            same_file = name == "family" and is_family_file(self.config.family)
            if name not in _NO_MATTER and not same_file:
                raise MtrlError(
                    f"{self.directory}: {name} differs from that of {self.name}, whose place it is; "
                    "delete the directory or use another one"
                )
        return stored

    def scores(self) -> Scores | None:
        """Return the scores, or None while the training is not finished.

        Raises:
            MtrlError: their file is damaged, or of other tasks.
        """
        if not self.scores_file.exists():
            return None
        with reporting("read", self.scores_file):
            content = self.scores_file.read_bytes()
        try:
            return self._parsed(json.loads(content))
        except (ValueError, KeyError, TypeError) as error:
            raise MtrlError(
                f"{self.scores_file} is damaged ({error!r}); delete it, and the evaluation is repeated"
            ) from error

    def _parsed(self, values: Any) -> Scores:
        if values["tasks"] != [task.id for task in self.tasks]:
            raise ValueError(f"scores of the tasks {values['tasks']}")
        returns, random = (
            None if values[name] is None else np.array(values[name], np.float64)
            for name in ("returns", "random")
        )
        shape = (len(self.tasks), self.episodes)
        for found in (returns, random):
            if found is not None and (found.shape != shape or not np.isfinite(found).all()):
                raise ValueError(f"scores must be finite and of shape {shape}, got {found.shape}")
        if returns is None:
            raise ValueError("no returns")
        steps, seconds, commit = values["steps"], values["seconds"], values["commit"]
        return Scores(
            returns=returns,
            random=random,
            steps=int(steps),
            seconds=float(seconds),
            commit=str(commit),
        )


def specialist_digest(config: MultiTaskConfig, task: Task) -> str:
    """Return 8 hexadecimal digits for all that decides the numbers of the specialist of `task`."""
    settings = {name: value for name, value in to_dict(config).items() if name not in _NO_MATTER}
    if is_family_file(config.family):
        settings["family"] = family_digest(config.family)
    content = json.dumps([task.id, settings], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def specialists_of(plan: Plan, folder: Path) -> list[Training]:
    """Return the specialists, task by task and each by seed, kept in `folder`."""
    return [
        _specialist(plan, folder.resolve(), task, name, seed)
        for name, task in zip(task_names(list(plan.tasks)), plan.tasks, strict=True)
        for seed in plan.all_seeds
    ]


def _specialist(plan: Plan, folder: Path, task: Task, name: str, seed: int) -> Training:
    task_file = folder / f"{task.id}.jsonl"
    config = specialist_config(plan.settings, len(plan.tasks), task_file, seed)
    return Training(
        name=f"specialist of {name}, seed {seed}",
        kind="specialists",
        config=config,
        tasks=(task,),
        directory=folder / f"{task.id}-seed-{seed}-{specialist_digest(config, task)}",
        episodes=plan.episodes,
    )


def trainings_of(plan: Plan, directory: Path, specialists: Path) -> list[Training]:
    """Return all trainings, the long ones first, so that no process idles at the end.

    Writes the files of their tasks.

    Args:
        plan: what is compared.
        directory: of the comparison.
        specialists: folder of the specialists.
    """
    task_file = directory.resolve() / "tasks.jsonl"
    settings = replace(plan.settings, task_file=task_file, tasks=len(plan.tasks))
    configs: Mapping[Kind, Any] = {
        "shared": lambda: settings,
        "unshared": lambda: unshared_config(settings),
        "blind": lambda: blind_config(settings),
    }
    found = [
        Training(
            name=f"{kind} agent, seed {seed}",
            kind=kind,
            config=replace(make(), seed=seed),
            tasks=plan.tasks,
            directory=directory / f"{kind}-seed-{seed}",
            episodes=plan.episodes,
        )
        for kind, make in configs.items()
        if kind in plan.kinds
        for seed in plan.all_seeds
    ]
    if "specialists" in plan.kinds:
        found += specialists_of(plan, specialists)
    for training in found:
        _write_tasks(training)
    return found


def _write_tasks(training: Training) -> None:
    path = training.config.task_file
    assert path is not None
    if not path.exists():
        with reporting("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{task.to_json()}\n" for task in training.tasks)
        replace_file(path, lines.encode())
