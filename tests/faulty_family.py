"""Families for tests of worker processes.

The tasks of one are faults: what goes wrong in an environment, and at which step. The other has
spaces that do not fit in one array.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mtrl.envs.family import TaskSource
from mtrl.envs.task import Split, Task

FAULTS = (
    "none",
    "raise",
    "exit",
    "sys.exit",
    "kill",
    "hang",
    "nan-observation",
    "infinite-reward",
    "unpicklable-error",
    "unpicklable-info",
    "raise-in-reset",
    "raise-in-make",
    "exit-in-make",
    "hang-in-close",
    "child",
)


class LockedError(Exception):
    """An error that cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class FaultyEnv(gym.Env[np.ndarray, int]):
    """Counts steps in its observation; at step `at` of the process's life it does what it must."""

    observation_space = gym.spaces.Box(-1e6, 1e6, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, family: "FaultyFamily", source: TaskSource) -> None:
        self.family, self.source = family, source
        self.lived = 0
        self.colour = "red"
        self.child: subprocess.Popen[bytes] | None = None
        fault = self.fault
        if fault == "raise-in-make":
            raise OSError("no licence")
        if fault == "exit-in-make":
            os._exit(4)

    @property
    def fault(self) -> str:
        if not isinstance(self.source, Task):
            return "none"
        return FAULTS[int(self.source.params["fault"])]

    def set_task_source(self, source: TaskSource) -> None:
        self.source = source

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        source = (options or {}).get("task", self.source)
        if not isinstance(source, Task):
            source = self.family.sample(1, self.np_random, source)[0]
        self.task, self.steps = source, 0
        if self.fault == "raise-in-reset" and self.lived > 0:
            raise ValueError("cannot begin again")
        return self._observe(), self._info()

    def _observe(self) -> np.ndarray:
        return np.array([self.steps, self.np_random.random()], np.float32)

    def _info(self) -> dict[str, Any]:
        return {"task_id": self.task.id}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.lived += 1
        obs, reward, info = self._observe(), float(action), self._info()
        if self.lived == self.task.params["at"]:
            obs, reward = self._fail(obs, reward, info)
        return obs, reward, False, self.steps == self.family.horizon, info

    def _fail(self, obs: np.ndarray, reward: float, info: dict[str, Any]) -> tuple[Any, float]:
        match self.fault:
            case "raise" | "unpicklable-error":
                raise ValueError("bad luck") if self.fault == "raise" else LockedError("locked")
            case "exit":
                os._exit(3)
            case "sys.exit":
                sys.exit("enough")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(1000)
            case "nan-observation":
                obs[1] = np.nan
            case "infinite-reward":
                reward = np.inf
            case "unpicklable-info":
                info["lock"] = threading.Lock()
            case "child":
                self.child = subprocess.Popen(["sleep", "1000"])
        return obs, reward

    def child_pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    def complain(self) -> None:
        raise KeyError("never asked")

    def close(self) -> None:
        if self.fault == "hang-in-close":
            time.sleep(1000)
        if self.family.farewell is not None:
            with Path(self.family.farewell).open("a") as file:
                file.write("closed\n")


@dataclass(frozen=True, kw_only=True)
class FaultyFamily:
    """Tasks with a number in `FAULTS`, and the step at which it happens."""

    horizon: int = 4
    farewell: str | None = None
    name: str = "faulty"
    splits_overlap: bool = False

    @cached_property
    def observation_space(self) -> gym.Space[Any]:
        return FaultyEnv.observation_space

    @cached_property
    def action_space(self) -> gym.Space[Any]:
        return FaultyEnv.action_space

    def task(self, fault: str, at: int = 2, split: Split = "train") -> Task:
        params = {"fault": FAULTS.index(fault), "at": at}
        return Task(family=self.name, params=params, split=split)

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        return [self.task("none", int(at), split) for at in rng.integers(1000, 10**6, n)]

    def context(self, task: Task) -> np.ndarray:
        return np.array([task.params["fault"], task.params["at"]], np.float32)

    def make(self, task: TaskSource, render_mode: str | None = None) -> FaultyEnv:
        return FaultyEnv(self, task)

    def make_vec(self, tasks: Sequence[TaskSource], seed: int | None = None) -> SyncVectorEnv:
        makers = [lambda task=task: self.make(task) for task in tasks]
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


class MixedEnv(gym.Env[dict[str, Any], tuple[np.ndarray, int]]):
    """Observes its last action, and a sequence as long as its episode."""

    observation_space = gym.spaces.Dict(
        place=gym.spaces.Box(-1, 1, (2,), np.float64),
        path=gym.spaces.Sequence(gym.spaces.Discrete(3)),
    )
    action_space = gym.spaces.Tuple(
        (gym.spaces.Box(-1, 1, (2,), np.float64), gym.spaces.Discrete(3))
    )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.path = self.np_random.random(2), ()
        return {"place": self.place, "path": self.path}, {"nested": {"length": 0}}

    def step(
        self, action: tuple[np.ndarray, int]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.place, self.path = action[0], (*self.path, int(action[1]))
        obs = {"place": self.place, "path": self.path}
        return obs, float(action[0][0]), len(self.path) == 3, False, {"nested": {"length": 1}}


@dataclass(frozen=True, kw_only=True)
class MixedFamily(FaultyFamily):
    """Environments with `Dict`, `Sequence` and `Tuple` spaces."""

    name: str = "mixed"

    @cached_property
    def observation_space(self) -> gym.Space[Any]:
        return MixedEnv.observation_space

    @cached_property
    def action_space(self) -> gym.Space[Any]:
        return MixedEnv.action_space

    def make(self, task: TaskSource, render_mode: str | None = None) -> Any:
        return MixedEnv()
