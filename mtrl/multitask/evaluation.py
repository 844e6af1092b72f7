"""What an agent reaches on each task: a fixed number of episodes of every one, without exploration."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.multitask.env import MultiTaskVecEnv

__all__ = ["Agent", "TaskScores", "play_episodes"]


class Agent(Protocol):
    """What can act: an algorithm or a policy of Stable-Baselines3."""

    def predict(
        self,
        observation: NDArray[Any],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """Return an action for each observation."""


@dataclass(frozen=True)
class TaskScores:
    """Scores of tasks; NaN where a task gave a number that is not finite.

    Attributes:
        returns: (tasks, episodes), undiscounted.
        successes: (tasks,), share of episodes; NaN where the family does not say.
    """

    returns: NDArray[np.float64]
    successes: NDArray[np.float64]


def play_episodes(
    agent: Agent, env: MultiTaskVecEnv, tasks: int | None = None, solved_at: float | None = None
) -> TaskScores:
    """Play the first episode of every environment; `env` is new, with equally many of each task.

    No more and no less is counted: episodes that are short do not count more often.

    Args:
        agent: acts without exploration.
        env: environment i plays task i modulo the number of tasks.
        tasks: how many there are, where `env` takes several for one.
        solved_at: return from which on an episode is a success; as the environment says if left out.
    """
    slots, tasks = env.num_envs, tasks or len(env.tasks)
    returns, successes = np.zeros(slots), np.full(slots, np.nan)
    observations: Any = env.reset()
    running = np.ones(slots, np.bool_)
    # A task that fails hands its environments over, also before the first step.
    failed = env.slot_tasks != np.arange(slots) % len(env.tasks)
    running &= ~failed
    while running.any():
        actions, _ = agent.predict(observations, deterministic=True)
        observations, _, dones, infos = env.step(actions)
        returns[running] += env.get_original_reward()[running]
        for slot in (running & dones).nonzero()[0].tolist():
            failed[slot] = "task_failed" in infos[slot]
            if "is_success" in infos[slot]:
                successes[slot] = float(infos[slot]["is_success"])
        running &= ~dones
    returns[failed] = np.nan
    if solved_at is not None:
        successes = np.where(failed, np.nan, returns >= solved_at)
    return TaskScores(returns.reshape(-1, tasks).T.copy(), successes.reshape(-1, tasks).mean(0))
