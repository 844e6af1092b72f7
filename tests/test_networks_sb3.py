"""The policy for many tasks under Stable-Baselines3's own PPO."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.utils import obs_as_tensor

from mtrl.agents.balancing import FAMO, BalancedTrunk
from mtrl.agents.networks import (
    MLP,
    Embedding,
    MixtureOfExperts,
    NetworkConfig,
    OneHot,
    PerTask,
    Shared,
    TaskInput,
    TaskParameters,
    TaskSpec,
)
from mtrl.agents.policies import MultiTaskActorCriticPolicy, MultiTaskQPolicy
from mtrl.errors import UsageError

TASKS, SIZE = 3, 2
NETWORK = NetworkConfig(trunk=MLP(hidden=(8,)), conditioning=OneHot(), head=PerTask())
SPEC, TOLD_PARAMETERS = TaskSpec(tasks=TASKS), TaskSpec(tasks=1, context=TASKS)


class ToldTask(gym.Env[Any, Any]):
    """Ten steps of noise; an action is rewarded if it is the number of the task."""

    def __init__(self, layout: str = "append", action_space: gym.Space[Any] | None = None) -> None:
        box, unit = (gym.spaces.Box(-1, 1, (size,), np.float32) for size in (SIZE, TASKS))
        self._layout = layout
        self.observation_space = (
            gym.spaces.Box(-1, 1, (SIZE + TASKS,), np.float32)
            if layout == "append"
            else gym.spaces.Dict({"observation": box, "context": unit})
        )
        self.action_space = action_space or gym.spaces.Discrete(TASKS)

    def _look(self) -> Any:
        seen = self.np_random.uniform(-1, 1, SIZE).astype(np.float32)
        unit = np.eye(TASKS, dtype=np.float32)[self._task]
        if self._layout == "append":
            return np.concatenate([seen, unit])
        return {"observation": seen, "context": unit}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps, self._task = 0, int(self.np_random.integers(TASKS))
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        right = float(np.all(action == self._task))
        return self._look(), right, False, self._steps == 10, {}


def agent(env: gym.Env[Any, Any] | None = None, *, seed: int = 0, **policy: Any) -> PPO:
    settings = {"network": NETWORK, "spec": SPEC, **policy}
    return PPO(
        MultiTaskActorCriticPolicy,
        env or ToldTask(),
        n_steps=128,
        batch_size=64,
        learning_rate=0.01,
        seed=seed,
        device="cpu",
        policy_kwargs=settings,
    )


def batch(size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    index = torch.arange(size) % TASKS
    seen = torch.rand(size, SIZE, generator=chance) * 2 - 1
    return torch.cat([seen, torch.eye(TASKS)[index]], 1), index


@pytest.mark.parametrize("share_trunk", [True, False])
def test_actions_and_values_are_those_of_trunk_and_heads(share_trunk: bool) -> None:
    policy = agent(share_trunk=share_trunk).policy
    observations, index = batch()
    task = TaskInput(index)
    trunks = policy.mlp_extractor
    assert (trunks.actor is trunks.critic) == share_trunk
    logits = policy.action_net.head(trunks.actor(observations[:, :SIZE], task), task)
    values = policy.value_net.head(trunks.critic(observations[:, :SIZE], task), task)
    distribution = torch.distributions.Categorical(logits=logits)
    actions = torch.arange(6) % TASKS
    found, log_probs, entropy = policy.evaluate_actions(observations, actions)
    torch.testing.assert_close(found, values)
    torch.testing.assert_close(policy.predict_values(observations), values)
    torch.testing.assert_close(log_probs, distribution.log_prob(actions))
    torch.testing.assert_close(entropy, distribution.entropy())


def test_both_layouts_are_one_policy() -> None:
    appended, split = agent().policy, agent(ToldTask("dict")).policy
    observations, _ = batch()
    parts = {"observation": observations[:, :SIZE], "context": observations[:, SIZE:]}
    torch.testing.assert_close(
        split.predict_values(parts), appended.predict_values(observations), rtol=0, atol=0
    )


def test_a_task_s_loss_touches_the_trunk_and_its_own_heads() -> None:
    policy = agent().policy
    observations, index = batch()
    values, log_probs, _ = policy.evaluate_actions(observations[index == 1], torch.tensor([0, 2]))
    (values.sum() + log_probs.sum()).backward()
    for head in (policy.action_net.head.affine, policy.value_net.head.affine):
        others = head.bias.grad[[0, 2]]
        torch.testing.assert_close(others, torch.zeros_like(others), rtol=0, atol=0)
        assert bool((head.bias.grad[1] != 0).any())
    assert any(bool((part.grad != 0).any()) for part in policy.trunk_parameters())


def loss_gradients(policy: Any, observations: torch.Tensor, actions: torch.Tensor) -> Any:
    """Gradients of a loss over the samples: of values, actions and, where there is one, deviation."""
    values, log_probs, entropy = policy.evaluate_actions(observations, actions)
    loss = ((values.flatten() - 1) ** 2 - log_probs - 0.1 * entropy).mean()
    policy.zero_grad()
    loss.backward()
    return {name: part.grad.clone() for name, part in policy.named_parameters()}


def boxed(**policy: Any) -> Any:
    space = gym.spaces.Box(-1, 1, (2,), np.float32)
    return agent(ToldTask(action_space=space), **policy).policy


def parts_of_tasks() -> Any:
    """The gradient of each task's part of the loss, and that of the whole."""
    policy, (observations, index) = boxed(), batch()
    actions = torch.linspace(-1, 1, 12).view(6, 2)
    parts = []
    for task in range(TASKS):
        share = (index == task).float().mean()
        found = loss_gradients(policy, observations[index == task], actions[index == task])
        parts.append({name: share * gradient for name, gradient in found.items()})
    stacked = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    return stacked, policy, observations, actions


