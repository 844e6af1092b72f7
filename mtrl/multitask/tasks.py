"""The tasks of a run, their environments, and the agent on them."""

from typing import Any, Protocol, runtime_checkable

from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv

from mtrl.agents.multitask.algorithm import MultiTaskAlgorithm
from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.multitask.statistics import RewardScaling
from mtrl.agents.multitask.unlisted import UnlistedVecEnv
from mtrl.agents.objectives import TaskObjective
from mtrl.curricula import over_box
from mtrl.envs.curricula import solved_at
from mtrl.envs.curricula.sb3_source import CurriculumVecEnv
from mtrl.envs.family import TaskFamily
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.meta.task_source import read_tasks
from mtrl.multitask.algorithms import PPO
from mtrl.multitask.config import MultiTaskConfig
from mtrl.seeding import numpy_generator

__all__ = [
    "build_agent",
    "evaluation_env",
    "multitask_env",
    "multitask_family",
    "task_names",
    "train_tasks",
    "training_env",
]

_DRAWS = 100
"""Tasks drawn for each one wanted before a family counts as having too few."""


@runtime_checkable
class _Vectorised(Protocol):
    def make_sb3(self, tasks: Any, seed: int | None = None) -> VecEnv:
        """Return an environment of Stable-Baselines3 for each task."""


def multitask_family(config: MultiTaskConfig) -> TaskFamily:
    """Return the family that `config` names.

    Raises:
        UsageError: there is no such family or preset, or it has no environments to train in.
    """
    family = get_family(config.family, config.preset, **config.family_options)
    if not (isinstance(family, TaskFamily) and isinstance(family, _Vectorised)):
        raise UsageError(
            f"family {config.family!r} has no environments for Stable-Baselines3; "
            "choose one that `mtrl families` lists with episodes"
        )
    return family


def train_tasks(config: MultiTaskConfig, family: TaskFamily) -> list[Task]:
    """Return the tasks to train on: those of the file, or different ones drawn by the seed.

    Raises:
        UsageError: the family has too few, or the file holds one of another family or of the test
            split.
    """
    if config.task_file is not None:
        return [_listed(task, config, family) for task in read_tasks(config.task_file)]
    rng = numpy_generator(config.seed, "train tasks")
    found: dict[str, Task] = {}
    for _ in range(_DRAWS):
        for task in family.sample(config.tasks - len(found), rng, "train"):
            found.setdefault(task.id, task)
        if len(found) == config.tasks:
            return list(found.values())
    raise UsageError(
        f"tasks is {config.tasks}, and family {config.family!r} has {len(found)} different ones; "
        "ask for fewer"
    )


def _listed(task: Task, config: MultiTaskConfig, family: TaskFamily) -> Task:
    family.context(task)
    if task.split == "test" and not family.splits_overlap:
        raise UsageError(
            f"a test task in training: {task.id} in {config.task_file}; draw the file with "
            "--split train"
        )
    return task


def task_names(tasks: list[Task]) -> list[str]:
    """Return short names for curves: tasks by their place in the list."""
    width = len(str(len(tasks) - 1))
    return [f"task_{place:0{width}}" for place in range(len(tasks))]


def multitask_env(
    family: TaskFamily,
    tasks: list[Task],
    repeats: int,
    *,
    scaling: RewardScaling | None = None,
    seed: int | None = None,
) -> MultiTaskVecEnv:
    """Return environments of the tasks in turn, `repeats` of each."""
    assert isinstance(family, _Vectorised)
    venv = family.make_sb3(tasks * repeats, seed=seed)
    return MultiTaskVecEnv(venv, tasks, scaling=scaling, names=task_names(tasks))


def training_env(config: MultiTaskConfig, family: TaskFamily, tasks: list[Task]) -> MultiTaskVecEnv:
    """Return the environments that `config` trains in; the agent seeds them.

    Raises:
        UsageError: a curriculum that does not fit family or tasks.
    """
    # What is replayed is scaled as it is drawn: scaled here, it would be so at different times by
    # different numbers.
    scaling = _reward_scaling(config) if isinstance(config.algorithm, PPO) else None
    if config.curriculum is None:
        return multitask_env(family, tasks, config.envs_per_task, scaling=scaling)
    assert isinstance(family, _Vectorised)
    rng = numpy_generator(config.seed, "curriculum")
    curriculum = config.curriculum.build(family, tasks, rng)
    by_return = config.solved_at is not None and curriculum.outcome == "success"
    judge = solved_at(config.solved_at) if by_return and config.solved_at is not None else None
    played = CurriculumVecEnv(
        family.make_sb3(tasks * config.envs_per_task), curriculum, judge=judge
    )
    if over_box(config.curriculum):
        return UnlistedVecEnv(played, tasks[0], scaling=scaling)
    return MultiTaskVecEnv(played, tasks, scaling=scaling, names=task_names(tasks), assign=False)


def evaluation_env(
    config: MultiTaskConfig, family: TaskFamily, tasks: list[Task], repeats: int, seed: int
) -> MultiTaskVecEnv:
    """Return environments of the tasks in turn, told to the agent of `config` as in training."""
    if config.curriculum is None or not over_box(config.curriculum):
        return multitask_env(family, tasks, repeats, seed=seed)
    assert isinstance(family, _Vectorised)
    return UnlistedVecEnv(family.make_sb3(tasks * repeats, seed=seed), tasks[0])


def _reward_scaling(config: MultiTaskConfig) -> RewardScaling | None:
    return RewardScaling(discount=config.algorithm.gamma) if config.scale_rewards else None


def _shares_as_played(config: MultiTaskConfig) -> dict[str, Any]:
    """Return the settings with which minibatches have the tasks' shares of what was played.

    Equal shares would undo what the curriculum has chosen.
    """
    if isinstance(config.algorithm, PPO):
        return {"rollout_buffer_kwargs": {"equal": False}}
    steps = getattr(config.algorithm, "n_steps", 1)
    if steps == 1:
        return {"replay_buffer_class": ReplayBuffer}
    summed = {"n_steps": steps, "gamma": config.algorithm.gamma}
    return {"replay_buffer_class": NStepReplayBuffer, "replay_buffer_kwargs": summed}


def build_agent(config: MultiTaskConfig, env: MultiTaskVecEnv) -> MultiTaskAlgorithm:
    """Return the agent that `config` describes; this seeds the global streams, as its algorithms do.

    Raises:
        UsageError: settings that do not go together.
    """
    kind = config.objective
    objective = None
    if kind.objective != "mean-return":
        objective = TaskObjective(
            kind.objective,
            env.names,
            step_size=kind.step_size,
            best=kind.best or None,
            random=kind.random or None,
        )
    policy = {"network": config.network, "balancer": config.balancer}
    common: dict[str, Any] = {"objective": objective, "seed": config.seed, "device": config.device}
    if not isinstance(config.algorithm, PPO):
        common["reward_scaling"] = _reward_scaling(config)
    if config.curriculum is not None:
        common |= _shares_as_played(config)
    agent = config.algorithm.build(env, policy, **common)
    assert isinstance(agent, MultiTaskAlgorithm)
    return agent
