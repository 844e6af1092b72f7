"""SAC for many tasks against Stable-Baselines3's, and the temperature of each task on its own."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from tiny_multitask import (
    NETWORK,
    UNTOLD,
    FixedBuffer,
    permute_tasks,
    permuted,
    quiet,
    random_batch,
    tiny_env,
    tiny_sac,
)
from torch import Tensor

from mtrl.agents.balancing import UPGrad
from mtrl.agents.multitask.sac import MultiTaskSAC, temperature_loss
from mtrl.agents.networks import CNN, NetworkConfig, TaskSpec
from mtrl.agents.policies import MultiTaskSACPolicy
from mtrl.errors import UsageError

SETTINGS: dict[str, Any] = {"learning_rate": 0.01, "gamma": 0.9, "tau": 0.1, "batch_size": 32}
Pair = tuple[Tensor, Tensor]


def layers(agent: Any) -> dict[str, list[Pair]]:
    """Weight and bias of the layers of each network, without the axis of tasks."""
    if isinstance(agent, MultiTaskSAC):
        named = {
            "actor": agent.actor.network,
            "critic": agent.critic.networks,
            "critic_target": agent.critic_target.networks,
        }
        nets = [named["actor"], *named["critic"], *named["critic_target"]]
        parts = [(net.trunk.layers[0], net.head.affine) for net in nets]
        made = [[(part.weight[0], part.bias[0]) for part in pair] for pair in parts]
    else:
        actor = agent.actor
        both = [(actor.mu.weight, actor.log_std.weight), (actor.mu.bias, actor.log_std.bias)]
        last = tuple(torch.cat(pair) for pair in both)
        first = actor.latent_pi[0]
        made = [[(first.weight, first.bias), last]]
        for critic in (agent.critic, agent.critic_target):
            nets = [(net[0], net[2]) for net in critic.q_networks]
            made += [[(part.weight, part.bias) for part in net] for net in nets]
    names = ("actor", "critic 0", "critic 1", "target 0", "target 1")
    return dict(zip(names, made, strict=True))


@pytest.mark.parametrize("ent_coef", ["auto_0.3", 0.2])
def test_with_one_task_updates_are_those_of_stable_baselines3(ent_coef: Any) -> None:
    ours = tiny_sac(1, policy_kwargs={"network": UNTOLD}, ent_coef=ent_coef, **SETTINGS)
    policy = {"net_arch": [8]}
    env = gym.make("Pendulum-v1")
    settings = SETTINGS | {"ent_coef": ent_coef, "policy_kwargs": policy, "device": "cpu"}
    theirs = quiet(SAC("MlpPolicy", env, **settings))
    with torch.no_grad():
        for name, pairs in layers(theirs).items():
            for pair, values in zip(layers(ours)[name], pairs, strict=True):
                for part, value in zip(pair, values, strict=True):
                    part.copy_(value)
    before = {name: pairs[0][0].clone() for name, pairs in layers(ours).items()}
    chance = np.random.default_rng(0)
    assert ours.replay_buffer is not None
    for number in range(50):
        obs, successor = chance.normal(size=(2, 1, 3)).astype(np.float32)
        told = [np.concatenate([part, np.ones((1, 1))], 1) for part in (obs, successor)]
        infos = [{"TimeLimit.truncated": number % 3 == 0}]
        action, reward = chance.uniform(-1, 1, (1, 1)), chance.normal(size=1)
        ours.replay_buffer.add(*told, action, reward, [number % 2 == 0], infos)
        theirs.replay_buffer.add(obs, successor, action, reward, [number % 2 == 0], infos)
    for agent in (ours, theirs):
        np.random.seed(7)  # noqa: NPY002
        torch.manual_seed(7)
        agent.train(gradient_steps=3, batch_size=32)
    for name, pairs in layers(theirs).items():
        torch.testing.assert_close(layers(ours)[name], pairs, rtol=1e-5, atol=1e-6)
        assert (layers(ours)[name][0][0] - before[name]).abs().max() > 1e-3
    if ent_coef == "auto_0.3":
        torch.testing.assert_close(ours.log_ent_coef, theirs.log_ent_coef)
        assert float(ours.temperatures) != pytest.approx(0.3, rel=1e-3)
    logged = {k: v for k, v in ours.logger.name_to_value.items() if k.startswith("train/")}
    assert logged == pytest.approx(dict(theirs.logger.name_to_value), rel=1e-4)


# Temperatures


def test_each_temperature_has_the_gradient_that_it_has_alone() -> None:
    logs = torch.tensor([0.1, -0.4, 0.7], dtype=torch.float64, requires_grad=True)
    excess = torch.tensor([1.0, 2.0, 4.0, -3.0], dtype=torch.float64)
    loss = temperature_loss(logs, excess, torch.tensor([0, 2, 0, 0]))
    (gradient,) = torch.autograd.grad(loss, logs)
    means = torch.tensor([2 / 3, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(gradient, -means)
    torch.testing.assert_close(loss, -(logs.detach() * means).sum())


def update(agent: MultiTaskSAC, batch: Any, steps: int = 1) -> None:
    fixed: Any = FixedBuffer(batch)
    agent.replay_buffer = fixed
    torch.manual_seed(3)
    agent.train(gradient_steps=steps, batch_size=len(batch.observations))


def test_a_temperature_moves_with_its_own_task_s_entropy() -> None:
    agent = tiny_sac(3, learning_rate=0.01, target_entropy=-0.7)
    batch = random_batch(agent, [0, 2, 2, 0, 0])
    torch.manual_seed(3)
    with torch.no_grad():
        _, log_probs = agent.actor.action_log_prob(batch.observations)
    means = torch.stack([log_probs[[0, 3, 4]].mean(), log_probs[[1, 2]].mean()]) - 0.7
    update(agent, batch)
    assert agent.log_ent_coef is not None
    # Adam's first step: the learning rate, against the sign of the gradient.
    moved = 0.01 * means / (means.abs() + 1e-8)
    torch.testing.assert_close(agent.log_ent_coef.detach()[[0, 2]], moved)
    # The second task was not visited.
    assert agent.log_ent_coef[1] == 0
    assert agent.temperatures[1] == 1


def test_samples_have_the_temperature_of_their_task() -> None:
    agent = tiny_sac(2, ent_coef="auto", gamma=0.5)
    assert agent.log_ent_coef is not None
    agent.log_ent_coef.data = torch.tensor([0.2, 3.0]).log()
    batch = random_batch(agent, [0, 1, 0])
    temperature = torch.tensor([[0.2], [3.0], [0.2]])
    torch.manual_seed(3)
    with torch.no_grad():
        actions, log_probs = agent.actor.action_log_prob(batch.next_observations)
        values = torch.cat(agent.critic_target(batch.next_observations, actions), 1)
    soft = values.min(1, keepdim=True).values - temperature * log_probs.unsqueeze(1)
    torch.manual_seed(3)
    found = agent._targets(batch, agent.temperatures[[0, 1, 0]].unsqueeze(1))
    torch.testing.assert_close(found, batch.rewards + 0.5 * (1 - batch.dones) * soft)
    update(agent, batch)
    assert agent.logger.name_to_value["multitask/ent_coef/t1"] == pytest.approx(3.0, rel=1e-2)
    assert agent.logger.name_to_value["train/ent_coef"] == pytest.approx(1.6, rel=1e-2)


def test_a_temperature_that_is_given_is_that_of_every_task() -> None:
    agent = tiny_sac(3, ent_coef=0.25)
    assert agent.log_ent_coef is None
    torch.testing.assert_close(agent.temperatures, torch.full((3,), 0.25))
    update(agent, random_batch(agent, [0, 1, 2]))
    torch.testing.assert_close(agent.temperatures, torch.full((3,), 0.25))


# What a task's loss touches


def frozen(**settings: Any) -> MultiTaskSAC:
    """Return an agent whose updates leave gradients and change nothing."""
    return tiny_sac(3, learning_rate=0.0, tau=0.0, **settings)


def gradients(agent: MultiTaskSAC, index: list[int]) -> dict[str, Tensor]:
    update(agent, random_batch(agent, index))
    found: dict[str, Tensor] = {}
    for part in ("actor", "critic"):
        for name, parameter in getattr(agent, part).named_parameters():
            assert parameter.grad is not None
            found[f"{part}.{name}"] = parameter.grad.clone()
    return found


def test_a_task_s_loss_touches_the_trunks_and_its_own_heads() -> None:
    for name, gradient in gradients(frozen(), [1, 1, 1]).items():
        if ".head." in name or ".code." in name:
            assert bool((gradient[1] != 0).any())
            assert not bool(gradient[[0, 2]].any())
        else:
            assert bool((gradient != 0).any())


def of_each_task(index: list[int]) -> dict[str, Tensor]:
    """The gradients of each task's part of the losses, with a leading axis of tasks."""
    parts = []
    for task in range(3):
        agent = frozen()
        agent.policy.set_task_weights(np.eye(3)[task])
        parts.append(gradients(agent, index))
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def test_a_weight_multiplies_its_task_s_losses_once() -> None:
    index = [0, 1, 2, 0, 2]
    parts, whole = of_each_task(index), gradients(frozen(), index)
    agent = frozen()
    weights = torch.tensor([0.5, 2.0, 0.25])
    agent.policy.set_task_weights(weights)
    for name, gradient in gradients(agent, index).items():
        torch.testing.assert_close(whole[name], parts[name].sum(0))
        torch.testing.assert_close(gradient, torch.tensordot(weights, parts[name], 1))


