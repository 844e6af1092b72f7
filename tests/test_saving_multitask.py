"""Agents for many tasks saved and loaded: weights, balancers, temperatures and buffers go on exactly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mtrl.agents.balancing import GradNorm, PCGrad
from mtrl.agents.multitask.dqn import MultiTaskDQN
from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.multitask.ppo import MultiTaskPPO
from mtrl.agents.multitask.sac import MultiTaskSAC
from mtrl.agents.networks import MLP, NetworkConfig, OneHot
from mtrl.agents.objectives import TaskObjective
from mtrl.agents.saving import agent_state, load_agent, load_agent_state, save_agent
from mtrl.envs.registry import get_family
from mtrl.errors import CheckpointError, UsageError

NETWORK = NetworkConfig(trunk=MLP(hidden=(6,)), conditioning=OneHot())
OFF_POLICY = {"learning_starts": 30, "buffer_size": 120, "batch_size": 9, "steps_per_round": 30}


def env(family: str, tasks: int = 3) -> MultiTaskVecEnv:
    made = get_family(family)
    drawn = made.sample(tasks, np.random.default_rng(tasks), "train")
    return MultiTaskVecEnv(made.make_sb3(drawn * 2), drawn, names=[f"t{i}" for i in range(tasks)])


def worst_return(step_size: float = 0.1) -> TaskObjective:
    return TaskObjective("worst-return", ["t0", "t1", "t2"], step_size=step_size)


def ppo() -> MultiTaskPPO:
    policy = {"network": NETWORK, "balancer": PCGrad()}
    settings: dict[str, Any] = {"n_steps": 10, "batch_size": 30, "n_epochs": 2}
    settings |= {"objective": worst_return(), "policy_kwargs": policy}
    return MultiTaskPPO("MultiTaskPolicy", env("cartpole"), seed=2, device="cpu", **settings)


def dqn() -> MultiTaskDQN:
    policy = {"network": NETWORK, "balancer": GradNorm()}
    settings: dict[str, Any] = {"target_update_interval": 30, "policy_kwargs": policy}
    settings |= OFF_POLICY
    return MultiTaskDQN("MultiTaskPolicy", env("cartpole"), seed=2, device="cpu", **settings)


def sac() -> MultiTaskSAC:
    settings: dict[str, Any] = {"policy_kwargs": {"network": NETWORK}} | OFF_POLICY
    return MultiTaskSAC("MultiTaskPolicy", env("pendulum"), seed=2, device="cpu", **settings)


@pytest.mark.parametrize("make", [ppo, dqn, sac])
def test_saved_and_loaded_in_between_it_ends_bit_equal(make: Any, tmp_path: Path) -> None:
    agent = make()
    agent.learn(120)
    save_agent(agent, tmp_path)
    agent.learn(120, reset_num_timesteps=False)
    torch.rand(5)
    # The objective is an object of the caller's: its settings are given again, its weights loaded.
    again = {"objective": worst_return()} if make is ppo else {}
    loaded = load_agent(type(agent), tmp_path, make().env, **again)
    loaded.learn(120, reset_num_timesteps=False)
    (ours, our_values), (theirs, their_values) = agent_state(loaded), agent_state(agent)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert_close(ours[name], theirs[name], rtol=0, atol=0, equal_nan=True, msg=name)
    assert json.dumps(our_values) == json.dumps(their_values)
    if make is ppo:
        assert agent.task_weights.std() > 0.01
        assert_close(loaded.task_weights, agent.task_weights, rtol=0, atol=0)
        assert_close(loaded.policy.task_weights, agent.policy.task_weights, rtol=0, atol=0)
    else:
        stored = theirs["buffers/replay_buffer/content/arrays/rewards"]
        assert len(stored) == agent.replay_buffer.counts.sum()


def test_a_balancer_s_state_is_part_of_the_agent() -> None:
    agent, other = dqn(), dqn()
    agent.learn(120)
    (trunk,) = agent.policy.trunks().values()
    kept = trunk.balancer.state_dict()
    assert kept != next(iter(other.policy.trunks().values())).balancer.state_dict()
    load_agent_state(other, *agent_state(agent))
    assert next(iter(other.policy.trunks().values())).balancer.state_dict() == kept


def test_an_objective_must_be_given_again_and_be_the_same(tmp_path: Path) -> None:
    agent = ppo()
    agent.learn(60)
    save_agent(agent, tmp_path)
    with pytest.raises(UsageError, match=r"objective of the saved agent .* give it again"):
        load_agent(MultiTaskPPO, tmp_path, env("cartpole"))
    with pytest.raises(CheckpointError, match="one of checkpoint and algorithm has an objective"):
        load_agent(MultiTaskPPO, tmp_path, env("cartpole"), objective=None)


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    agent = sac()
    agent.learn(60)
    save_agent(agent, tmp_path)
    with pytest.raises(CheckpointError, match="tells 4 tasks|observation space"):
        load_agent(MultiTaskSAC, tmp_path, env("pendulum", tasks=4))
    fewer = get_family("pendulum").sample(3, np.random.default_rng(9), "train")
    others = MultiTaskVecEnv(
        get_family("pendulum").make_sb3(fewer * 2), fewer, names=["t0", "t1", "t2"]
    )
    with pytest.raises(CheckpointError, match="tasks"):
        load_agent(MultiTaskSAC, tmp_path, others)
