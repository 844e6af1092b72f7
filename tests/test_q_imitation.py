"""The two phases of Q-imitation: what each rewards and replays, and for how long."""

import json
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize
from tiny_imitation import Balance, agent, demonstrations, pretrained
from tiny_multitask import NETWORK, tiny_env
from torch.testing import assert_close

from mtrl.agents.networks import TaskSpec
from mtrl.agents.policies import MultiTaskQPolicy
from mtrl.agents.q_learning import (
    Aqil,
    Budget,
    CarryOver,
    DeepQOptions,
    Dqfd,
    GradedReward,
    Plan,
    PrioritySettings,
    Sqil,
    sqil_hard_max,
)
from mtrl.agents.q_learning.graded_reward import wrapped_degrees
from mtrl.agents.q_learning.progress import Phase
from mtrl.agents.saving import agent_state, load_agent_state
from mtrl.envs.registry import get_family
from mtrl.errors import UsageError

PLAIN = {"q_scale": "keep", "value_updates": 0}


# The graded reward


def test_the_graded_reward_is_the_papers_formula():
    degrees, actions, wanted = np.array([0.0, 10.0, -20.0, 10.0]), [1, 1, 0, 0], [1, 1, 1, 1]
    observations = np.zeros((4, 4))
    observations[:, 2] = np.radians(degrees)
    made = GradedReward()(observations, np.array(actions), np.array(wanted))
    expected = [
        0.2 + 0.8,
        0.2 * math.exp(-0.5) + 0.8,
        0.2 * math.exp(-2.0) + 0.8 * math.exp(-2.0),
        0.2 * math.exp(-0.5) + 0.8 * math.exp(-2.0),
    ]
    assert_allclose(made, expected, rtol=1e-12)


def test_angles_are_compared_the_short_way_round():
    assert_allclose(wrapped_degrees(np.array([190.0, -190.0, 360.0, 179.0])), [-170, 170, 0, 179])
    how = GradedReward(best_angle=170.0, angle_weight=1.0, agreement_weight=0.0)
    observations = np.zeros((1, 4))
    observations[0, 2] = np.radians(-170.0)
    made = how(observations, np.array([0]), np.array([0]))
    assert_allclose(made, [math.exp(-0.5 * (20 / 10) ** 2)], rtol=1e-9)


def test_an_angle_may_be_a_cosine_and_a_sine():
    how = GradedReward(angle_index=(0, 1), angle_weight=1.0, agreement_weight=0.0)
    turned = np.radians(-15.0)
    made = how(np.array([[np.cos(turned), np.sin(turned)]]), np.array([0]), np.array([0]))
    assert_allclose(made, [math.exp(-0.5 * 1.5**2)], rtol=1e-9)


def test_the_coding_of_actions_decides_what_a_mistake_costs():
    state, one, other = np.zeros((1, 4)), np.array([0]), np.array([1])
    numbers = GradedReward(angle_weight=0.0)(state, one, other)
    forces = GradedReward(angle_weight=0.0, action_values=(-1.0, 1.0))(state, one, other)
    assert_allclose(numbers, [0.8 * math.exp(-2)], rtol=1e-12)
    assert_allclose(forces, [0.8 * math.exp(-8)], rtol=1e-12)


@pytest.mark.parametrize(
    "field",
    [{"angle_width": 0.0}, {"action_width": -1.0}, {"angle_weight": -0.1}, {"angle_index": None}],
)
def test_graded_rewards_out_of_range_are_refused_by_name(field):
    with pytest.raises(UsageError, match=next(iter(field))):
        GradedReward(**field)


# AQIL


@pytest.mark.parametrize("envs", [1, 3])
def test_every_step_has_the_experts_grade_of_its_own_state_and_action(envs):
    buffer = pretrained(96, envs).buffer
    rows = buffer.pos
    assert rows * envs == 96
    states = buffer.observations[:rows].reshape(-1, 4)
    taken = buffer.actions[:rows].reshape(-1)
    expected = Aqil().reward(states, taken, Balance().actions(states))
    assert_allclose(buffer.imitation_rewards[:rows].reshape(-1), expected, rtol=1e-6)
    assert_array_equal(buffer.rewards[:rows], 1.0)
    # The learner errs, so that not every grade is the best.
    assert expected.min() < 0.5 < expected.max()


