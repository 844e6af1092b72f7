"""What an agent reaches on one task: the first episode of each environment, without exploration."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.errors import UsageError

__all__ = ["EpisodeScorer", "Scorer"]

Scorer = Callable[[Any, int], float]
"""Returns the score of an agent on the task of a number, higher being better."""


class EpisodeScorer:
    """Scores by an episode in each environment of `env`, all on the task in question.

    The episodes of a task begin alike at every call, so that scores of two moments pair up. Actions are
    the policy's best.

    Args:
        env: of its own, with the tasks of training in their order; its slots take tasks.
        score: the mean undiscounted return, or the share of episodes that succeed.
        seed: of the episodes.
    """

    def __init__(
        self, env: MultiTaskVecEnv, *, score: Literal["return", "success"] = "return", seed: int = 0
    ) -> None:
        self.env, self.score, self.seed = env, score, seed

    def __call__(self, agent: Any, task: int) -> float:
        """Return the score of `agent` on `task`.

        Raises:
            UsageError: successes are asked for and the family does not say.
        """
        self.env.env_method("set_task_source", self.env.tasks[task])
        self.env.seed(self.seed)
        observations: Any = self.env.reset()
        returns, successes = np.zeros(self.env.num_envs), np.full(self.env.num_envs, np.nan)
        running = np.ones(self.env.num_envs, np.bool_)
        while running.any():
            actions, _ = agent.predict(observations, deterministic=True)
            observations, _, dones, infos = self.env.step(actions)
            returns[running] += self.env.get_original_reward()[running]
            for slot in (running & dones).nonzero()[0].tolist():
                successes[slot] = float(infos[slot].get("is_success", np.nan))
            running &= ~dones
        if self.score == "return":
            return float(returns.mean())
        if np.isnan(successes).any():
            raise UsageError(
                f"task {self.env.names[task]} does not tell successes; score by the return"
            )
        return float(successes.mean())