def test_a_weight_multiplies_its_task_s_loss_in_every_parameter() -> None:
    parts, policy, observations, actions = parts_of_tasks()
    for weights in ([1.0, 1.0, 1.0], [0.5, 0.0, 2.5]):
        policy.set_task_weights(weights)
        for name, gradient in loss_gradients(policy, observations, actions).items():
            expected = torch.tensordot(torch.tensor(weights), parts[name], 1)
            torch.testing.assert_close(gradient, expected)
    assert "log_std" in parts


def test_weights_do_not_change_what_the_policy_says() -> None:
    policy, (observations, _) = agent().policy, batch()
    before = policy(observations, deterministic=True)
    policy.set_task_weights(torch.tensor([0.5, 0.0, 2.5]))
    torch.testing.assert_close(policy(observations, deterministic=True), before, rtol=0, atol=0)


def test_a_balancer_decides_the_gradient_of_the_shared_trunk_alone() -> None:
    parts, plain, observations, actions = parts_of_tasks()
    policy = boxed(balancer=FAMO())
    names = {name.replace(".actor.", ".actor.trunk."): name for name in parts}
    state = plain.state_dict()
    policy.load_state_dict({name: state[plain_name(name)] for name in policy.state_dict()})
    policy.set_training_mode(True)
    gradients = loss_gradients(policy, observations, actions)
    ((key, trunk),) = policy.balanced_trunks().items()
    assert key == "shared"
    assert isinstance(trunk, BalancedTrunk)
    assert trunk.weights is not None
    assert (trunk.weights - 1).abs().max() > 1e-3
    weights = trunk.weights.float()
    for name, gradient in gradients.items():
        own = weights if ".trunk." in name else torch.ones(TASKS)
        expected = torch.tensordot(own, parts[names[name]], 1)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert agent().policy.balanced_trunks() == {}


def plain_name(name: str) -> str:
    return name.replace(".trunk.", ".")


def test_the_optimizer_has_every_parameter_once() -> None:
    policy = agent(ToldTask(action_space=gym.spaces.Box(-1, 1, (2,)))).policy
    (group,) = policy.optimizer.param_groups
    assert set(group["params"]) == set(policy.parameters())
    assert set(policy.trunk_parameters()) | set(policy.head_parameters()) == set(group["params"])
    assert any(part is policy.log_std for part in policy.head_parameters())


def test_ppo_learns_which_task_it_is_in_and_is_blind_without_being_told() -> None:
    observations, index = batch()
    told = agent()
    told.learn(1280)
    np.testing.assert_array_equal(told.predict(observations.numpy(), deterministic=True)[0], index)
    blind = agent(network=NetworkConfig(trunk=MLP(hidden=(8,)), head=Shared()))
    blind.learn(1280)
    logits = blind.policy.get_distribution(observations).distribution.logits
    assert bool((logits.argmax(1) != index).any())


