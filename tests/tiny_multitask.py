"""Small off-policy agents for many tasks, and batches to train them on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from mtrl.agents.multitask.dqn import MultiTaskDQN
from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.multitask.sac import MultiTaskSAC
from mtrl.agents.networks import MLP, NetworkConfig, OneHot
from mtrl.envs.registry import get_family

NETWORK = NetworkConfig(trunk=MLP(hidden=(8,)), conditioning=OneHot())
UNTOLD = NetworkConfig(trunk=MLP(hidden=(8,)))


def tiny_env(family: str, tasks: int, *, slots: int | None = None) -> MultiTaskVecEnv:
    """Return an environment of `slots` slots, one for each task unless given."""
    made = get_family(family)
    drawn = made.sample(tasks, np.random.default_rng(0), "train")
    played = [drawn[slot % tasks] for slot in range(slots or tasks)]
    return MultiTaskVecEnv(made.make_sb3(played), drawn, names=[f"t{i}" for i in range(tasks)])


def quiet(agent: Any) -> Any:
    """Return `agent`, able to log without `learn`."""
    agent.set_logger(Logger(folder=None, output_formats=[]))
    return agent


def tiny_dqn(tasks: int = 3, *, slots: int | None = None, **settings: Any) -> MultiTaskDQN:
    """Return DQN on cart-poles."""
    return _tiny(MultiTaskDQN, tiny_env("cartpole", tasks, slots=slots), settings)


def tiny_sac(tasks: int = 3, *, slots: int | None = None, **settings: Any) -> MultiTaskSAC:
    """Return SAC on pendulums."""
    return _tiny(MultiTaskSAC, tiny_env("pendulum", tasks, slots=slots), settings)


def _tiny(kind: Any, env: MultiTaskVecEnv, settings: dict[str, Any]) -> Any:
    policy = {"network": NETWORK, **settings.pop("policy_kwargs", {})}
    usual = {"buffer_size": 300, "learning_starts": 30, "device": "cpu", "seed": 0}
    return quiet(kind("MultiTaskPolicy", env, policy_kwargs=policy, **{**usual, **settings}))


class FixedBuffer:
    """Gives the same batch whenever it is asked."""

    def __init__(self, batch: ReplayBufferSamples) -> None:
        self.batch = batch

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        return self.batch


def random_batch(agent: Any, index: Sequence[int], *, seed: int = 0) -> ReplayBufferSamples:
    """Return transitions of these tasks, everything else in them random."""
    chance = torch.Generator().manual_seed(seed)
    rows, tasks = len(index), len(agent.task_names)
    size = agent.observation_space.shape[0] - tasks
    context = torch.eye(tasks)[list(index)]

    def seen() -> Tensor:
        return torch.cat([torch.randn(rows, size, generator=chance), context], 1)

    if agent.action_space.shape:
        actions = torch.rand(rows, *agent.action_space.shape, generator=chance) * 2 - 1
    else:
        actions = torch.randint(int(agent.action_space.n), (rows, 1), generator=chance)
    observations, successors = seen(), seen()
    rewards = torch.randn(rows, 1, generator=chance)
    dones = (torch.rand(rows, 1, generator=chance) < 0.3).float()
    return ReplayBufferSamples(observations, actions, successors, dones, rewards)


def permuted(batch: ReplayBufferSamples, order: Tensor) -> ReplayBufferSamples:
    """Return the batch in which what was task order[i] is task i."""
    size = batch.observations.shape[1] - len(order)

    def told(observations: Tensor) -> Tensor:
        return torch.cat([observations[:, :size], observations[:, size:][:, order]], 1)

    return batch._replace(
        observations=told(batch.observations), next_observations=told(batch.next_observations)
    )


def permute_tasks(policy: Any, order: Tensor) -> None:
    """Give task i the heads and codes of what was task order[i]."""
    state = policy.state_dict()
    for name, value in state.items():
        if ".head." in name or ".code." in name:
            state[name] = value[order]
    policy.load_state_dict(state)
