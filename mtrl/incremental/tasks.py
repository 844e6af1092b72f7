"""The sequence of a run, its environments, its agent and its scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from mtrl.agents.incremental import EpisodeScorer, IncrementalRunner, TaskSequence
from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.envs.alternating import AlternatingVecEnv
from mtrl.envs.family import TaskFamily
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.family_files import is_family_file
from mtrl.incremental.config import IncrementalConfig, ListedTask
from mtrl.manifest import Manifest
from mtrl.meta.task_source import read_tasks
from mtrl.multitask.tasks import task_names
from mtrl.runs import Run
from mtrl.seeding import numpy_generator

__all__ = [
    "Learnt",
    "build_agent",
    "check_plan",
    "families_of",
    "kept_tasks",
    "read_sequence",
    "scorer",
    "sequence_env",
    "task_sequence",
    "tasks_of",
]

_DRAWS = 100
"""Tasks drawn for each one wanted before a family counts as having too few."""


@dataclass(frozen=True)
class Learnt:
    """A task of a run.

    Attributes:
        name: in curves and in the performance matrix.
        task: to be learnt.
        bounds: the returns that a scaled score calls 0 and 1, if they were given.
    """

    name: str
    task: Task
    bounds: tuple[float, float] | None = None


def families_of(config: IncrementalConfig) -> dict[str, Any]:
    """Return the families that `config` names, by name.

    Raises:
        UsageError: there is no such family, preset or argument, or it has no environments to train in.
    """
    found: dict[str, Any] = {}
    for each in config.families:
        if is_family_file(each):
            raise UsageError(
                f"family {each} is a file; a sequence takes families that are registered"
            )
        name, _, preset = each.partition(":")
        options = {
            option.partition(".")[2]: value
            for option, value in config.family_options.items()
            if option.partition(".")[0] == name
        }
        family = get_family(name, preset or None, **options)
        if not (isinstance(family, TaskFamily) and hasattr(family, "make_sb3")):
            raise UsageError(
                f"family {name!r} has no environments for Stable-Baselines3; choose one that "
                "`mtrl families` lists with episodes"
            )
        found[name] = family
    return found


def tasks_of(config: IncrementalConfig, families: Mapping[str, Any]) -> list[Learnt]:
    """Return the tasks in the order in which they are learnt: listed, of the file, or drawn.

    Raises:
        UsageError: a task that its family refuses, one of the test split or of no family here, two that are
            the same, or a family with too few.
    """
    if config.tasks:
        found = [_listed(name, each, families) for name, each in config.tasks.items()]
    elif config.task_file is not None:
        tasks = read_tasks(config.task_file)
        found = [Learnt(n, t) for n, t in zip(task_names(tasks), tasks, strict=True)]
    else:
        found = _drawn(config, families)
    names: dict[str, str] = {}
    for each in found:
        _check(each, families)
        if each.task.id in names:
            raise UsageError(
                f"{names[each.task.id]} and {each.name} are the same task, {dict(each.task.params)}; "
                "list it once, and let it return by rounds"
            )
        names[each.task.id] = each.name
    return found


def _listed(name: str, listed: ListedTask, families: Mapping[str, Any]) -> Learnt:
    family = families[listed.family]
    try:
        # Families whose parameters have usual values fill in those that are left out.
        if hasattr(family, "task"):
            task = family.task("train", **listed.params)
        else:
            task = Task(family=listed.family, params=listed.params)
            family.context(task)
    except UsageError as error:
        raise UsageError(f"task {name!r}: {error}") from error
    bounds = None
    if listed.low is not None and listed.high is not None:
        bounds = listed.low, listed.high
    return Learnt(name, task, bounds)


def _drawn(config: IncrementalConfig, families: Mapping[str, Any]) -> list[Learnt]:
    columns = [
        [Learnt(f"{name}_{i}", task) for i, task in enumerate(_different(config, family))]
        for name, family in families.items()
    ]
    return list(chain.from_iterable(zip(*columns, strict=True)))


def _different(config: IncrementalConfig, family: Any) -> list[Task]:
    rng = numpy_generator(config.seed, f"sequence of {family.name}")
    found: dict[str, Task] = {}
    for _ in range(_DRAWS):
        for task in family.sample(config.drawn - len(found), rng, "train"):
            found.setdefault(task.id, task)
        if len(found) == config.drawn:
            return list(found.values())
    raise UsageError(
        f"drawn is {config.drawn}, and family {family.name!r} has {len(found)} different tasks; ask for "
        "fewer"
    )


def _check(learnt: Learnt, families: Mapping[str, Any]) -> None:
    task = learnt.task
    if task.family not in families:
        raise UsageError(
            f"task {learnt.name} is of family {task.family!r}; families has {', '.join(families)}"
        )
    family = families[task.family]
    family.context(task)
    if task.split == "test" and not family.splits_overlap:
        raise UsageError(f"a test task in training: {learnt.name}, {task.id} of {task.family!r}")


def kept_tasks(config: IncrementalConfig, families: Mapping[str, Any], run: Run) -> list[Learnt]:
    """Return the run's tasks, which are written down in its manifest when it starts."""
    if "sequence" not in run.manifest.values:
        tasks = tasks_of(config, families)
        run.manifest.pin(sequence=[_as_json(each) for each in tasks])
    return read_sequence(run.manifest)


