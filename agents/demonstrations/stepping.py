"""One way to step three kinds of environments: Gymnasium's, its vectors, Stable-Baselines3's."""

from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from mtrl.errors import UsageError

__all__ = ["Step", "Stepper", "stepper_of"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of all slots; each array has the slots first.

    Attributes:
        rewards: (slots,).
        reached: the observations that the step led to, also where it ended the episode.
        following: those to act on next, the first of a new episode where one ended.
        terminated: (slots,).
        truncated: (slots,).
    """

    rewards: NDArray[np.float64]
    reached: NDArray[Any]
    following: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class Stepper(Protocol):
    """Environments that reset themselves in the step that ends an episode."""

    slots: int
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def reset(self, seed: int) -> NDArray[Any]:
        """Begin an episode everywhere and return the observations."""

    def step(self, actions: NDArray[Any]) -> Step:
        """Apply one action per slot."""


def stepper_of(env: Any) -> Stepper:
    """Return what steps `env`.

    Raises:
        UsageError: it is none of the three kinds, or a vector environment that resets otherwise.
    """
    if isinstance(env, gym.Env):
        return _One(env)
    if isinstance(env, VectorEnv):
        return _Vector(env)
    if all(hasattr(env, name) for name in ("num_envs", "step_wait", "seed")):
        return _StableBaselines(env)
    raise UsageError(
        f"env is a {type(env).__name__}; give a Gymnasium environment, a Gymnasium vector "
        "environment or a VecEnv of Stable-Baselines3"
    )


class _One:
    slots = 1

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space

    def reset(self, seed: int) -> NDArray[Any]:
        obs, _ = self._env.reset(seed=seed)
        return np.asarray(obs)[None]

    def step(self, actions: NDArray[Any]) -> Step:
        # A number of a discrete space stays one of its type.
        obs, reward, terminated, truncated, _ = self._env.step(actions[0])
        reached = following = np.asarray(obs)[None]
        if terminated or truncated:
            following = np.asarray(self._env.reset()[0])[None]
        return Step(
            rewards=np.array([reward], np.float64),
            reached=reached,
            following=following,
            terminated=np.array([terminated], np.bool_),
            truncated=np.array([truncated], np.bool_),
        )


class _Vector:
    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise UsageError(
                f"the vector environment's autoreset_mode is {mode}; make it with "
                "gymnasium.vector.AutoresetMode.SAME_STEP, or record in one environment"
            )
        self._env, self.slots = env, env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space

    def reset(self, seed: int) -> NDArray[Any]:
        return np.array(self._env.reset(seed=seed)[0])

    def step(self, actions: NDArray[Any]) -> Step:
        obs, rewards, terminated, truncated, infos = self._env.step(actions)
        following = np.array(obs)
        reached = following.copy()
        for slot in np.flatnonzero(terminated | truncated):
            reached[slot] = infos["final_obs"][slot]
        return Step(
            rewards=np.array(rewards, np.float64),
            reached=reached,
            following=following,
            terminated=np.array(terminated, np.bool_),
            truncated=np.array(truncated, np.bool_),
        )


class _StableBaselines:
    def __init__(self, env: Any) -> None:
        self._env, self.slots = env, env.num_envs
        self.observation_space, self.action_space = env.observation_space, env.action_space

    def reset(self, seed: int) -> NDArray[Any]:
        self._env.seed(seed)
        return np.array(self._env.reset())

    def step(self, actions: NDArray[Any]) -> Step:
        obs, rewards, dones, infos = self._env.step(actions)
        following = np.array(obs)
        reached = following.copy()
        for slot in np.flatnonzero(dones):
            reached[slot] = infos[slot]["terminal_observation"]
        time_up = np.array([info.get("TimeLimit.truncated", False) for info in infos], np.bool_)
        return Step(
            rewards=np.array(rewards, np.float64),
            reached=reached,
            following=following,
            terminated=np.array(dones, np.bool_) & ~time_up,
            truncated=np.array(dones, np.bool_) & time_up,
        )