def test_the_actor_s_loss_leaves_critics_and_their_balancers_alone() -> None:
    agent = tiny_sac(3)
    batch = random_batch(agent, [0, 1, 2])
    actions, _ = agent.actor.action_log_prob(batch.observations)
    torch.cat(agent.critic(batch.observations, actions)).sum().backward()
    assert all(parameter.grad is None for parameter in agent.critic.parameters())
    assert all(parameter.requires_grad for parameter in agent.critic.parameters())
    assert all(parameter.grad is not None for parameter in agent.actor.parameters())
    torch.cat(agent.critic(batch.observations, actions.detach())).sum().backward()
    assert all(parameter.grad is not None for parameter in agent.critic.parameters())


def test_balancers_decide_the_trunks_gradients_and_nothing_else() -> None:
    index = [0, 1, 2, 0, 2]
    parts, whole = of_each_task(index), gradients(frozen(), index)
    agent = frozen(policy_kwargs={"balancer": UPGrad()})
    state = frozen().policy.state_dict()
    agent.policy.load_state_dict(
        {name.replace(".trunk.", ".trunk.trunk."): value for name, value in state.items()}
    )
    balanced = gradients(agent, index)
    trunks = agent.policy.balanced_trunks()
    assert set(trunks) == {"actor", "critic_0", "critic_1"}
    assert any((trunk.weights - 1).abs().max() > 1e-3 for trunk in trunks.values())
    for name, gradient in whole.items():
        if ".trunk." not in name:
            torch.testing.assert_close(balanced[name], gradient)
            continue
        part = "actor" if name.startswith("actor") else f"critic_{name.split('.')[2]}"
        combined = torch.tensordot(trunks[part].weights.float(), parts[name], 1)
        found = balanced[name.replace(".trunk.", ".trunk.trunk.")]
        torch.testing.assert_close(found, combined, rtol=1e-4, atol=1e-6)


