"""Measure how fast task families step, against Gymnasium's own vector environments.

    python scripts/benchmark_envs.py
    python scripts/benchmark_envs.py --families cartpole --sizes 256 --repeats 31
    python scripts/benchmark_envs.py --families halfcheetah-direction --sizes 64 --seconds 0.5

Rows are a family and a number of sub-environments; every environment of a row steps in turns in the
same process, and each ratio is the median over the turns of that turn's ratio, so that what else
the machine does falls on both sides. Ours reset a finished episode in the same step; the peers'
`vector_entry_point` takes an extra step for it, which is no transition and is not counted.

Classic control is measured in processor time. Simulated bodies are stepped by `--threads` threads
against processes (AsyncVectorEnv) and EnvPool's threads, if it is installed, so that they are
measured in wall time and want an idle machine.
"""

import importlib.util
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
SIMULATED = {
    "halfcheetah-direction": "HalfCheetah-v5",
    "halfcheetah-velocity": "HalfCheetah-v5",
    "ant-velocity": "Ant-v5",
    "humanoid-direction": "Humanoid-v5",
    "hopper-parameters": "Hopper-v5",
    "walker2d-parameters": "Walker2d-v5",
}
Env = gym.vector.VectorEnv
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    families: tuple[str, ...] = tuple(PEERS)
    """Names of families that have a Gymnasium environment to compare with: those of classic control,
    or of simulated bodies, such as halfcheetah-direction."""
    sizes: tuple[int, ...] = (1, 16, 256)
    """Numbers of sub-environments."""
    repeats: int = 15
    """Turns of each environment; the median is reported."""
    seconds: float = 0.02
    """Length of a turn."""
    threads: int = 2
    """Threads of ours and of EnvPool, for simulated bodies."""


class EnvPool:
    """EnvPool's environment, with the interface that a turn needs."""

    def __init__(self, gymnasium_id: str, size: int, threads: int) -> None:
        import envpool

        self._env = envpool.make_gymnasium(gymnasium_id, num_envs=size, num_threads=threads)
        self.num_envs = size
        # It resets a finished episode in the next step, in place of a transition.
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}

    def reset(self, seed: int) -> Any:
        """Begin all episodes; the seeds were given when the environment was made."""
        return self._env.reset()

    def step(self, actions: np.ndarray) -> Any:
        """Step all environments, whose controls are float64."""
        return self._env.step(actions.astype(np.float64))

    def close(self) -> None:
        """Leave its threads: it closes them when it is deleted."""


def environments(setting: Benchmark, family: TaskFamily, size: int) -> dict[str, Any]:
    """Return the environments of one row: ours with equal and with different tasks, and peers."""
    tasks = family.sample(size, np.random.default_rng(0), "train")
    found: dict[str, Any] = {
        "same task": family.make_vec([tasks[0]] * size),
        "different tasks": family.make_vec(tasks),
    }
    peer = (PEERS | SIMULATED)[family.name]
    # Made last: the processes inherit what is there.
    modes = {"sync": "sync"}
    if registry[peer].vector_entry_point is not None:
        modes["vector"] = "vector_entry_point"
    if family.name in SIMULATED:
        modes["async"] = "async"
        if importlib.util.find_spec("envpool") is not None:
            found["envpool"] = EnvPool(peer, size, setting.threads)
    return found | {k: gym.make_vec(peer, size, vectorization_mode=m) for k, m in modes.items()}


def turn(env: Env | EnvPool, actions: np.ndarray, seconds: float, clock: Clock) -> float:
    """Step for about `seconds` of `clock`; return the transitions per second."""
    waits_for_reset = env.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
    transitions, steps, start = 0, 0, clock()
    ended: Any = 0
    while (now := clock()) < start + seconds or steps == 0:
        _, _, terminated, truncated, _ = env.step(actions[steps % len(actions)])
        transitions += env.num_envs - (ended if waits_for_reset else 0)
        ended = np.count_nonzero(terminated | truncated)
        steps += 1
    return transitions / (now - start)


def measure(setting: Benchmark, name: str, size: int) -> dict[str, list[float]]:
    """Return the transitions per second of each environment of a row, one per turn."""
    threaded = name in SIMULATED
    family = get_family(name, **({"threads": setting.threads} if threaded else {}))
    assert isinstance(family, TaskFamily)
    envs = environments(setting, family, size)
    clock = time.perf_counter if threaded else time.process_time
    space = next(iter(envs.values())).action_space
    space.seed(0)
    actions = np.array([space.sample() for _ in range(64)])
    rates: dict[str, list[float]] = {key: [] for key in envs}
    for env in envs.values():
        env.reset(seed=0)
        turn(env, actions, setting.seconds, clock)
    for _ in range(setting.repeats):
        for key, env in envs.items():
            rates[key].append(turn(env, actions, setting.seconds, clock))
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
    peers = {"sync": "SyncVectorEnv", "vector": "vector env"}
    if any(name in SIMULATED for name in setting.families):
        peers = {"sync": "SyncVectorEnv", "async": "AsyncVectorEnv", "envpool": "EnvPool"}
    titles = "".join(f" x {title} |" for title in peers.values())
    show(f"| family | envs | transitions/s |{titles} different/same task |")
    show("|---|--:|--:|" + "--:|" * len(peers) + "--:|")
    for name in setting.families:
        for size in setting.sizes:
            rates = measure(setting, name, size)
            cells = [
                f"{statistics.median(rates['different tasks']):,.0f}",
                *(ratio(rates, "different tasks", peer) for peer in peers),
                ratio(rates, "different tasks", "same task"),
            ]
            show(f"| {name} | {size} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
