"""Loss terms against hand-computed values, and updates against Stable-Baselines3's own DQN."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from replay_steps import recorded
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from torch.testing import assert_close

from mtrl.agents.q_learning import (
    DeepQ,
    DeepQOptions,
    PrioritySettings,
    ReplayBatch,
    Successors,
    losses,
)
from mtrl.agents.q_learning.value_scale import fit_scale, transform_values
from mtrl.errors import MtrlError, UsageError

SMALL = {"buffer_size": 500, "learning_starts": 32, "batch_size": 16, "seed": 3, "device": "cpu"}
CARTPOLE = "CartPole-v1"

Q = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], dtype=torch.float64)


def agent(**options):
    return DeepQ("MlpPolicy", CARTPOLE, options=DeepQOptions(**options), **SMALL)


def batch_of(size=6, n=False, experts=None, weights=None):
    rng = torch.Generator().manual_seed(0)

    def after(discounts=None):
        return Successors(
            rewards=torch.randn(size, 1, generator=rng),
            observations=torch.randn(size, 4, generator=rng),
            dones=torch.tensor([[0.0], [1.0], [0.0]]).repeat(size // 3, 1),
            discounts=discounts,
        )

    one = after()
    return ReplayBatch(
        observations=torch.randn(size, 4, generator=rng),
        actions=torch.tensor([[0], [1]]).repeat(size // 2, 1),
        one_step=one,
        n_step=after(torch.full((size, 1), 0.9)) if n else one,
        weights=weights,
        demonstrations=experts,
    )


# Loss terms by hand


def test_values_of_states_by_hand():
    assert_close(losses.hard_values(Q), torch.tensor([[2.0], [3.0]], dtype=torch.float64))
    soft = [[2 * math.log(sum(math.exp(value / 2) for value in row))] for row in Q.tolist()]
    assert_close(losses.soft_values(Q, 2.0), torch.tensor(soft, dtype=torch.float64))
    chosen = losses.chosen_values(Q, -Q)
    assert_close(chosen, torch.tensor([[0.5], [-1.0]], dtype=torch.float64))


def test_the_soft_value_lies_between_the_maximum_and_the_entropy_above_it():
    for temperature in (1.0, 0.1, 1e-3):
        excess = losses.soft_values(Q, temperature) - losses.hard_values(Q)
        assert bool((excess >= 0).all())
        assert float(excess.max()) <= temperature * math.log(3)


def test_soft_values_of_equal_actions_have_the_closed_form():
    equal = torch.full((1, 5), 7.0, dtype=torch.float64)
    expected = torch.tensor([[7.0 + 0.3 * math.log(5)]], dtype=torch.float64)
    assert_close(losses.soft_values(equal, 0.3), expected)


def test_targets_by_hand():
    rewards, dones = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [1.0]])
    made = losses.targets(rewards, dones, 0.5, torch.tensor([[4.0], [4.0]]))
    assert_close(made, torch.tensor([[3.0], [1.0]]))


def test_targets_refuse_to_spread_a_flat_tensor():
    with pytest.raises(MtrlError, match="differ in shape"):
        losses.targets(torch.zeros(2), torch.zeros(2, 1), 0.9, torch.zeros(2, 1))


def test_weighted_errors_by_hand():
    predicted, target = torch.tensor([[0.0], [0.0]]), torch.tensor([[0.5], [3.0]])
    weights = torch.tensor([[1.0], [0.5]])
    # Huber: 0.125 below an error of 1, and 3 - 0.5 above it.
    assert losses.weighted_mean(predicted, target, None, "huber").item() == (0.125 + 2.5) / 2
    assert losses.weighted_mean(predicted, target, weights, "huber").item() == (0.125 + 1.25) / 2
    assert losses.weighted_mean(predicted, target, weights, "squared").item() == (0.125 + 2.25) / 2


def test_large_margins_by_hand():
    # Row 0: the expert's 2 leads 1 + 0.8 by 0.2, so no loss. Row 1: 3 + 0.8 against 0.
    made = losses.large_margins(Q, torch.tensor([[1], [0]]), 0.8)
    assert_close(made, torch.tensor([[0.0], [3.8]], dtype=torch.float64))


def test_the_margin_of_a_leading_expert_is_what_the_lead_lacks():
    q_values = torch.tensor([[1.0, 0.7]], dtype=torch.float64)
    made = losses.large_margins(q_values, torch.tensor([[0]]), 0.8)
    assert_close(made, torch.tensor([[0.5]], dtype=torch.float64))


def test_the_margins_gradient_lifts_the_expert_and_lowers_its_rival_only():
    q_values = Q.clone().requires_grad_()
    losses.large_margins(q_values, torch.tensor([[1], [0]]), 0.8).sum().backward()
    expected = [[0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]]
    assert_close(q_values.grad, torch.tensor(expected, dtype=torch.float64))


def test_the_l2_penalty_by_hand():
    parameters = [torch.tensor([1.0, -2.0]), torch.tensor([[3.0]])]
    assert losses.l2_penalty(parameters).item() == 14.0


# Against Stable-Baselines3


def test_with_all_options_off_learning_equals_stable_baselines3s_to_the_last_bit():
    # Made one after the other: both take their seed when they are made.
    ours = agent().learn(200)
    theirs = DQN("MlpPolicy", CARTPOLE, **SMALL).learn(200)
    for one, two in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert_close(one, two, rtol=0, atol=0)


def test_an_update_on_our_buffer_equals_stable_baselines3s_on_the_same_batch():
    # With alpha 0 all steps are drawn alike and all weights are 1.
    ours = agent(prioritized=PrioritySettings(alpha=0.0))
    theirs = DQN("MlpPolicy", CARTPOLE, **SMALL)
    ours.learn(32)
    theirs.learn(1)
    theirs.policy.load_state_dict(ours.policy.state_dict())
    batch = ours.replay_buffer.sample(16)
    for model in (ours, theirs):
        model.replay_buffer.sample = lambda *_, **__: batch
        model.train(3, 16)
    for one, two in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert_close(one, two, rtol=0, atol=1e-7)


@pytest.mark.parametrize("option", [{"double": True}, {"backup": "soft"}, {"error": "squared"}])
def test_each_option_changes_the_loss(option):
    changed, plain = agent(**option), agent()
    with torch.no_grad():
        for model in (changed, plain):
            # Else both networks choose alike, and double Q-learning changes nothing.
            model.q_net_target.q_net[-1].weight.neg_()
    totals = [model.loss_terms(batch_of()).total.item() for model in (changed, plain)]
    assert abs(totals[0] - totals[1]) > 1e-3


# The terms of an agent's loss


def test_double_targets_take_the_online_networks_choice():
    model = agent(double=True)
    with torch.no_grad():
        for parameter in model.q_net_target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        after = batch_of().one_step
        choice = model.q_net(after.observations).argmax(1)
        values = model.q_net_target(after.observations)[torch.arange(6), choice]
    expected = after.rewards + (1 - after.dones) * model.gamma * values[:, None]
    assert_close(model.targets(after), expected)


def test_soft_targets_are_the_closed_form():
    model = agent(backup="soft", temperature=0.5)
    after = batch_of().one_step
    with torch.no_grad():
        q_values = model.q_net_target(after.observations)
    values = 0.5 * torch.log(torch.exp(q_values / 0.5).sum(1, keepdim=True))
    assert_close(model.targets(after), after.rewards + (1 - after.dones) * 0.99 * values)


def test_n_step_targets_use_the_discounts_of_the_batch():
    model = agent(n_steps=3, n_step_weight=1.0)
    after = batch_of(n=True).n_step
    with torch.no_grad():
        values = model.q_net_target(after.observations).max(1, keepdim=True).values
    assert_close(model.targets(after), after.rewards + (1 - after.dones) * 0.9 * values)


def test_the_loss_of_dqfd_is_the_sum_of_its_four_terms():
    how = {"n_steps": 5, "one_step_weight": 0.5, "n_step_weight": 2.0}
    model = agent(margin_weight=3.0, l2=1e-3, **how)
    experts = torch.tensor([[True], [False], [True], [False], [False], [False]])
    weights = torch.linspace(0.1, 1.0, 6)[:, None]
    batch = batch_of(n=True, experts=experts, weights=weights)
    q_values = model.q_net(batch.observations)
    taken = q_values.gather(1, batch.actions)

    def error(after):
        each = nn.functional.smooth_l1_loss(taken, model.targets(after), reduction="none")
        return (weights * each).sum() / 6

    margins = [
        weight * (torch.where(torch.arange(2) == a, q, q + 0.8).max() - q[a])
        for q, a, weight, shown in zip(q_values, batch.actions[:, 0], weights, experts, strict=True)
        if shown
    ]
    expected = {
        "one_step": 0.5 * error(batch.one_step),
        "n_step": 2.0 * error(batch.n_step),
        "margin": 3.0 * sum(margins).squeeze() / 6,
        "l2": 1e-3 * sum((p**2).sum() for p in model.q_net.parameters()),
    }
    made = model.loss_terms(batch)
    assert made.terms.keys() == expected.keys()
    for name, term in expected.items():
        assert_close(made.terms[name], term)
    assert_close(made.total, sum(expected.values()))
    assert_close(made.errors, (model.targets(batch.one_step) - taken).detach())


def test_an_update_gives_the_drawn_steps_the_priorities_of_their_errors():
    model = agent(prioritized=PrioritySettings(alpha=1.0, epsilon=0.01))
    model.learn(32)
    batch = model.replay_buffer.sample(16)
    expected = model.loss_terms(batch).errors.abs().squeeze(1).numpy() + 0.01
    model._update(batch)
    masses = model.replay_buffer.probabilities(batch.indices) * model.replay_buffer._tree.total
    # A step drawn twice has the same error both times.
    assert_allclose(masses, expected, rtol=1e-5)


def test_the_importance_exponent_rises_to_its_end_with_progress():
    model = agent(prioritized=PrioritySettings(beta=0.6, beta_end=1.0))
    model.learn(32)
    seen = []
    for left in (1.0, 0.5, 0.0):
        model._current_progress_remaining = left
        model.train(1, 4)
        seen.append(model.replay_buffer.beta)
    assert_allclose(seen, [0.6, 0.8, 1.0])


def test_boltzmann_actions_have_the_probabilities_of_their_values():
    model = agent(behaviour="boltzmann", temperature=0.5)
    model._last_obs = np.repeat(np.array([[0.1, 0.2, -0.1, 0.3]], np.float32), 20_000, 0)
    with torch.no_grad():
        q_values = model.q_net(torch.as_tensor(model._last_obs[:1]))[0]
    expected = torch.softmax(q_values / 0.5, 0)[1].item()
    assert model._chosen_actions().mean() == pytest.approx(expected, abs=0.015)


class Dropping(FlattenExtractor):
    """Forgets most of an observation while training."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.drop = torch.nn.Dropout(0.7)

    def forward(self, observations):
        return self.drop(super().forward(observations))


