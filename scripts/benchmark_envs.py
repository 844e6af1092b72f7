"""Measure how fast task families step, against Gymnasium's own vector environments.

    python scripts/benchmark_envs.py
    python scripts/benchmark_envs.py --families cartpole --sizes 256 --repeats 31

Rows are a family and a number of sub-environments; every environment of a row steps in turns in the
same process, and each ratio is the median over the turns of that turn's ratio, so that what else
the machine does falls on both sides. Ours reset a finished episode in the same step; the peers'
`vector_entry_point` takes an extra step for it, which is no transition and is not counted.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.envs.registration import registry

from mtrl.envs.family import TaskFamily
from mtrl.envs.registry import get_family

PEERS = {
    "cartpole": "CartPole-v1",
    "pendulum": "Pendulum-v1",
    "acrobot": "Acrobot-v1",
    "mountaincar": "MountainCar-v0",
    "mountaincar-continuous": "MountainCarContinuous-v0",
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    families: tuple[str, ...] = tuple(PEERS)
    """Names of families that have a Gymnasium environment to compare with."""
    sizes: tuple[int, ...] = (1, 16, 256)
    """Numbers of sub-environments."""
    repeats: int = 15
    """Turns of each environment; the median is reported."""
    seconds: float = 0.02
    """Length of a turn."""


def environments(family: TaskFamily, name: str, size: int) -> dict[str, gym.vector.VectorEnv]:
    """Return the environments of one row: ours with equal and with different tasks, and peers."""
    tasks = family.sample(size, np.random.default_rng(0), "train")
    found = {
        "same task": family.make_vec([tasks[0]] * size),
        "different tasks": family.make_vec(tasks),
        "sync": gym.make_vec(PEERS[name], size, vectorization_mode="sync"),
    }
    if registry[PEERS[name]].vector_entry_point is not None:
        found["vector"] = gym.make_vec(PEERS[name], size, vectorization_mode="vector_entry_point")
    return found


def turn(env: gym.vector.VectorEnv, actions: np.ndarray, seconds: float) -> float:
    """Step for about `seconds` of this process's time; return the transitions per second."""
    waits_for_reset = env.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
    transitions, steps, start = 0, 0, time.process_time()
    ended: Any = 0
    while (now := time.process_time()) < start + seconds or steps == 0:
        _, _, terminated, truncated, _ = env.step(actions[steps % len(actions)])
        transitions += env.num_envs - (ended if waits_for_reset else 0)
        ended = np.count_nonzero(terminated | truncated)
        steps += 1
    return transitions / (now - start)


def measure(setting: Benchmark, name: str, size: int) -> dict[str, list[float]]:
    """Return the transitions per second of each environment of a row, one per turn."""
    family = get_family(name)
    assert isinstance(family, TaskFamily)
    envs = environments(family, name, size)
    space = next(iter(envs.values())).action_space
    space.seed(0)
    actions = np.array([space.sample() for _ in range(64)])
    rates: dict[str, list[float]] = {key: [] for key in envs}
    for env in envs.values():
        env.reset(seed=0)
        turn(env, actions, setting.seconds)
    for _ in range(setting.repeats):
        for key, env in envs.items():
            rates[key].append(turn(env, actions, setting.seconds))
    for env in envs.values():
        env.close()
    return rates


def ratio(rates: dict[str, list[float]], ours: str, peer: str) -> str:
    """Return the median ratio over the turns, or a dash where there is no such peer."""
    if peer not in rates:
        return "-"
    pairs = zip(rates[ours], rates[peer], strict=True)
    return f"{statistics.median(one / other for one, other in pairs):.2f}"


def main(setting: Benchmark, show: Callable[[str], None] = print) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    show("| family | envs | transitions/s | x SyncVectorEnv | x vector env | different/same task |")
    show("|---|--:|--:|--:|--:|--:|")
    for name in setting.families:
        for size in setting.sizes:
            rates = measure(setting, name, size)
            cells = [
                f"{statistics.median(rates['different tasks']):,.0f}",
                ratio(rates, "different tasks", "sync"),
                ratio(rates, "different tasks", "vector"),
                ratio(rates, "different tasks", "same task"),
            ]
            show(f"| {name} | {size} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