def test_imitation_learns_from_grades_and_reinforcement_from_true_rewards():
    made = pretrained()
    assert made.buffer.sample(64).rewards.min() < 0.5
    made.finetune(Budget(steps=20), carry_over=CarryOver(**PLAIN))
    assert_array_equal(made.buffer.sample(64).rewards, 1.0)


def test_an_expert_is_told_of_every_end_and_of_the_start():
    expert = Balance()
    made = agent(envs=2).pretrain(Budget(steps=120), expert=expert)
    assert_array_equal(expert.ended[0], [True, True])
    assert len(expert.ended) == 1 + len(expert.seen) == 61
    assert_array_equal(np.array(expert.ended[1:]), made.buffer.dones[:60] > 0)
    assert np.array(expert.ended[1:]).any()


def test_an_expert_sees_observations_that_are_not_normalised():
    expert, env = Balance(), VecNormalize(make_vec_env("CartPole-v1", 1))
    made = agent(env=env).pretrain(Budget(steps=40), expert=expert)
    assert_array_equal(np.concatenate(expert.seen), made.buffer.observations[:40, 0])


@pytest.mark.parametrize("wrong", [np.array([2]), np.array([0, 1]), np.array([0.5])])
def test_an_expert_of_another_environment_is_refused(wrong):
    class Lost:
        def actions(self, observations):
            return wrong

    with pytest.raises(UsageError, match="expert's actions"):
        agent().pretrain(Budget(steps=8), expert=Lost())


# SQIL


def test_sqil_batches_are_half_demonstrations_worth_one_and_half_own_steps_worth_nothing():
    made = agent(Sqil()).pretrain(Budget(steps=40), demonstrations=demonstrations())
    batch = made.buffer.sample(32)
    assert int(batch.demonstrations.sum()) == 16
    assert_array_equal(batch.rewards.numpy(), batch.demonstrations.numpy().astype(float))


def test_sqils_targets_are_the_soft_closed_form_and_the_variants_the_maximum():
    for method, soft in ((Sqil(), True), (sqil_hard_max(), False)):
        made = agent(method).pretrain(Budget(steps=20), demonstrations=demonstrations())
        after = made.buffer.sample(32).one_step
        with torch.no_grad():
            q_values = made.q_net_target(after.observations)
        values = q_values.exp().sum(1).log() if soft else q_values.max(1).values
        expected = after.rewards + 0.99 * (1 - after.dones) * values[:, None]
        assert_close(made.targets(after), expected)
        assert method.name == ("sqil" if soft else "sqil-hard-max")


def test_sqil_weighs_own_errors_as_asked():
    made = agent(Sqil(own_weight=0.25)).pretrain(Budget(steps=20), demonstrations=demonstrations())
    batch = made._sample(16)
    assert_array_equal(batch.weights.numpy(), np.where(batch.demonstrations.numpy(), 1.0, 0.25))


# DQfD


def test_dqfd_imitates_without_a_step_and_keeps_demonstrations_afterwards():
    made = agent(Dqfd()).pretrain(Budget(updates=60), demonstrations=demonstrations())
    assert (made.num_timesteps, made._n_updates, made.buffer.stored) == (0, 60, 40)
    shown = made.buffer.batch(np.arange(40))
    made.finetune(Budget(steps=420), carry_over=CarryOver(**PLAIN))
    assert made.buffer.stored == 440
    assert_array_equal(made.buffer.batch(np.arange(40)).observations, shown.observations)