def test_a_network_that_drops_while_training_acts_as_in_evaluation():
    model = DeepQ(
        "MlpPolicy", CARTPOLE, policy_kwargs={"features_extractor_class": Dropping}, **SMALL
    )
    model.policy.set_training_mode(True)
    model.exploration_rate = 0.0
    model._last_obs = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    actions, _ = model._sample_action(0, n_envs=200)
    model.policy.set_training_mode(False)
    with torch.no_grad():
        wanted = model.q_net(torch.as_tensor(model._last_obs)).argmax(1)
    assert_array_equal(actions, wanted.numpy())


def test_several_environments_learn_with_every_option():
    vec_env = make_vec_env(CARTPOLE, 2)
    how = {"n_steps": 3, "n_step_weight": 1.0, "prioritized": PrioritySettings()}
    model = DeepQ("MlpPolicy", vec_env, options=DeepQOptions(double=True, **how), **SMALL)
    before = [parameter.clone() for parameter in model.q_net.parameters()]
    model.replay_buffer.add_demonstrations(_cartpole_steps())
    model.learn(80)
    moved = [
        float((one - two).detach().abs().max())
        for one, two in zip(before, model.q_net.parameters(), strict=True)
    ]
    assert min(moved) > 0
    assert model.replay_buffer.stored == 4 + 80


