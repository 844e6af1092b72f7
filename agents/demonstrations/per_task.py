"""Demonstrations for several tasks of a family: a directory with a file for each and a manifest."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl.agents.demonstrations.data import Demonstrations
from mtrl.agents.demonstrations.files import read_demonstrations, write_demonstrations
from mtrl.agents.demonstrations.recording import record
from mtrl.agents.demonstrations.spaces import require_space
from mtrl.agents.experts.expert import Expert
from mtrl.durable import replace_file, reporting
from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task
from mtrl.errors import MtrlError, UsageError
from mtrl.seeding import numpy_generator

__all__ = ["TaskDemonstrations", "record_tasks"]

FORMAT = "mtrl-task-demonstrations"
VERSION = 1
MANIFEST = "manifest.json"


class TaskDemonstrations(Mapping[Task, Demonstrations]):
    """Demonstrations by task, in the order in which they were given.

    Raises:
        UsageError: there are none, their tasks are of several families, or their spaces differ.
    """

    def __init__(self, sets: Mapping[Task, Demonstrations]) -> None:
        if not sets:
            raise UsageError("the demonstrations are of no task; record those of at least one")
        families = {task.family for task in sets}
        if len(families) > 1:
            raise UsageError(
                f"the tasks are of several families, {sorted(families)}; give one set each"
            )
        self._sets = dict(sets)
        first = next(iter(self._sets.values()))
        for task, demos in self._sets.items():
            for name in ("observation_space", "action_space"):
                if getattr(demos, name) != getattr(first, name):
                    raise UsageError(
                        f"task {task.id}: its {name} is {getattr(demos, name)}, and that of the "
                        f"first task {getattr(first, name)}; record all in one family"
                    )

    @property
    def family(self) -> str:
        """Of the tasks."""
        return next(iter(self._sets)).family

    def __getitem__(self, task: Task) -> Demonstrations:
        return self._sets[task]

    def __iter__(self) -> Iterator[Task]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)

    def write(self, directory: Path | str) -> None:
        """Write all of them: `<task id>.safetensors`, and last the manifest that lists the tasks.

        Raises:
            MtrlError: the disk refuses.
        """
        directory = Path(directory)
        with reporting("write", directory):
            directory.mkdir(parents=True, exist_ok=True)
        for task, demos in self._sets.items():
            write_demonstrations(demos, _file(directory, task))
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "family": self.family,
            "tasks": [
                {"task": task.to_json(), "episodes": demos.episodes, "steps": len(demos)}
                for task, demos in self._sets.items()
            ],
        }
        replace_file(directory / MANIFEST, json.dumps(manifest, indent=2).encode())

    @classmethod
    def read(cls, directory: Path | str, family: TaskFamily | None = None) -> "TaskDemonstrations":
        """Return what `write` wrote.

        Args:
            directory: of the manifest.
            family: that they are for; None takes any.

        Raises:
            MtrlError: a file is missing or damaged, or says something else than the manifest.
            UsageError: they are of another family, or of other spaces.
        """
        directory = Path(directory)
        entries = _manifest(directory)
        tasks = [Task.from_json(entry["task"]) for entry in entries]
        sets = {task: read_demonstrations(_file(directory, task)) for task in tasks}
        for task, entry in zip(tasks, entries, strict=True):
            counts = (sets[task].episodes, len(sets[task]))
            if counts != (entry["episodes"], entry["steps"]):
                raise MtrlError(
                    f"{_file(directory, task)}: has {counts[0]} episodes and {counts[1]} steps, and by "
                    f"{MANIFEST} {entry['episodes']} and {entry['steps']}; record it again"
                )
        found = cls(sets)
        if family is not None:
            found.require(family)
        return found

    def require(self, family: TaskFamily) -> None:
        """Refuse another family than that of the tasks.

        Raises:
            UsageError: its name or its spaces differ.
        """
        if family.name != self.family:
            raise UsageError(
                f"the demonstrations are of family {self.family!r}, and this is {family.name!r}"
            )
        first = next(iter(self._sets.values()))
        require_space("observation_space", first.observation_space, family.observation_space)
        require_space("action_space", first.action_space, family.action_space)


def record_tasks(
    family: TaskFamily,
    tasks: Sequence[Task],
    expert_of: Callable[[Task], Expert],
    *,
    episodes: int,
    seed: int,
) -> TaskDemonstrations:
    """Return `episodes` episodes of every task, each by the expert of that task.

    What is recorded of a task depends on the seed and the task, not on the other tasks.

    Args:
        family: makes the environments.
        tasks: each once.
        expert_of: from a task to its expert, such as `mtrl.agents.experts.scripted_expert`.
        episodes: of each task.
        seed: of the environments' first states.

    Raises:
        UsageError: there is no task, or one is there twice, or what `record` refuses.
    """
    if len(set(tasks)) < len(tasks):
        raise UsageError("tasks has the same task twice; list each once")

    def recorded(task: Task) -> Demonstrations:
        own: Any = numpy_generator(seed, f"demonstrations {task.id}").integers(2**31)
        return record(expert_of(task), family.make(task), episodes=episodes, seed=int(own))

    return TaskDemonstrations({task: recorded(task) for task in tasks})


def _file(directory: Path, task: Task) -> Path:
    return directory / f"{task.id}.safetensors"


def _manifest(directory: Path) -> list[dict[str, Any]]:
    path = directory / MANIFEST
    with reporting("read", path):
        data = path.read_bytes()
    try:
        manifest = json.loads(data)
        known = manifest["format"] == FORMAT and manifest["version"] == VERSION
        entries = [
            {key: entry[key] for key in ("task", "episodes", "steps")}
            for entry in manifest["tasks"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MtrlError(f"{path}: no manifest of demonstrations ({error!r})") from error
    if not known:
        raise MtrlError(f"{path}: its format is not {FORMAT} {VERSION}; record the tasks again")
    return entries
