"""An environment that plays written episodes, and transcripts of what any environment returned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from noisy_walk import NoisyWalk

from mtrl.envs.task import Task

FAMILY = NoisyWalk()
TASKS = FAMILY.sample(3, np.random.default_rng(0), "train")
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]


@dataclass(frozen=True, kw_only=True)
class Episode:
    """What one episode returns: a first observation, and one more with each reward."""

    task: Task = TASKS[0]
    observations: Sequence[Any]
    rewards: Sequence[float]
    truncated: bool = False
    successes: Sequence[bool] | None = None


class ScriptedEnv(gym.Env[Any, Any]):
    """Plays `episodes` in turn; `reset(options={"task": task})` changes the task, not the script."""

    def __init__(self, episodes: Sequence[Episode], action_space: Any = None) -> None:
        self.family = FAMILY
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = action_space or gym.spaces.Discrete(3)
        self._episodes = iter(episodes)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._episode, self._steps = next(self._episodes), 0
        self.task = (options or {}).get("task") or self._episode.task
        return self._observation(), {"task_id": self.task.id, "greeting": "hello"}

    def _observation(self) -> Any:
        return np.array(self._episode.observations[self._steps], np.float32)

    def step(self, action: Any) -> Any:
        reward = self._episode.rewards[self._steps]
        info: dict[str, Any] = {"task_id": self.task.id}
        if self._episode.successes is not None:
            info["success"] = self._episode.successes[self._steps]
        self._steps += 1
        over = self._steps == len(self._episode.rewards)
        terminated, truncated = (
            over and not self._episode.truncated,
            over and self._episode.truncated,
        )
        return self._observation(), reward, terminated, truncated, info


@dataclass
class Transcript:
    """All that one (sub-)environment returned, in order, resets included."""

    observations: list[Any] = field(default_factory=list)
    task_ids: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)

    def observe(self, observation: Any, task_id: Any) -> None:
        self.observations.append(observation)
        self.task_ids.append(task_id)

    def see(self, reward: float, terminated: bool, truncated: bool, episode: Any) -> None:
        self.rewards.append(float(reward))
        self.ends.append("terminated" * bool(terminated) + "truncated" * bool(truncated))
        if terminated or truncated:
            self.episodes.append(episode)


def play(env: gym.Env[Any, Any], actions: Sequence[Any], seed: int | None = 7) -> Transcript:
    """Take the actions, resetting where an episode ends."""
    seen = Transcript()
    observation, info = env.reset(seed=seed)
    seen.observe(observation, info.get("task_id"))
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        seen.observe(observation, info.get("task_id"))
        seen.see(reward, terminated, truncated, info.get("episode"))
        if terminated or truncated:
            observation, info = env.reset()
            seen.observe(observation, info.get("task_id"))
    return seen


def slot_of(value: Any, slot: int) -> Any:
    if isinstance(value, dict):
        return {name: item[slot] for name, item in value.items() if not name.startswith("_")}
    return value[slot]


def play_vector(
    envs: VectorEnv[Any, Any, Any], actions: Sequence[Sequence[Any]], seed: int = 7
) -> list[Transcript]:
    """Let every slot take its own `actions` (steps, slots) as `play` does, in any autoreset mode."""
    mode, n = envs.metadata["autoreset_mode"], envs.num_envs
    seen, resetting = [Transcript() for _ in range(n)], np.zeros(n, bool)
    observations, info = envs.reset(seed=seed)
    for slot in range(n):
        seen[slot].observe(slot_of(observations, slot), info["task_id"][slot])
    while resetting.any() or any(len(one.rewards) < len(actions) for one in seen):
        taken = [min(len(one.rewards), len(actions) - 1) for one in seen]
        chosen = np.array([actions[taken[slot]][slot] for slot in range(n)])
        observations, reward, terminated, truncated, info = envs.step(chosen)
        ended = terminated | truncated
        for slot in range(n):
            if not resetting[slot]:
                episode = slot_of(info["episode"], slot) if "episode" in info else None
                seen[slot].see(reward[slot], terminated[slot], truncated[slot], episode)
            if mode == AutoresetMode.SAME_STEP and ended[slot]:
                seen[slot].observe(info["final_obs"][slot], info["final_info"]["task_id"][slot])
            seen[slot].observe(slot_of(observations, slot), info["task_id"][slot])
        resetting = ended & (mode == AutoresetMode.NEXT_STEP)
        if mode == AutoresetMode.DISABLED and ended.any():
            observations, info = envs.reset(options={"reset_mask": ended.copy()})
            for slot in ended.nonzero()[0]:
                seen[slot].observe(slot_of(observations, slot), info["task_id"][slot])
    return seen


SOURCES = [TASKS[0], "train", "test"]


def vector_envs(mode: AutoresetMode | str, wrap: Callable[[Any], Any] = lambda env: env) -> Any:
    """Three sub-environments of the family: a given task, and tasks drawn from either split."""
    if mode == "batched":
        return FAMILY.make_vec(SOURCES)
    makers = [lambda source=source: wrap(FAMILY.make(source)) for source in SOURCES]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def random_actions(steps: int) -> Any:
    return np.random.default_rng(1).integers(-1, 2, (steps, len(SOURCES)))
