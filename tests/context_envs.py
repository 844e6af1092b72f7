"""Small Gymnasium environments whose tasks differ in ways that CartPole's do not."""

from typing import Any

import gymnasium as gym
import numpy as np


class Grid(gym.Env[Any, Any]):
    """A vector of `size` numbers drawn at a reset; as many actions; the reward is what was picked."""

    def __init__(self, size: int = 2, start: int = 0, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0 + size, (size,), np.float32)
        self.action_space = gym.spaces.Discrete(size, start=start)
        self.start = start

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.cells = self.np_random.uniform(0.5, 1.0, self.observation_space.shape)
        return self.cells.astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.cells = self.np_random.uniform(0.5, 1.0, self.observation_space.shape)
        reward = float(action - self.start)
        return self.cells.astype(np.float32), reward, False, False, {}


class Arm(gym.Env[Any, Any]):
    """`joints` actions, each bounded by `strength`; the observation is what arrived."""

    def __init__(self, joints: int = 1, strength: float = 1.0) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (joints,), np.float64)
        self.action_space = gym.spaces.Box(-strength, strength, (joints,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.asarray(action, np.float64), 0.0, False, False, {}


class Fragile(gym.Env[Any, Any]):
    """Fails in the way that `how` says: 1 raises, 2 exits, 3 and 4 return NaN and infinity."""

    def __init__(self, mood: str = "calm") -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.how, self.counts, self.on, self.pair = 0.0, 3, False, np.zeros(2)
        if mood == "grumpy":
            raise RuntimeError("not today")

    @property
    def fixed(self) -> float:
        return 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.how == 5:
            raise OSError("no disk")
        return np.zeros(1, np.float32), {"options": options}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.how == 1:
            raise RuntimeError("boom")
        if self.how == 2:
            raise SystemExit(3)
        obs = np.full(1, np.nan if self.how == 3 else 0.0, np.float32)
        return obs, float("inf") if self.how == 4 else 0.0, False, False, {}
