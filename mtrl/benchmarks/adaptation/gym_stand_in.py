"""As much of the discontinued `gym` as pytorch-maml-rl's 2-D navigation and its sampler use, and no more.

gym before 0.22 has the interface that it was written for, and does not install on the Python versions that
mtrl supports. This stand-in does less per step than gym's own wrappers did, which favours the peer.
"""

import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from gymnasium import spaces

__all__ = ["TimeLimit", "install"]


class Env:
    """The base class."""


class TimeLimit:
    """Ends an episode after `horizon` steps."""

    def __init__(self, env: Any, horizon: int) -> None:
        self.unwrapped = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self._horizon = horizon

    def reset(self) -> Any:
        self._steps = 0
        return self.unwrapped.reset()

    def step(self, action: Any) -> tuple[Any, Any, bool, dict[str, Any]]:
        observation, reward, done, info = self.unwrapped.step(action)
        self._steps += 1
        return observation, reward, bool(done) or self._steps >= self._horizon, info


class SyncVectorEnv:
    """What pytorch-maml-rl's class of this name inherits."""

    def __init__(
        self,
        env_fns: Sequence[Callable[[], Any]],
        observation_space: Any = None,
        action_space: Any = None,
    ) -> None:
        self.envs = [make() for make in env_fns]
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self._dones = np.zeros(len(self.envs), dtype=bool)

    def seed(self, seed: int | None) -> None:
        """Do nothing: neither the dynamics nor the starts are random."""

    def reset(self) -> Any:
        self._dones[:] = False
        return np.stack([env.reset() for env in self.envs])

    def step(self, actions: Any) -> Any:
        self._actions = actions
        return self.step_wait()  # type: ignore[attr-defined]  # the class that inherits has it


def install(make: Callable[..., Any]) -> None:
    """Put the stand-in where `import gym` finds it; `make` becomes `gym.make`."""
    if "gym" in sys.modules:
        # Whoever imported it before keeps the module, and asks it for `make` at every call.
        sys.modules["gym"].make = make  # type: ignore[attr-defined]  # a module takes any attribute
        return
    seeding = SimpleNamespace(np_random=lambda seed: (np.random.default_rng(seed), seed))
    contents: dict[str, dict[str, Any]] = {
        "gym": {"Env": Env, "spaces": spaces, "make": make},
        "gym.utils": {"seeding": seeding},
        "gym.vector": {"SyncVectorEnv": SyncVectorEnv},
        "gym.vector.utils": {
            "concatenate": lambda items, out, space: np.stack(items, out=out),
            "create_empty_array": lambda space, n, fn: fn((n, *space.shape), dtype=space.dtype),
        },
        "gym.envs": {},
        "gym.envs.registration": {"register": lambda *_, **__: None},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        sys.modules[name] = module
