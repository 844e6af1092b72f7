"""The final evaluation: the same episodes for every agent, whatever other tasks it was trained on."""

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task
from mtrl.errors import MtrlError
from mtrl.multitask.evaluation import Agent, play_episodes
from mtrl.multitask.tasks import multitask_env
from mtrl.seeding import numpy_generator

__all__ = ["RandomAgent", "final_returns"]


class RandomAgent:
    """Draws every action from `space`; two that are made alike draw the same."""

    def __init__(self, space: gym.Space[Any]) -> None:
        self._space = copy.deepcopy(space)
        self._space.seed(_start("random actions of a comparison"))

    def predict(
        self,
        observation: NDArray[Any],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """Return an action for each observation."""
        return np.stack([self._space.sample() for _ in observation]), None


def final_returns(
    agent: Agent, family: TaskFamily, tasks: Sequence[Task], episodes: int
) -> NDArray[np.float64]:
    """Return undiscounted returns (tasks, episodes) of an agent that acts greedily.

    Each task is played in environments of its own, whose start seeds depend on nothing: a specialist
    begins where the agent of all tasks begins.

    Args:
        agent: of these tasks, told them by a one-hot context in their order.
        family: of the tasks.
        tasks: as many as the context is long.
        episodes: of each.

    Raises:
        MtrlError: a task gave a number that is not finite.
    """
    start = _start("episodes of a comparison")
    returns = np.empty((len(tasks), episodes))
    for place, task in enumerate(tasks):
        env = multitask_env(family, [task], episodes, seed=start)
        try:
            returns[place] = play_episodes(_Told(agent, place, len(tasks)), env).returns[0]
        except MtrlError as error:
            raise MtrlError(f"playing task {task.id}: {error}") from error
        finally:
            env.close()
    return returns


class _Told:
    """An agent of many tasks that plays one: the context of one task becomes that of all."""

    def __init__(self, agent: Agent, place: int, tasks: int) -> None:
        self._agent = agent
        self._context = np.eye(tasks, dtype=np.float32)[place]

    def predict(
        self,
        observation: NDArray[Any],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        contexts = np.broadcast_to(self._context, (len(observation), len(self._context)))
        told = np.concatenate([observation[:, :-1], contexts], 1)
        return self._agent.predict(told, state, episode_start, deterministic)


def _start(name: str) -> int:
    return int(numpy_generator(0, name).integers(2**31))
