"""Trials for recurrent meta-RL: several episodes of one task, played as one.

RL² (Duan et al. 2016, arXiv:1611.02779, section 2.2): the agent is given its previous action, the
reward it brought and whether that ended an episode, and keeps its memory from one episode of a
trial to the next. Its objective is the return of the whole trial.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces.utils import flatten, flatten_space
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from mtrl.envs.wrappers.joining import Joiner, Layout
from mtrl.errors import UsageError

__all__ = ["Trial"]


def _previous_action_space(actions: gym.Space[Any]) -> gym.spaces.Box:
    flat = flatten_space(actions)
    if not isinstance(flat, gym.spaces.Box):
        raise UsageError(f"the action space {actions} has no vectors of one size")
    # Zeros stand for no action: at the beginning of a trial there was none.
    low = np.minimum(flat.low, 0).astype(np.float32)
    high = np.maximum(flat.high, 0).astype(np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32)


class Trial(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """`episodes` episodes of one task as a single episode, with what came before in view.

    Every observation comes with what the previous step was: its action (one-hot where discrete,
    within the bounds of the space), its reward, and 1 if it ended an inner episode; all zero at
    the trial's beginning. Appended in this order, after the flattened observation; or, with
    layout `dict`, as "observation", "previous_action", "previous_reward" and "previous_done".

    A step that ends an inner episode but the last returns the first observation of the next, of
    the same task. The last one ends the trial: `terminated`, since nothing follows whose value
    counts. The next trial's task comes from the environment's source, or from
    `reset(options={"task": task})`.

    `info` of every step has "trial_episode", the number (from 0) of the inner episode it was in,
    and the inner flags "episode_terminated" and "episode_truncated"; where one is set,
    "episode_last_observation" is the inner episode's last, as the environment returned it.

    Args:
        env: an environment with `task` that obeys `reset(options={"task": task})`.
        episodes: inner episodes of a trial.
        layout: `append` or `dict`.

    Raises:
        UsageError: `episodes` is not positive, or the spaces do not allow the layout.
    """

    def __init__(self, env: gym.Env[Any, Any], *, episodes: int, layout: Layout = "append") -> None:
        if episodes < 1:
            raise UsageError(f"episodes is {episodes}; a trial has at least 1")
        RecordConstructorArgs.__init__(self, episodes=episodes, layout=layout)
        gym.Wrapper.__init__(self, env)
        self.episodes = episodes
        self._action_box = _previous_action_space(env.action_space)
        extras = {
            "previous_action": self._action_box,
            "previous_reward": gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
            "previous_done": gym.spaces.Box(0.0, 1.0, (1,), np.float32),
        }
        self._joiner = Joiner(env.observation_space, extras, layout)
        self.observation_space = self._joiner.space
        self._episode = 0
        self._options: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a trial; one under way is abandoned."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode = 0
        self._options = {**(options or {}), "task": self.env.get_wrapper_attr("task")}
        joined = self._joined(observation, np.zeros(self._action_box.shape, np.float32), 0.0, False)
        return joined, {**info, **self._marks(False, False)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Apply `action`, and begin the next inner episode if it ended one."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, **self._marks(terminated, truncated)}
        done = terminated or truncated
        over = done and self._episode + 1 == self.episodes
        if done:
            info["episode_last_observation"] = observation
        if done and not over:
            observation, first = self.env.reset(options=dict(self._options))
            info = {**first, **info}
            self._episode += 1
        joined = self._joined(observation, self._as_vector(action), reward, done)
        return joined, reward, over, False, info

    def _marks(self, terminated: bool, truncated: bool) -> dict[str, Any]:
        return {
            "trial_episode": self._episode,
            "episode_terminated": bool(terminated),
            "episode_truncated": bool(truncated),
        }

    def _as_vector(self, action: Any) -> NDArray[np.float32]:
        flat = np.asarray(flatten(self.env.action_space, action), np.float32)
        return np.clip(flat, self._action_box.low, self._action_box.high)

    def _joined(self, observation: Any, action: NDArray[Any], reward: Any, done: bool) -> Any:
        # A reward beyond float32 is as good as infinite; NumPy would warn of it.
        with np.errstate(over="ignore"):
            previous_reward = np.array([reward], np.float64).astype(np.float32)
        return self._joiner(observation, action, previous_reward, np.array([done], np.float32))