def test_permuting_tasks_permutes_an_update() -> None:
    order = torch.tensor([2, 0, 1])
    first, second = tiny_sac(**SETTINGS), tiny_sac(**SETTINGS)
    start = torch.tensor([0.5, 1.0, 2.0]).log()
    for agent, logs in ((first, start), (second, start[order])):
        assert agent.log_ent_coef is not None
        agent.log_ent_coef.data = logs.clone()
    permute_tasks(second.policy, order)
    batch = random_batch(first, [0, 1, 2, 2, 1, 0])
    update(first, batch, steps=2)
    update(second, permuted(batch, order), steps=2)
    permute_tasks(first.policy, order)
    expected = first.policy.state_dict()
    for name, value in second.policy.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.temperatures, first.temperatures[order])


# Use


def test_a_saved_agent_acts_and_goes_on_the_same(tmp_path: Path) -> None:
    agent = tiny_sac(2)
    agent.learn(60)
    agent.save(tmp_path / "agent")
    agent.policy.save(str(tmp_path / "policy"))
    seen = random_batch(agent, [0, 1]).observations
    loaded = MultiTaskSAC.load(tmp_path / "agent", device="cpu")
    assert len(set(agent.temperatures.tolist())) == 2
    torch.testing.assert_close(loaded.temperatures, agent.temperatures)
    for policy in (loaded.policy, MultiTaskSACPolicy.load(str(tmp_path / "policy"), device="cpu")):
        for part in (policy, agent.policy):
            torch.testing.assert_close(
                part.actor(seen, deterministic=True),
                agent.actor(seen, deterministic=True),
                rtol=0,
                atol=0,
            )
    loaded.set_env(tiny_env("pendulum", 2))
    loaded.learn(60)


def test_the_policy_serves_stable_baselines3_s_own_sac() -> None:
    policy = {"network": NETWORK, "spec": TaskSpec(tasks=2)}
    env = tiny_env("pendulum", 2)
    agent = SAC(MultiTaskSACPolicy, env, policy_kwargs=policy, learning_starts=20, device="cpu")
    agent.learn(60)
    action, _ = agent.predict(np.array([1, 0, 0, 0, 1], np.float32), deterministic=True)
    assert env.action_space.contains(action)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="policy is SACPolicy, .*; use MultiTaskPolicy"):
        MultiTaskSAC("MlpPolicy", tiny_env("pendulum", 2), device="cpu")
    with pytest.raises(UsageError, match="the trunk cnn needs images"):
        tiny_sac(2, policy_kwargs={"network": NetworkConfig(trunk=CNN())})
    with pytest.raises(UsageError, match="use_sde is True; the argument network replaces it"):
        tiny_sac(2, use_sde=True)
