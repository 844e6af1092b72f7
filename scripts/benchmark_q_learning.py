"""Measure deep Q-learning's options against Stable-Baselines3's DQN: environment steps per second.

    python scripts/benchmark_q_learning.py
    python scripts/benchmark_q_learning.py --steps 4000 --turns 11

All agents learn on cart-pole with Stable-Baselines3's default settings (a buffer of a million steps, an
update every 4 steps), on one thread of one process. They take turns; speed is steps per second of
processor time, and a ratio is that of one turn. Medians over turns are printed, with the smallest and
the largest ratio.
"""

import statistics
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from stable_baselines3 import DQN

from mtrl.agents.q_learning import DeepQ, DeepQOptions, Dqfd, PrioritySettings
from mtrl.benchmarks.measure import interleaved, speedups

PEER = "Stable-Baselines3 DQN, uniform"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured."""

    env: str = "CartPole-v1"
    """Gymnasium's id of the environment."""
    steps: int = 2000
    """Environment steps of a turn."""
    turns: int = 11
    """How often each agent gets its turn."""
    buffer_size: int = 1_000_000
    """Of every agent's replay."""
    batch_size: int = 32
    """Of every agent's update."""
    dqfd: bool = True
    """Measure all of DQfD's terms at once, too."""


def agents(settings: Settings) -> dict[str, DQN]:
    """Return the agents by name, the peer first."""
    shared: dict[str, Any] = {
        "env": settings.env,
        "buffer_size": settings.buffer_size,
        "batch_size": settings.batch_size,
        "seed": 0,
        "device": "cpu",
    }
    priorities = PrioritySettings()
    options = {
        "DeepQ, all options off": DeepQOptions(),
        "DeepQ, prioritised": DeepQOptions(prioritized=priorities),
        "DeepQ, prioritised, double": DeepQOptions(prioritized=priorities, double=True),
    }
    if settings.dqfd:
        options["DeepQ, all of DQfD's terms"] = Dqfd().reinforcement
    made = {name: DeepQ("MlpPolicy", options=how, **shared) for name, how in options.items()}
    return {PEER: DQN("MlpPolicy", **shared), **made}


def main(settings: Settings) -> None:
    """Print a table in Markdown."""
    torch.set_num_threads(1)
    models = agents(settings)
    for model in models.values():
        # Beyond the first steps, which make no update, and what torch does once.
        model.learn(500)
    steps = {
        name: lambda model=model: model.learn(settings.steps, reset_num_timesteps=False)
        for name, model in models.items()
    }
    times = interleaved(steps, settings.turns, 0.0)
    ratios = speedups(times, PEER)
    print("| agent | steps per second | times Stable-Baselines3's | smallest | largest |")
    print("|---|--:|--:|--:|--:|")
    for name, turns in times.items():
        speed = settings.steps / statistics.median(own for own, _ in turns)
        ratio = statistics.median(ratios[name])
        ends = f"{min(ratios[name]):.2f} | {max(ratios[name]):.2f}"
        print(f"| {name} | {speed:.0f} | {ratio:.2f} | {ends} |")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
