"""Settings of a run of PEARL; read without Stable-Baselines3, which takes seconds to import."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import gymnasium as gym

from mtrl.agents.pearl.settings import PEARL
from mtrl.config import check_at_least, check_positive
from mtrl.envs.family import TaskFamily
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.meta.task_source import TrainingTasks, read_tasks
from mtrl.rollouts import episode_steps
from mtrl.seeding import numpy_generator

__all__ = ["PearlConfig", "pearl_family", "pearl_sizes", "pearl_tasks"]


@dataclass(frozen=True, kw_only=True)
class PearlConfig:
    """Meta-training of PEARL on a reinforcement-learning family with real-valued actions."""

    family: str = "navigation2d"
    """Task family; `mtrl families` lists them. One that ends in .toml is read from that file."""
    preset: str | None = None
    """The family's preset; its first if left out."""
    family_options: dict[str, bool | int | float] = field(default_factory=dict)
    """Arguments of the family that replace the preset's, such as horizon."""
    learner: PEARL = field(default_factory=PEARL)
    """Networks and updates."""
    tasks: int = 40
    """Training tasks, drawn once: each has a replay buffer."""
    train_tasks: Path | None = None
    """File of tasks to train on, one in JSON per line, in place of drawing them."""
    tasks_per_batch: int = 16
    """Tasks in a gradient step."""
    tasks_per_collection: int = 10
    """Tasks that are played anew in an iteration."""
    initial_episodes: int = 2
    """Episodes of every task before the first gradient step, on guesses from the prior."""
    prior_episodes: int = 1
    """Episodes of a task in a collection on guesses from the prior."""
    posterior_episodes: int = 1
    """Episodes after those, on guesses from what they say."""
    context_episodes: Literal["prior", "all"] = "all"
    """Which of a collection's episodes beliefs are inferred from in gradient steps."""
    max_episode_steps: int | None = None
    """Steps after which episodes are cut off, where the family does not do so before."""
    replay_size: int = 10_000
    """Transitions kept of each task."""
    gradient_steps: int = 200
    """Gradient steps per iteration."""
    iterations: int = field(default=100, metadata={"resumable": True})
    """Iterations: each plays some tasks, then takes gradient steps."""
    test_tasks: int = 40
    """Held-out tasks that the adaptation curve is measured on during training."""
    test_steps: int = 2
    """Rounds of adaptation of that curve."""
    episodes_per_task: int = 1
    """Episodes per task and round of that curve."""
    seed: int = 0
    """Of all random streams."""
    device: str = field(default="cpu", metadata={"resumable": True})
    """Torch device."""
    evaluate_every: int = 10
    """Iterations between two adaptation curves."""
    checkpoint_every: int = field(default=10, metadata={"resumable": True})
    """Iterations between two checkpoints."""

    def __post_init__(self) -> None:
        check_positive(self, "tasks", "tasks_per_batch", "tasks_per_collection")
        check_positive(self, "initial_episodes", "prior_episodes", "posterior_episodes")
        check_positive(self, "max_episode_steps", "replay_size", "gradient_steps", "iterations")
        check_positive(self, "test_tasks", "test_steps", "episodes_per_task")
        check_positive(self, "evaluate_every", "checkpoint_every")
        check_at_least(self, 0, "seed")
        if self.train_tasks is None:
            _check_enough(self, self.tasks)


def pearl_family(config: PearlConfig) -> TaskFamily:
    """Return the family that `config` names.

    Raises:
        UsageError: there is no such family or preset, it is supervised, its episodes are too long
            to be kept, its observations are no vector or its actions not real numbers.
    """
    family = get_family(config.family, config.preset, **config.family_options)
    if not isinstance(family, TaskFamily):
        raise UsageError(
            f"family {config.family!r} has no episodes; train it with `mtrl train supervised`"
        )
    pearl_sizes(family)
    steps = episode_steps(family.horizon, config.max_episode_steps)
    most = steps * max(config.initial_episodes, config.prior_episodes, config.posterior_episodes)
    if most > config.replay_size:
        raise UsageError(
            f"replay_size is {config.replay_size} transitions of a task, and {most} come at once "
            f"(episodes of {steps} steps); raise it or collect fewer episodes"
        )
    return family


def pearl_sizes(family: TaskFamily) -> tuple[int, int]:
    """Return how many numbers an observation and an action have.

    Raises:
        UsageError: observations are no vector, or actions no vector of real numbers.
    """
    spaces = {"observations": family.observation_space, "actions": family.action_space}
    sizes = []
    for name, space in spaces.items():
        if not (isinstance(space, gym.spaces.Box) and len(space.shape) == 1):
            raise UsageError(
                f"{name} of {family.name!r} are {space}; PEARL takes vectors of real numbers, so "
                "choose another family"
            )
        sizes.append(space.shape[0])
    observation, action = sizes
    return observation, action


def pearl_tasks(config: PearlConfig, family: TaskFamily, held_out: list[Task]) -> list[Task]:
    """Return the tasks that a run trains on, the same at every call.

    Raises:
        UsageError: the file's tasks are too few, or cannot be trained on (see `TrainingTasks`).
    """
    source = TrainingTasks(family, config.train_tasks, held_out)
    if config.train_tasks is None:
        return source.sample(config.tasks, numpy_generator(config.seed, "train tasks"))
    listed = list(dict.fromkeys(read_tasks(config.train_tasks)))
    _check_enough(config, len(listed))
    return listed


def _check_enough(config: PearlConfig, tasks: int) -> None:
    for name in ("tasks_per_batch", "tasks_per_collection"):
        if getattr(config, name) > tasks:
            raise UsageError(
                f"{name} is {getattr(config, name)}, and there are {tasks} training tasks; lower it "
                "or train on more tasks"
            )
