"""Small agents that learn two opposite tasks of the counting family, one after the other."""

from typing import Any

import numpy as np
import torch
from counting_family import Counting, task
from stable_baselines3.common.logger import Logger
from torch import Tensor

from mtrl.agents.incremental import EpisodeScorer, IncrementalRunner, TaskSequence
from mtrl.agents.multitask.dqn import MultiTaskDQN
from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.multitask.ppo import MultiTaskPPO
from mtrl.agents.multitask.sac import MultiTaskSAC
from mtrl.agents.networks import MLP, NetworkConfig, OneHot, PerTask, Shared
from mtrl.envs.registry import get_family

FAMILY = Counting(horizon=6)
# In "up" action 1 is right and earns 6 in an episode; in "down" it is action 0, which earns 3.
TASKS = {"up": task(1.0), "down": task(-1.0), "far": task(0.5)}
SHARED = NetworkConfig(trunk=MLP(hidden=(16,)), conditioning=OneHot(), head=Shared())
OWN = NetworkConfig(trunk=MLP(hidden=(8,)), conditioning=OneHot(), head=PerTask())

PPO_SETTINGS: dict[str, Any] = {"n_steps": 12, "batch_size": 24, "n_epochs": 4, "gamma": 0.5}
DQN_SETTINGS: dict[str, Any] = {
    "buffer_size": 600,
    "learning_starts": 16,
    "batch_size": 16,
    "train_freq": 2,
    "target_update_interval": 40,
    "gamma": 0.5,
    "steps_per_round": 96,
}


def envs(*names: str, slots: int = 4) -> MultiTaskVecEnv:
    tasks = [TASKS[name] for name in names]
    return MultiTaskVecEnv(FAMILY.make_sb3([tasks[0]] * slots), tasks, names=names)


def ppo(*names: str, network: NetworkConfig = SHARED, **settings: Any) -> MultiTaskPPO:
    policy = {"network": network, **settings.pop("policy_kwargs", {})}
    usual = {**PPO_SETTINGS, "learning_rate": 0.01, "seed": 0, "device": "cpu"}
    made = MultiTaskPPO(
        "MultiTaskPolicy", envs(*names), policy_kwargs=policy, **{**usual, **settings}
    )
    return quiet(made)


def dqn(*names: str, network: NetworkConfig = SHARED, **settings: Any) -> MultiTaskDQN:
    usual = {**DQN_SETTINGS, "learning_rate": 0.005, "seed": 0, "device": "cpu"}
    made = MultiTaskDQN(
        "MultiTaskPolicy", envs(*names), policy_kwargs={"network": network}, **{**usual, **settings}
    )
    return quiet(made)


def pendulum_envs() -> MultiTaskVecEnv:
    made: Any = get_family("pendulum")
    played = made.sample(2, np.random.default_rng(0), "train")
    return MultiTaskVecEnv(made.make_sb3([played[0]] * 2), played, names=("t0", "t1"))


def gaussian_ppo() -> MultiTaskPPO:
    """Return PPO on pendulums t0 and t1."""
    usual: dict[str, Any] = {"n_steps": 8, "batch_size": 16, "n_epochs": 2, "learning_rate": 0.01}
    policy = {"network": SHARED}
    return quiet(
        MultiTaskPPO(
            "MultiTaskPolicy", pendulum_envs(), policy_kwargs=policy, seed=0, device="cpu", **usual
        )
    )


def sac(network: NetworkConfig = OWN, **settings: Any) -> MultiTaskSAC:
    """Return SAC on pendulums t0 and t1."""
    env = pendulum_envs()
    usual = {"buffer_size": 200, "learning_starts": 8, "batch_size": 8, "seed": 0, "device": "cpu"}
    return quiet(
        MultiTaskSAC(
            "MultiTaskPolicy", env, policy_kwargs={"network": network}, **{**usual, **settings}
        )
    )


def quiet(agent: Any) -> Any:
    agent.set_logger(Logger(folder=None, output_formats=[]))
    return agent


def runner(agent: Any, *order: str, steps: int = 96, **settings: Any) -> IncrementalRunner:
    sequence = TaskSequence(order=order, steps=(steps,), **settings)
    scorer = EpisodeScorer(envs(*agent.task_names, slots=len(agent.task_names)))
    return IncrementalRunner(agent, sequence, scorer)


def parameters(agent: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in agent.policy.named_parameters()}


def seen(agent: Any, task_number: int, rows: int = 20) -> Tensor:
    """Return observations of a task, as its policy gets them."""
    chance = torch.Generator().manual_seed(7)
    size = agent.observation_space.shape[0] - len(agent.task_names)
    context = torch.eye(len(agent.task_names))[[task_number] * rows]
    return torch.cat([torch.randn(rows, size, generator=chance), context], 1)