def test_dqn_learns_which_task_it_is_in_and_is_blind_without_being_told() -> None:
    observations, index = batch()
    for conditioning, head in ((OneHot(), PerTask()), (None, Shared())):
        network = NetworkConfig(trunk=MLP(hidden=(8,)), conditioning=conditioning, head=head)
        learner = DQN(
            MultiTaskQPolicy,
            ToldTask(),
            learning_rate=0.02,
            gamma=0.0,
            exploration_fraction=1.0,
            exploration_final_eps=1.0,
            seed=0,
            device="cpu",
            policy_kwargs={"network": network, "spec": SPEC},
        )
        learner.learn(1500)
        right = learner.q_net(observations).argmax(1) == index
        assert bool(right.all()) == (conditioning is not None)


def test_a_saved_policy_acts_the_same(tmp_path: Path) -> None:
    network = NetworkConfig(trunk=MixtureOfExperts(hidden=(8,)), conditioning=Embedding())
    saved = agent(network=network, share_trunk=False)
    saved.save(tmp_path / "agent")
    saved.policy.save(tmp_path / "policy")
    observations, _ = batch()
    expected = saved.policy.predict_values(observations)
    for policy in (
        PPO.load(tmp_path / "agent", device="cpu").policy,
        MultiTaskActorCriticPolicy.load(str(tmp_path / "policy"), device="cpu"),
    ):
        torch.testing.assert_close(policy.predict_values(observations), expected, rtol=0, atol=0)


def test_the_seed_decides_the_parameters() -> None:
    once, again, other = (agent(seed=seed).policy.state_dict() for seed in (1, 1, 2))
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    assert not torch.equal(
        once["action_net.head.affine.weight"], other["action_net.head.affine.weight"]
    )


def test_task_parameters_condition_a_shared_head() -> None:
    network = NetworkConfig(trunk=MLP(hidden=(8,)), conditioning=TaskParameters(), head=Shared())
    policy = agent(network=network, spec=TOLD_PARAMETERS).policy
    observations, index = batch()
    context = observations[:, SIZE:]
    features = policy.mlp_extractor.actor(observations[:, :SIZE], TaskInput(index, context))
    values = policy.value_net.head(features, TaskInput())
    torch.testing.assert_close(policy.predict_values(observations), values)


def test_a_context_that_was_changed_on_the_way_is_refused() -> None:
    policy = agent().policy
    observations = obs_as_tensor(batch()[0].numpy(), torch.device("cpu"))
    observations[4, SIZE:] *= 0.5
    with pytest.raises(
        UsageError, match=r"context of observation 4 is .* not one-hot; .*normalise"
    ):
        policy.predict_values(observations)
    network = NetworkConfig(trunk=MLP(hidden=(8,)), conditioning=TaskParameters(), head=Shared())
    observations[4, SIZE] = torch.nan
    with pytest.raises(UsageError, match="context of observation 4 is .* not finite"):
        agent(network=network, spec=TOLD_PARAMETERS).policy.predict_values(observations)


WRONG: dict[str, dict[str, Any]] = {
    "net_arch is .8.; the argument network": {"net_arch": [8]},
    "context is task parameters and the network has PerTask": {"spec": TOLD_PARAMETERS},
    "context is 5 and the observation space": {"spec": TaskSpec(tasks=5)},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_go_together_is_refused(message: str) -> None:
    with pytest.raises(UsageError, match=message):
        agent(**WRONG[message])


def test_other_observation_spaces_are_refused() -> None:
    space = gym.spaces.Dict(
        {"observation": gym.spaces.Discrete(3), "context": gym.spaces.Box(0, 1)}
    )
    for wrong in (space, gym.spaces.Box(0, 1, (2, 3)), gym.spaces.Discrete(2)):
        with pytest.raises(UsageError, match="wrap the environment in TaskContext"):
            MultiTaskActorCriticPolicy(
                wrong, gym.spaces.Discrete(2), lambda _: 0.1, network=NETWORK, spec=SPEC
            )
    space = gym.spaces.Dict(
        {"observation": gym.spaces.Box(0, 1), "context": gym.spaces.Box(0, 1, (4,))}
    )
    with pytest.raises(UsageError, match="context is 3 and the space of the context has shape"):
        MultiTaskActorCriticPolicy(
            space, gym.spaces.Discrete(2), lambda _: 0.1, network=NETWORK, spec=SPEC
        )