def test_dqfd_learns_to_prefer_what_was_shown():
    made = agent(Dqfd(), learning_rate=3e-3)
    made.pretrain(Budget(updates=300), demonstrations=demonstrations())
    batch = made.buffer.batch(np.arange(40))
    untrained = agent(Dqfd())
    for model, low, high in ((untrained, 0.0, 0.8), (made, 0.85, 1.0)):
        preferred = model.q_net(batch.observations).argmax(1)
        agreement = float((preferred == batch.actions[:, 0]).float().mean())
        assert low <= agreement <= high


def test_dqfds_options_are_the_papers():
    how = Dqfd().imitation
    assert (how.n_steps, how.one_step_weight, how.n_step_weight) == (10, 1.0, 1.0)
    assert (how.margin, how.margin_weight, how.l2, how.double) == (0.8, 1.0, 1e-5, True)
    expected = PrioritySettings(alpha=0.4, beta=0.6, epsilon=0.001, demonstration_epsilon=1.0)
    assert how.prioritized == expected


# Budgets and plans


def test_a_budget_of_episodes_ends_with_its_last_episode():
    made = agent(train_freq=1).pretrain(Budget(episodes=3), expert=Balance())
    assert made.buffer.dones[: made.buffer.pos].sum() == 3
    assert made.buffer.dones[made.buffer.pos - 1, 0] == 1
    assert made.progress.phase is None


def test_modes_have_equal_totals():
    total = Budget(episodes=500)
    phases = {
        mode: Plan(mode=mode, total=total).phases(takes_steps=True)
        for mode in ("rl", "imitation", "imitation-then-rl")
    }
    assert {
        sum(part.episodes for part in parts if part is not None) for parts in phases.values()
    } == {500}
    assert phases["imitation-then-rl"] == (Budget(episodes=250), Budget(episodes=250))
    offline = Plan(mode="imitation-then-rl", total=total, offline_updates=7)
    assert offline.phases(takes_steps=False) == (Budget(updates=7), total)


@pytest.mark.parametrize("mode", ["rl", "imitation", "imitation-then-rl"])
def test_plans_take_as_many_steps_as_they_say(mode):
    plan = Plan(mode=mode, total=Budget(steps=80), carry_over=CarryOver(**PLAIN))
    made = plan.run(agent(), expert=Balance())
    assert made.num_timesteps == 80
    assert bool(made.progress.switch) is (mode == "imitation-then-rl")


def test_phases_never_join_episodes():
    method = Aqil(
        imitation=DeepQOptions(n_steps=4, n_step_weight=1.0),
        reinforcement=DeepQOptions(n_steps=4, n_step_weight=1.0),
    )
    made = agent(method).pretrain(Budget(steps=40), expert=Balance())
    made.finetune(Budget(steps=20), carry_over=CarryOver(**PLAIN))
    assert made.buffer.dones[39, 0] == 1


@pytest.mark.parametrize(
    ("method", "given", "budget", "named"),
    [
        (Aqil(), {"demonstrations": demonstrations()}, Budget(steps=8), "expert"),
        (Aqil(), {"expert": Balance()}, Budget(updates=8), "steps or episodes"),
        (Sqil(), {"expert": Balance()}, Budget(steps=8), "demonstrations"),
        (Dqfd(), {"demonstrations": demonstrations()}, Budget(steps=8), "updates"),
        (Dqfd(), {}, Budget(updates=8), "demonstrations"),
    ],
)
def test_another_teacher_or_unit_than_the_method_needs_is_refused(method, given, budget, named):
    with pytest.raises(UsageError, match=named):
        agent(method).pretrain(budget, **given)


@pytest.mark.parametrize("fields", [{}, {"steps": 1, "episodes": 1}, {"steps": 0}])
def test_budgets_have_one_unit(fields):
    with pytest.raises(UsageError, match="budget"):
        Budget(**fields)


def test_carrying_over_what_was_never_learnt_is_refused():
    with pytest.raises(UsageError, match="pretrain"):
        agent().finetune(Budget(steps=8), carry_over=CarryOver())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Aqil(imitation=DeepQOptions(backup="soft")), "hard"),
        (lambda: Aqil(imitation=DeepQOptions(prioritized=PrioritySettings())), "prioritized"),
        (lambda: Sqil(own_weight=-1.0), "own_weight"),
        (lambda: Dqfd(imitation=DeepQOptions()), "margin_weight"),
    ],
)
def test_methods_with_another_methods_options_are_refused(make, named):
    with pytest.raises(UsageError, match=named):
        make()