def read_sequence(manifest: Manifest | Mapping[str, Any]) -> list[Learnt]:
    """Return the tasks that a run's manifest names."""
    values = manifest.values if isinstance(manifest, Manifest) else manifest
    return [
        Learnt(
            each["name"],
            Task.from_json(each["task"]),
            None
            if each["bounds"] is None
            else (float(each["bounds"][0]), float(each["bounds"][1])),
        )
        for each in values["sequence"]
    ]


def _as_json(learnt: Learnt) -> dict[str, Any]:
    bounds = None if learnt.bounds is None else list(learnt.bounds)
    return {"name": learnt.name, "task": learnt.task.to_json(), "bounds": bounds}


def sequence_env(
    families: Mapping[str, Any], learnt: list[Learnt], slots: int, *, seed: int | None = None
) -> MultiTaskVecEnv:
    """Return `slots` environments that all play one task of the run at a time."""
    tasks = [each.task for each in learnt]
    used = {name: each for name, each in families.items() if any(t.family == name for t in tasks)}
    venv = AlternatingVecEnv(used, tasks, slots, seed=seed)
    names = [each.name for each in learnt]
    return MultiTaskVecEnv(venv, tasks, names=names, assign=False)


def task_sequence(config: IncrementalConfig, learnt: list[Learnt]) -> TaskSequence:
    """Return what is learnt, in order."""
    return TaskSequence(
        order=(config.order or tuple(each.name for each in learnt)) * config.rounds,
        steps=(config.steps_per_task,),
        method=config.method,
        switch=config.switch,
        seed=config.seed,
    )


def scorer(
    config: IncrementalConfig,
    families: Mapping[str, Any],
    learnt: list[Learnt],
    *,
    episodes: int | None = None,
    seed: int | None = None,
) -> EpisodeScorer:
    """Return what scores an agent on each task, by the same episodes at every call."""
    chosen = config.seed if seed is None else seed
    first = int(numpy_generator(chosen, "evaluation").integers(2**31))
    env = sequence_env(families, learnt, episodes or config.eval_episodes)
    bounds = [each.bounds for each in learnt]
    known = [each for each in bounds if each is not None]
    return EpisodeScorer(
        env,
        score=config.score,
        seed=first,
        bounds=known if len(known) == len(bounds) else None,
        actions=config.eval_actions,
    )


def build_agent(config: IncrementalConfig, env: MultiTaskVecEnv) -> BaseAlgorithm:
    """Return the agent that `config` describes; this seeds the global streams, as its algorithms do.

    Raises:
        UsageError: settings that do not go together.
    """
    policy = {"network": config.network.network()}
    return config.algorithm.build(env, policy, seed=config.seed, device=config.device)


def check_plan(config: IncrementalConfig) -> None:
    """Check that `config` can be carried out.

    Raises:
        UsageError: it cannot.
    """
    families = families_of(config)
    learnt = tasks_of(config, families)
    agent = build_agent(config, sequence_env(families, learnt, config.envs))
    IncrementalRunner(agent, task_sequence(config, learnt), scorer(config, families, learnt))
