"""PEARL's networks, gradients and agent: what reaches what, and what a belief does."""

from dataclasses import replace

import pytest
import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from torch import Tensor
from torch.testing import assert_close

from mtrl.agents.pearl.agent import PearlAgent, PriorAgent
from mtrl.agents.pearl.belief import Belief, prior_belief
from mtrl.agents.pearl.policy import LatentPolicy, squashed
from mtrl.agents.pearl.replay import Transitions
from mtrl.agents.pearl.settings import PEARL
from mtrl.agents.pearl.update import PearlUpdate
from mtrl.errors import UsageError
from mtrl.meta.agent import Transition

SMALL = PEARL(latent=2, hidden=(8,), encoder_hidden=(8,), batch_size=6, context_size=5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy(settings: PEARL = SMALL, seed: int = 0) -> LatentPolicy:
    return LatentPolicy(3, 2, settings, generator(seed))


def transitions(tasks: int, number: int, seed: int = 0) -> Transitions:
    stream = generator(seed)
    sizes = (3, 2, 1, 3)
    parts = [torch.randn(tasks, number, size, generator=stream) for size in sizes]
    parts[1] = parts[1].tanh()
    return Transitions(*parts, torch.zeros(tasks, number, 1))


def gradients(loss: Tensor, module: torch.nn.Module) -> list[Tensor | None]:
    found = torch.autograd.grad(
        loss, list(module.parameters()), allow_unused=True, retain_graph=True
    )
    return list(found)


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def changed(module: torch.nn.Module, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in module.named_parameters())


# Networks


def test_squashed_actions_have_the_density_of_stable_baselines() -> None:
    mean, log_std = torch.randn(5, 3, generator=generator()), torch.full((5, 3), -0.5)
    actions, log_probs = squashed(mean, log_std, torch.randn(5, 3, generator=generator(1)))
    theirs = SquashedDiagGaussianDistribution(3, epsilon=0.0).proba_distribution(mean, log_std)
    # theirs turns the action back into what was squashed, which loses digits.
    assert_close(log_probs, theirs.log_prob(actions), rtol=1e-4, atol=1e-4)


def test_the_density_of_actions_near_the_bounds_is_finite() -> None:
    _, log_probs = squashed(torch.full((1, 2), 30.0), torch.zeros(1, 2), torch.zeros(1, 2))
    # -log(1 - tanh(x)^2) is 2 x - log 4 for large x.
    expected = 2 * (2 * 30.0 - torch.tensor(4.0).log() - 0.5 * torch.tensor(2 * torch.pi).log())
    assert_close(log_probs, expected.reshape(1))


def test_parameters_come_from_the_stream_and_leave_torchs_own_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = policy(seed=1), policy(seed=1), policy(seed=2)
    assert_close(torch.random.get_rng_state(), before)
    assert_close(first.learned(), second.learned(), rtol=0, atol=0)
    assert changed(other, snapshot(first))


def test_a_belief_does_not_depend_on_the_order_of_its_context() -> None:
    context, networks = transitions(4, 9), policy()
    order = torch.randperm(9, generator=generator())
    mixed = Transitions(*(part[:, order] for part in context))
    # Sums of nine terms in single precision.
    assert_close(networks.encoder(mixed), networks.encoder(context), rtol=1e-5, atol=1e-6)


def test_a_belief_does_not_depend_on_the_tasks_beside_it() -> None:
    context, networks = transitions(4, 9), policy()
    alone = networks.encoder(Transitions(*(part[2:3] for part in context)))
    together = networks.encoder(context)
    assert_close(alone, Belief(*(part[2:3] for part in together)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seen", [False, True])
def test_where_a_transition_led_counts_only_if_asked_for(seen: bool) -> None:
    networks = policy(replace(SMALL, next_observations=seen))
    context = transitions(2, 4)
    elsewhere = context._replace(next_observations=context.next_observations + 1)
    same = torch.equal(networks.encoder(context).mean, networks.encoder(elsewhere).mean)
    assert same != seen


# Gradients


@pytest.fixture
def losses() -> tuple[LatentPolicy, Tensor, Tensor, Tensor]:
    """Return networks, and the losses of critics, actor and beliefs on one batch."""
    update = PearlUpdate(policy(), SMALL)
    context, batch = transitions(3, 5), transitions(3, 6, seed=1)
    belief = update.policy.encoder(context)
    latents = belief.sample(torch.randn(3, 2, generator=generator()))
    latents = latents.unsqueeze(1).expand(3, 6, 2).flatten(0, 1)
    flat = Transitions(*(part.flatten(0, 1) for part in batch))
    noise = torch.randn(18, 2, generator=generator(2))
    acted = update.policy.act(flat.observations, latents, noise)
    critic = update.critic_loss(flat, latents, torch.ones(18, 1))
    return update.policy, critic, update.actor_loss(flat, latents, acted), belief.divergence().sum()


Losses = tuple[LatentPolicy, Tensor, Tensor, Tensor]


def test_the_critics_loss_reaches_the_encoder(losses: Losses) -> None:
    networks, critic, _, _ = losses
    for gradient in gradients(critic, networks.encoder):
        assert gradient is not None and float(gradient.abs().max()) > 0


def test_the_actors_loss_does_not_reach_the_encoder(losses: Losses) -> None:
    networks, _, actor, _ = losses
    assert gradients(actor, networks.encoder) == [None] * len(list(networks.encoder.parameters()))
    assert all(gradient is not None for gradient in gradients(actor, networks.actor))


def test_the_divergence_reaches_the_encoder_alone(losses: Losses) -> None:
    networks, _, _, divergence = losses
    assert all(gradient is not None for gradient in gradients(divergence, networks.encoder))
    for module in (networks.actor, networks.critic):
        assert all(gradient is None for gradient in gradients(divergence, module))


def test_the_encoders_gradient_in_a_step_is_that_of_critics_and_divergence() -> None:
    # The same step with critics that have no say: what is left is the divergence, times its weight.
    settings = replace(SMALL, kl_weight=3.0)
    update = PearlUpdate(policy(settings), settings)
    with torch.no_grad():
        for layer in update.policy.critic.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight[:, -4:] = 0  # of latents and actions
    context = transitions(3, 5)
    expected = gradients(
        3 * update.policy.encoder(context).divergence().mean(), update.policy.encoder
    )
    update.step(context, transitions(3, 6, seed=1), generator())
    found = [parameter.grad for parameter in update.policy.encoder.parameters()]
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_step_moves_every_network_and_the_target_by_its_share() -> None:
    update = PearlUpdate(policy(), SMALL)
    networks = update.policy
    parts = (networks.encoder, networks.actor, networks.critic)
    before, target = [snapshot(part) for part in parts], snapshot(networks.critic_target)
    update.step(transitions(3, 5), transitions(3, 6, seed=1), generator())
    for part, values in zip(parts, before, strict=True):
        assert changed(part, values)
    for name, value in networks.critic_target.named_parameters():
        critic = dict(networks.critic.named_parameters())[name]
        assert_close(value.detach(), target[name].lerp(critic.detach(), SMALL.target_rate))


def test_time_that_is_up_is_no_end_and_a_terminal_state_is() -> None:
    update = PearlUpdate(policy(), replace(SMALL, reward_scale=2.0))
    flat = Transitions(*(part.flatten(0, 1) for part in transitions(3, 6)))
    ended = flat._replace(terminated=torch.ones(18, 1))
    latents = torch.zeros(18, 2)
    ends, goes_on = (
        update._targets(batch, latents, torch.tensor(0.1), generator()) for batch in (ended, flat)
    )
    assert_close(ends, 2 * flat.rewards)
    assert bool((goes_on != ends).all())


def test_a_fixed_temperature_stays_and_a_learned_one_moves() -> None:
    for fixed in (0.3, None):
        settings = replace(SMALL, temperature=fixed)
        update = PearlUpdate(policy(settings), settings)
        start = update.temperature.clone()
        update.step(transitions(3, 5), transitions(3, 6, seed=1), generator())
        assert torch.equal(update.temperature, start) == (fixed is not None)


def test_a_restored_update_takes_the_same_steps() -> None:
    first, second = (PearlUpdate(policy(seed=seed), SMALL) for seed in (0, 1))
    data = transitions(3, 5), transitions(3, 6, seed=1)
    first.step(*data, generator())
    second.policy.take_over({name: value.clone() for name, value in first.policy.learned().items()})
    second.load_tensors({name: value.clone() for name, value in first.tensors().items()})
    for update in (first, second):
        update.step(*data, generator(1))
    assert_close(second.policy.learned(), first.policy.learned(), rtol=0, atol=0)
    assert_close(second.tensors(), first.tensors(), rtol=0, atol=0)


# The agent


def play(agent: PearlAgent, shift: float, seed: int, *, episodes: int = 2, ends: int = 4) -> Tensor:
    """Play four steps and return the first actions; the last episode ends after `ends` steps."""
    stream, firsts = generator(seed), []
    for step in range(4):
        observations = torch.randn(3, episodes, 3, generator=stream)
        actions = agent.act(observations, stream)
        firsts.append(actions)
        running = torch.ones(3, episodes)
        running[:, -1] = float(step < ends)
        agent.observe(
            Transition(
                observations=observations,
                actions=actions,
                rewards=torch.full((3, episodes), shift) * running,
                running=running,
                terminated=torch.zeros(3, episodes),
                next_observations=observations,
            )
        )
    return firsts[0]


def test_an_agent_starts_with_the_prior_and_believes_more_with_every_round() -> None:
    agent = PearlAgent(policy())
    agent.begin(3)
    assert_close(agent.belief, prior_belief(3, 2))
    spreads = []
    for seed in range(3):
        play(agent, 1.0, seed)
        agent.adapt()
        spreads.append(agent.belief.variance)
    assert bool((spreads[1] < spreads[0]).all() and (spreads[2] < spreads[1]).all())


def test_a_belief_of_two_rounds_is_that_of_all_their_transitions() -> None:
    networks = policy()
    agent = PearlAgent(networks)
    agent.begin(3)
    kept: list[Transition] = []
    plain = agent.observe
    agent.observe = lambda step: (kept.append(step), plain(step))[1]  # type: ignore[method-assign]
    for seed in range(2):
        play(agent, 1.0, seed, ends=2)
        agent.adapt()
    whole = networks.encoder(*Transitions.of_steps(kept))
    assert_close(agent.belief, whole, rtol=1e-5, atol=1e-6)


def test_guesses_come_from_the_prior_for_as_many_rounds_as_asked() -> None:
    agent = PearlAgent(policy(), prior_rounds=2)
    agent.begin(3)
    for expected in (True, True, False):
        belief = agent.belief.mean
        assert torch.equal(belief, torch.zeros(3, 2)) == expected
        play(agent, 1.0, 0)
        agent.adapt()


def test_a_guess_lasts_for_an_episode_and_is_another_one_in_each() -> None:
    agent = PearlAgent(policy(), stochastic=False)
    agent.begin(3)
    same = torch.ones(3, 2, 3)
    first = agent.act(same, generator())
    assert_close(agent.act(same, generator(1)), first, rtol=0, atol=0)
    assert bool((first[:, 0] != first[:, 1]).any(-1).all())


def test_actions_are_drawn_unless_the_most_likely_are_asked_for() -> None:
    same = torch.ones(3, 2, 3)
    for stochastic in (True, False):
        agent = PearlAgent(policy(), stochastic=stochastic)
        agent.begin(3)
        stream = generator()
        first, second = agent.act(same, stream), agent.act(same, stream)
        assert torch.equal(first, second) != stochastic


def test_steps_after_the_end_of_an_episode_say_nothing() -> None:
    beliefs = []
    for shift in (0.0, 5.0):
        agent = PearlAgent(policy())
        agent.begin(3)
        play(agent, 1.0, 0, ends=2)
        # What comes after the end differs, and nothing is made of it.
        agent._seen[-1] = replace(
            agent._seen[-1],
            observations=torch.cat(
                [agent._seen[-1].observations[:, :1], agent._seen[-1].observations[:, 1:] + shift],
                1,
            ),
        )
        agent.adapt()
        beliefs.append(agent.belief)
    assert_close(beliefs[0], beliefs[1], rtol=0, atol=0)


def test_new_tasks_are_met_without_a_belief() -> None:
    agent = PearlAgent(policy())
    agent.begin(3)
    play(agent, 1.0, 0)
    agent.adapt()
    agent.begin(4)
    assert_close(agent.belief, prior_belief(4, 2))


def test_the_baseline_keeps_the_prior_and_guesses_anew() -> None:
    agent = PriorAgent(policy())
    agent.begin(3)
    first = play(agent, 1.0, 0)
    agent.adapt()
    assert_close(agent.belief, prior_belief(3, 2))
    assert bool((play(agent, 1.0, 1) != first).any())


@pytest.mark.parametrize(
    ("name", "value"), [("latent", 0), ("kl_weight", -1.0), ("discount", 1.5), ("temperature", 0.0)]
)
def test_settings_without_sense_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        PEARL(**{name: value})