def _cartpole_steps():
    given = recorded(4, terminated=[3])
    given.observations = np.tile(given.observations, (1, 4))
    given.next_observations = np.tile(given.next_observations, (1, 4))
    given.actions = given.actions % 2
    return given


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_steps": 3}, "n_step_weight"),
        ({"n_step_weight": 1.0}, "n_steps"),
        ({"one_step_weight": 0.0}, "one_step_weight"),
        ({"double": True, "backup": "soft"}, "double"),
        ({"temperature": 0.0}, "temperature"),
        ({"l2": -1.0}, "l2"),
    ],
)
def test_contradictions_are_refused_by_name(options, named):
    with pytest.raises(UsageError, match=named):
        DeepQOptions(**options)


def test_another_replay_beside_the_options_is_refused():
    with pytest.raises(UsageError, match="n_steps"):
        DeepQ(
            "MlpPolicy",
            CARTPOLE,
            options=DeepQOptions(prioritized=PrioritySettings()),
            n_steps=3,
            **SMALL,
        )


# Moving values to another reward


def test_the_scale_of_exact_values_is_found_in_closed_form():
    # A chain without end whose rewards are turned from r into 3 r - 2.
    rng, gamma = torch.Generator().manual_seed(0), 0.9
    rewards = torch.randn(400, generator=rng, dtype=torch.float64)
    values = torch.zeros(401, dtype=torch.float64)
    for step in reversed(range(400)):
        values[step] = rewards[step] + gamma * values[step + 1]
    discounts = torch.full((400,), gamma, dtype=torch.float64)
    slope, offset = fit_scale(values[:-1], values[1:], 3 * rewards - 2, discounts, with_slope=True)
    assert slope == pytest.approx(3.0, abs=1e-9)
    assert offset == pytest.approx(-2 / (1 - gamma), abs=1e-8)
    slope, offset = fit_scale(values[:-1], values[1:], rewards - 2, discounts, with_slope=False)
    assert (slope, offset) == (1.0, pytest.approx(-2 / (1 - gamma), abs=1e-8))


def test_a_slope_is_never_turned_round():
    values = torch.linspace(0, 10, 50, dtype=torch.float64)
    ended = torch.zeros(50, dtype=torch.float64)
    assert fit_scale(values, values, -values, ended, with_slope=True)[0] == 0.1


def test_transformed_values_are_affine_in_the_old_ones_and_rank_actions_as_before():
    network, probe = agent().q_net, torch.randn(20, 4)
    before = network(probe).detach()
    transform_values(network, (2.0, -30.0), probe)
    assert_close(network(probe).detach(), 2 * before - 30, rtol=1e-5, atol=1e-5)
    assert_close(network(probe).argmax(1), before.argmax(1))


def test_a_network_whose_last_layer_does_not_decide_is_refused_and_left_alone():
    class Squashed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, given):
            return torch.tanh(self.layer(given))

    network = Squashed()
    bias = network.layer.bias.clone()
    with pytest.raises(UsageError, match="q_scale"):
        transform_values(network, (1.0, 5.0), torch.randn(8, 4))
    assert_close(network.layer.bias, bias, rtol=0, atol=0)