# Many tasks, and going on after an interruption


def batched_env(envs):
    return VecMonitor(get_family("cartpole").make_sb3(["train"] * envs, seed=0))


def test_a_shared_trunk_is_pretrained_by_experts_of_many_tasks():
    env, expert = tiny_env("cartpole", 3), Balance()
    made = agent(
        env=env,
        policy=MultiTaskQPolicy,
        policy_kwargs={"network": NETWORK, "spec": TaskSpec(tasks=3)},
    )
    before = [parameter.clone() for parameter in made.q_net.parameters()]
    made.pretrain(Budget(steps=96), expert=expert)
    # The expert is told the task, too.
    assert_array_equal(expert.seen[0][:, 4:], np.eye(3))
    made.finetune(Budget(steps=48), carry_over=CarryOver(value_updates=5))
    for one, two in zip(before, made.q_net.parameters(), strict=True):
        assert float((one - two).detach().abs().max()) > 0
    assert made.progress.switch["q_after"] != made.progress.switch["q_before"]


class StopAt(BaseCallback):
    """Breaks off where checkpoints are saved: before a rollout."""

    def __init__(self, step):
        super().__init__()
        self.step, self.state = step, None

    def _on_rollout_start(self):
        if self.state is None and self.num_timesteps >= self.step:
            tensors, values = agent_state(self.model)
            self.state = {name: tensor.clone() for name, tensor in tensors.items()}, values

    def _on_step(self):
        return True


@pytest.mark.parametrize("phase", ["imitation", "reinforcement"])
def test_an_interrupted_phase_goes_on_to_the_last_bit(phase):
    carry = CarryOver(value_updates=5, anchor_weight_end=0.0)
    prioritized = DeepQOptions(
        n_steps=3, n_step_weight=1.0, prioritized=PrioritySettings(), double=True
    )
    method = Aqil(imitation=prioritized, reinforcement=prioritized)

    def fresh():
        return agent(method, env=batched_env(2))

    def run(made, callback=None):
        at = {"imitation": (callback, None), "reinforcement": (None, callback)}[phase]
        made.pretrain(Budget(steps=80), expert=Balance(), callback=at[0])
        return made.finetune(Budget(steps=80), carry_over=carry, callback=at[1])

    stop = StopAt(40 if phase == "imitation" else 120)
    whole = run(fresh(), stop)
    resumed = fresh()
    load_agent_state(resumed, *json_round_trip(stop.state))
    if phase == "imitation":
        resumed.expert = Balance()
    resumed.go_on()
    if phase == "imitation":
        resumed.finetune(Budget(steps=80), carry_over=carry)
    assert resumed.num_timesteps == whole.num_timesteps == 160
    for one, two in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert_close(one, two, rtol=0, atol=0)
    assert_array_equal(whole.buffer.sample(32).indices, resumed.buffer.sample(32).indices)


def json_round_trip(state):
    tensors, values = state
    return tensors, json.loads(json.dumps(values))


def test_going_on_without_a_phase_or_without_its_expert_is_refused():
    with pytest.raises(UsageError, match="no phase"):
        agent().go_on()
    made = agent()
    made.progress.phase = Phase(kind="imitation", budget=Budget(steps=8))
    with pytest.raises(UsageError, match="asks an expert"):
        made.go_on()


def test_progress_survives_json():
    made = pretrained().finetune(Budget(steps=8), carry_over=CarryOver(value_updates=1))
    made.progress.phase = Phase(kind="reinforcement", budget=Budget(episodes=9), episodes=4)
    other = agent()
    other.progress.load_state_dict(json.loads(json.dumps(made.progress.state_dict())))
    assert other.progress == made.progress
