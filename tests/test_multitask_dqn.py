"""DQN for many tasks against Stable-Baselines3's, and what one task's loss may touch."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny_multitask import (
    NETWORK,
    UNTOLD,
    FixedBuffer,
    permute_tasks,
    permuted,
    quiet,
    random_batch,
    tiny_dqn,
    tiny_env,
)

from mtrl.agents.balancing import PCGrad, UPGrad
from mtrl.agents.multitask.dqn import MultiTaskDQN
from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.multitask.replay_buffer import MultiTaskReplayBuffer
from mtrl.agents.multitask.statistics import RewardScaling
from mtrl.agents.networks import MLP, NetworkConfig, Shared, TaskParameters, TaskSpec
from mtrl.agents.objectives import TaskObjective
from mtrl.agents.policies import MultiTaskQPolicy
from mtrl.agents.q_learning.n_step import NO_STEP
from mtrl.errors import UsageError

SETTINGS: dict[str, Any] = {"learning_rate": 0.01, "gamma": 0.9, "batch_size": 32}


def plain_dqn() -> DQN:
    """Stable-Baselines3's own, on observations without a context."""
    policy = {"net_arch": [8]}
    return quiet(
        DQN("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs=policy, device="cpu", **SETTINGS)
    )


def layers(q_net: Any) -> list[tuple[Any, Any]]:
    """Weight and bias of the two layers, without the axis of tasks."""
    if hasattr(q_net, "network"):
        parts = (q_net.network.trunk.layers[0], q_net.network.head.affine)
        return [(part.weight[0], part.bias[0]) for part in parts]
    return [(part.weight, part.bias) for part in (q_net.q_net[0], q_net.q_net[2])]


def test_with_one_task_an_update_is_that_of_stable_baselines3() -> None:
    ours = tiny_dqn(1, policy_kwargs={"network": UNTOLD}, **SETTINGS)
    theirs = plain_dqn()
    with torch.no_grad():
        for mine, their in ((ours.q_net, theirs.q_net), (ours.q_net_target, theirs.q_net_target)):
            for pair, expected in zip(layers(mine), layers(their), strict=True):
                for part, value in zip(pair, expected, strict=True):
                    part.copy_(value)
    chance = np.random.default_rng(0)
    for number in range(50):
        obs, successor = chance.normal(size=(2, 1, 4)).astype(np.float32)
        told = [np.concatenate([part, np.ones((1, 1))], 1) for part in (obs, successor)]
        infos = [{"TimeLimit.truncated": number % 3 == 0}]
        rest = (chance.integers(2, size=1), chance.normal(size=1), [number % 2 == 0], infos)
        assert ours.replay_buffer is not None and theirs.replay_buffer is not None
        ours.replay_buffer.add(*told, *rest)
        theirs.replay_buffer.add(obs, successor, *rest)
    before = [weight.clone() for weight, _ in layers(ours.q_net)]
    for each in (ours, theirs):
        np.random.seed(7)  # noqa: NPY002
        each.train(gradient_steps=3, batch_size=32)
    for pair, expected, old in zip(layers(ours.q_net), layers(theirs.q_net), before, strict=True):
        torch.testing.assert_close(pair, expected, rtol=1e-5, atol=1e-6)
        assert (pair[0] - old).abs().max() > 0.01


def gradients(agent: MultiTaskDQN, index: list[int]) -> dict[str, torch.Tensor]:
    """Gradients that an update leaves in the networks, the step itself being nothing."""
    for group in agent.policy.optimizer.param_groups:
        group["lr"] = 0.0
    agent.lr_schedule = lambda _: 0.0
    agent.max_grad_norm = 1e9
    fixed: Any = FixedBuffer(random_batch(agent, index))
    agent.replay_buffer = fixed
    agent.train(gradient_steps=1, batch_size=len(index))
    found = agent.q_net.named_parameters()
    return {name: part.grad.clone() for name, part in found if part.grad is not None}


def test_a_task_s_loss_touches_the_trunk_and_its_own_head() -> None:
    for name, gradient in gradients(tiny_dqn(), [1, 1, 1]).items():
        if ".head." in name or ".code." in name:
            assert bool((gradient[1] != 0).any())
            assert not bool(gradient[[0, 2]].any())
        else:
            assert bool((gradient != 0).any())


def test_a_weight_multiplies_its_task_s_loss_everywhere() -> None:
    index = [0, 1, 2, 0, 2]
    alone = []
    for task in range(3):
        agent = tiny_dqn()
        # Weights are read before the optimizer sees the sum: those of 0 leave one task's part.
        agent.policy.set_task_weights(np.eye(3)[task])
        alone.append(gradients(agent, index))
    whole = gradients(tiny_dqn(), index)
    agent = tiny_dqn()
    agent.policy.set_task_weights([0.5, 2.0, 0.25])
    weighed = gradients(agent, index)
    for name in whole:
        parts = torch.stack([part[name] for part in alone])
        torch.testing.assert_close(whole[name], parts.sum(0))
        torch.testing.assert_close(
            weighed[name], torch.tensordot(torch.tensor([0.5, 2.0, 0.25]), parts, 1)
        )


def test_a_balancer_decides_the_trunk_s_gradient_and_nothing_else() -> None:
    index = [0, 1, 2, 0, 2]
    alone = []
    for task in range(3):
        agent = tiny_dqn()
        agent.policy.set_task_weights(np.eye(3)[task])
        alone.append(gradients(agent, index))
    whole = gradients(tiny_dqn(), index)
    agent = tiny_dqn(policy_kwargs={"balancer": UPGrad()})
    agent.policy.load_state_dict(
        {
            name.replace(".trunk.", ".trunk.trunk."): v
            for name, v in tiny_dqn().policy.state_dict().items()
        }
    )
    balanced = gradients(agent, index)
    (trunk,) = agent.policy.balanced_trunks().values()
    assert trunk.weights is not None
    assert (trunk.weights - 1).abs().max() > 1e-3
    for name, gradient in whole.items():
        if ".head." in name:
            torch.testing.assert_close(balanced[name], gradient)
        else:
            parts = torch.stack([part[name] for part in alone])
            combined = torch.tensordot(trunk.weights.float(), parts, 1)
            torch.testing.assert_close(
                balanced[name.replace(".trunk.", ".trunk.trunk.")], combined, rtol=1e-4, atol=1e-6
            )


def test_permuting_tasks_permutes_an_update() -> None:
    order = torch.tensor([2, 0, 1])
    first, second = tiny_dqn(**SETTINGS), tiny_dqn(**SETTINGS)
    permute_tasks(second.policy, order)
    batch = random_batch(first, [0, 1, 2, 2, 1, 0])
    for agent, seen in ((first, batch), (second, permuted(batch, order))):
        fixed: Any = FixedBuffer(seen)
        agent.replay_buffer = fixed
        agent.train(gradient_steps=2, batch_size=6)
    permute_tasks(first.policy, order)
    expected = first.policy.state_dict()
    for name, value in second.policy.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_every_minibatch_has_equal_shares_and_none_of_a_failed_task() -> None:
    agent = tiny_dqn(3, slots=6, batch_size=12, train_freq=1)
    agent.learn(60)
    buffer = agent.replay_buffer
    assert isinstance(buffer, MultiTaskReplayBuffer)
    assert_array_equal(buffer.counts, [20, 20, 20])
    index = agent.policy.task_index(buffer.sample(12).observations)
    assert_array_equal(index.bincount(), [4, 4, 4])
    env: Any = agent.env
    env.healthy[1] = False
    agent.learn(12)
    index = agent.policy.task_index(buffer.sample(12).observations)
    assert_array_equal(index.bincount(), [6, 0, 6])


def test_rounds_move_the_weights_as_the_objective_says_and_are_logged() -> None:
    names = ("t0", "t1", "t2")
    objective = TaskObjective("worst-return", names, step_size=0.05)
    agent = tiny_dqn(steps_per_round=400, objective=objective, train_freq=1)
    env: Any = agent.env
    agent.learn(399)
    torch.testing.assert_close(agent.policy.task_weights, torch.ones(3))
    returns = env.statistics.rollout_returns()
    agent.learn(3, reset_num_timesteps=False)
    expected = TaskObjective("worst-return", names, step_size=0.05)
    # The last steps may have ended an episode, which moves the mean.
    assert np.abs(returns - env.statistics.rollout_returns()).max() < 10
    expected.update(env.statistics.rollout_returns())
    weights = 3 * torch.tensor(expected.return_weights).float()
    torch.testing.assert_close(agent.policy.task_weights, weights)
    assert (weights - 1).abs().max() > 1e-3
    logged = agent.logger.name_to_value
    for name, value in zip(names, env.statistics.rollout_returns(), strict=True):
        assert logged[f"multitask/return/{name}"] == pytest.approx(value)
    assert not env.statistics.rollout_episodes().any()


def test_rewards_are_scaled_and_go_on_so_after_loading(tmp_path: Path) -> None:
    agent = tiny_dqn(reward_scaling=RewardScaling())
    agent.learn(90)
    assert agent.reward_scale is not None
    assert isinstance(agent.replay_buffer, MultiTaskReplayBuffer)
    assert agent.replay_buffer.reward_scale is agent.reward_scale
    deviation = np.sqrt(agent.reward_scale.variance)
    assert deviation.min() > 1.5
    drawn = agent.replay_buffer.sample(30)
    index = agent.policy.task_index(drawn.observations).numpy()
    np.testing.assert_allclose(drawn.rewards[:, 0], 1 / deviation[index], rtol=1e-5)
    agent.save(tmp_path / "agent")
    loaded = MultiTaskDQN.load(tmp_path / "agent", env=tiny_env("cartpole", 3), device="cpu")
    assert loaded.reward_scale is not None
    assert isinstance(loaded.replay_buffer, MultiTaskReplayBuffer)
    assert loaded.replay_buffer.reward_scale is loaded.reward_scale
    assert_array_equal(loaded.reward_scale.variance, agent.reward_scale.variance)
    with pytest.raises(UsageError, match="ReplayBuffer does not scale by tasks"):
        tiny_dqn(reward_scaling=RewardScaling(), replay_buffer_class=ReplayBuffer)


def test_a_saved_agent_acts_and_goes_on_the_same(tmp_path: Path) -> None:
    agent = tiny_dqn(policy_kwargs={"balancer": PCGrad()})
    agent.learn(60)
    agent.policy.set_task_weights([0.0, 1.0, 2.0])
    agent.save(tmp_path / "agent")
    agent.policy.save(str(tmp_path / "policy"))
    seen = random_batch(agent, [0, 1, 2]).observations
    loaded = MultiTaskDQN.load(tmp_path / "agent", device="cpu")
    for policy in (loaded.policy, MultiTaskQPolicy.load(str(tmp_path / "policy"), device="cpu")):
        torch.testing.assert_close(policy.q_net(seen), agent.q_net(seen), rtol=0, atol=0)
    policy = MultiTaskQPolicy.load(str(tmp_path / "policy"), device="cpu")
    policy.q_net(seen).sum().backward()
    assert policy.q_net.network.head.affine.bias.grad is not None
    torch.testing.assert_close(
        policy.q_net.network.head.affine.bias.grad, torch.tensor([[0.0] * 2, [1.0] * 2, [2.0] * 2])
    )
    loaded.set_env(tiny_env("cartpole", 3))
    loaded.learn(60)
    assert loaded.objective is None


def test_the_policy_serves_stable_baselines3_s_own_dqn() -> None:
    policy = {"network": NETWORK, "spec": TaskSpec(tasks=2)}
    agent = DQN(
        MultiTaskQPolicy,
        tiny_env("cartpole", 2),
        policy_kwargs=policy,
        learning_starts=20,
        device="cpu",
    )
    agent.learn(60)
    observation = np.array([0.1, 0, 0, 0, 0, 1], np.float32)
    action, _ = agent.predict(observation, deterministic=True)
    values = agent.q_net(torch.from_numpy(observation).unsqueeze(0))
    assert action == values.argmax()


def test_another_buffer_is_used_as_given() -> None:
    agent = tiny_dqn(replay_buffer_class=ReplayBuffer, n_steps=1)
    assert type(agent.replay_buffer) is ReplayBuffer
    agent.learn(60)


def test_returns_of_several_steps_are_the_buffers() -> None:
    agent = tiny_dqn(n_steps=3, gamma=0.9)
    buffer = agent.replay_buffer
    assert isinstance(buffer, MultiTaskReplayBuffer)
    assert (buffer.n_steps, buffer.gamma) == (3, 0.9)
    agent.learn(60)
    drawn = buffer.sample(64)
    assert drawn.discounts is not None
    lengths = {0.9: 1.0, 0.9**2: 1.9, 0.9**3: 2.71}
    for discount, rewards in zip(drawn.discounts[:, 0], drawn.rewards[:, 0], strict=True):
        # Cart-pole gives 1 in every step.
        assert rewards == pytest.approx(lengths[min(lengths, key=lambda x: abs(x - discount))])
    going_on = buffer.newest.copy()
    assert (going_on != NO_STEP).any()
    agent.learn(2, reset_num_timesteps=True)
    successors = buffer.successors.reshape(-1)
    assert (successors[going_on[going_on != NO_STEP]] == NO_STEP).all()


def other_names() -> Any:
    env = tiny_env("cartpole", 3)
    env.names = ("a", "b", "c")
    return env


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="no MultiTaskVecEnv"):
        MultiTaskDQN("MultiTaskPolicy", DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    with pytest.raises(UsageError, match="n_steps is 0"):
        tiny_dqn(n_steps=0)
    with pytest.raises(UsageError, match="steps_per_round is 0"):
        tiny_dqn(steps_per_round=0)
    with pytest.raises(UsageError, match=r"policy_kwargs\['spec'\] is .*; leave it out"):
        tiny_dqn(policy_kwargs={"spec": TaskSpec(tasks=2)})
    with pytest.raises(UsageError, match="objective weighs tasks a and the environment has t0"):
        tiny_dqn(objective=TaskObjective("worst-return", ["a"], step_size=0.1))
    with pytest.raises(UsageError, match="env has tasks a, b, c and the algorithm was made for"):
        tiny_dqn().set_env(other_names())
    with pytest.raises(UsageError, match="tasks is empty"):
        MultiTaskVecEnv(tiny_env("cartpole", 1).venv, [])
    objective = TaskObjective("worst-return", ("t0", "t1"), step_size=0.1)
    with pytest.raises(UsageError, match="DQNPolicy has no task weights; use MultiTaskPolicy"):
        MultiTaskDQN("MlpPolicy", tiny_env("cartpole", 2), objective=objective)


def test_weights_that_cannot_be_are_refused() -> None:
    policy = tiny_dqn().policy
    with pytest.raises(UsageError, match="shape .2,.; there must be one for each of 3 tasks"):
        policy.set_task_weights([1.0, 1.0])
    for wrong in ([1.0, -1.0, 3.0], [1.0, np.nan, 1.0]):
        with pytest.raises(UsageError, match="must be finite and none below 0"):
            policy.set_task_weights(wrong)
    network = NetworkConfig(trunk=MLP(hidden=(8,)), conditioning=TaskParameters(), head=Shared())
    spaces = (gym.spaces.Box(-1, 1, (5,)), gym.spaces.Discrete(2))
    told: dict[str, Any] = {"network": network, "spec": TaskSpec(tasks=1, context=2)}
    with pytest.raises(UsageError, match="weights need the number of the task"):
        MultiTaskQPolicy(*spaces, lambda _: 0.1, **told).set_task_weights([1.0])
    with pytest.raises(UsageError, match="has PCGrad, which needs the number of the task"):
        MultiTaskQPolicy(*spaces, lambda _: 0.1, **told, balancer=PCGrad())
    with pytest.raises(UsageError, match="net_arch is .8.; the argument network replaces it"):
        MultiTaskQPolicy(*spaces, lambda _: 0.1, **told, net_arch=[8])
