"""What an agent reaches on one task: the first episode of each environment."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed

from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.saving.streams import load_streams, streams_state
from mtrl.errors import UsageError

__all__ = ["EpisodeScorer", "Scorer"]

Scorer = Callable[[Any, int], float]
"""Returns the score of an agent on the task of a number, higher being better."""

Array = NDArray[np.float64]


class EpisodeScorer:
    """Scores by an episode in each environment of `env`, all on the task in question.

    The episodes of a task begin alike at every call, so that scores of two moments pair up.

    Args:
        env: of its own, with the tasks of training in their order; its slots take tasks.
        score: the mean undiscounted return, the share of episodes that succeed, or the mean of
            (return - low) / (high - low), of which each term is cut to [0, 1].
        seed: of the episodes.
        bounds: of a scaled score, (low, high) of each task.
        actions: the policy's best, or drawn from it as in training, by the same random numbers at every
            call. Global streams are afterwards where they were.

    Raises:
        UsageError: a scaled score without bounds of every task.
    """

    def __init__(
        self,
        env: MultiTaskVecEnv,
        *,
        score: Literal["return", "success", "scaled"] = "return",
        seed: int = 0,
        bounds: Sequence[tuple[float, float]] | None = None,
        actions: Literal["best", "drawn"] = "best",
    ) -> None:
        if score == "scaled" and (bounds is None or len(bounds) != len(env.tasks)):
            raise UsageError("score is 'scaled'; give bounds (low, high) for every task")
        self.env, self.score, self.seed, self.bounds = env, score, seed, bounds
        self.actions = actions

    def __call__(self, agent: Any, task: int) -> float:
        """Return the score of `agent` on `task`.

        Raises:
            UsageError: successes are asked for and the family does not say.
        """
        returns, successes = self.episodes(agent, task)
        if self.score == "success":
            if np.isnan(successes).any():
                raise UsageError(
                    f"task {self.env.names[task]} does not tell successes; score by the return"
                )
            return float(successes.mean())
        if self.score == "scaled":
            assert self.bounds is not None
            low, high = self.bounds[task]
            return float(np.clip((returns - low) / (high - low), 0.0, 1.0).mean())
        return float(returns.mean())

    def episodes(self, agent: Any, task: int) -> tuple[Array, Array]:
        """Return the return and the success (episodes,) of each; NaN where the family does not say."""
        self.env.env_method("set_task_source", self.env.tasks[task])
        self.env.seed(self.seed)
        if self.actions == "best":
            return self._played(agent)
        with _streams_of(agent, self.seed):
            return self._played(agent)

    def _played(self, agent: Any) -> tuple[Array, Array]:
        observations: Any = self.env.reset()
        returns, successes = np.zeros(self.env.num_envs), np.full(self.env.num_envs, np.nan)
        running = np.ones(self.env.num_envs, np.bool_)
        while running.any():
            actions, _ = agent.predict(observations, deterministic=self.actions == "best")
            observations, _, dones, infos = self.env.step(actions)
            returns[running] += self.env.get_original_reward()[running]
            for slot in (running & dones).nonzero()[0].tolist():
                successes[slot] = float(infos[slot].get("is_success", np.nan))
            running &= ~dones
        return returns, successes


@contextmanager
def _streams_of(agent: Any, seed: int) -> Iterator[None]:
    """Within the context, what Stable-Baselines3 draws from are streams of `seed`."""
    before = streams_state(agent.action_space, agent.device)
    set_random_seed(seed, using_cuda=agent.device.type == "cuda")
    agent.action_space.seed(seed)
    try:
        yield
    finally:
        load_streams(before, agent.action_space, agent.device)
