"""Q-imitation from the first phase to the second: what passes over, and what that changes."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.callbacks import BaseCallback
from tiny_imitation import Balance, agent, demonstrations, pretrained
from torch.testing import assert_close

from mtrl.agents.q_learning import Budget, CarryOver, Sqil
from mtrl.agents.q_learning.progress import Phase
from mtrl.agents.q_learning.switching import learn_values
from mtrl.errors import UsageError

PLAIN = {"q_scale": "keep", "value_updates": 0}


def switched(carry_over, **other):
    """Return an agent at the switch, before any step after it, and its greedy values before."""
    made = pretrained(200, **other)
    probe = made.buffer.batch(np.arange(200)).observations
    before = made.q_net(probe).detach()
    made._switch(carry_over)
    return made, probe, before


@pytest.mark.parametrize("buffer", ["relabel", "clear", "keep"])
def test_the_buffer_is_relabelled_cleared_or_kept(buffer):
    made, _, _ = switched(CarryOver(buffer=buffer, warmup_steps=5, **PLAIN))
    if buffer == "clear":
        assert made.buffer.stored == 0
        return
    rewards = made.buffer.batch(np.arange(200)).rewards.numpy()
    grades = made.buffer.imitation_rewards[:200]
    assert_array_equal(rewards, grades if buffer == "keep" else np.ones((200, 1)))


def test_demonstrations_are_kept_with_their_true_rewards_or_dropped():
    for choice, left in (("keep", 40), ("drop", 0)):
        made = agent(Sqil()).pretrain(Budget(steps=20), demonstrations=demonstrations())
        made._switch(CarryOver(demonstrations=choice, **PLAIN))
        assert made.buffer.demonstrations == left
        batch = made.buffer.sample(64)
        assert_array_equal(batch.rewards, 1.0)
        # Their fixed share of a batch is imitation's alone.
        assert made.buffer.demonstration_share is None


def test_the_optimiser_is_reset_or_kept():
    for choice, kept in (("reset", False), ("keep", True)):
        made, _, _ = switched(CarryOver(optimiser=choice, **PLAIN))
        assert bool(made.policy.optimizer.state_dict()["state"]) is kept


def test_the_target_is_synchronised_or_kept():
    for choice, equal in (("sync", True), ("keep", False)):
        # 200 steps are five periods of the target and 50 updates; some came after the last.
        made, probe, _ = switched(CarryOver(target=choice, **PLAIN), target_update_interval=150)
        difference = (made.q_net(probe) - made.q_net_target(probe)).abs().max()
        assert bool(difference == 0) is equal


def test_exploration_restarts_low_and_never_rises():
    made, _, _ = switched(CarryOver(exploration=0.2, **PLAIN))
    assert made.exploration_rate == 0.2
    made, _, _ = switched(CarryOver(exploration=0.01, **PLAIN))
    assert made.progress.exploration[:2] == (0.01, 0.01)
    made, _, _ = switched(CarryOver(exploration=None, **PLAIN))
    assert made.progress.exploration[:2] == (1.0, 0.05)


def test_exploration_runs_through_each_phase_anew():
    class Rates(BaseCallback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def _on_step(self):
            self.seen.append(self.model.exploration_rate)
            return True

    made, rates = agent(exploration_fraction=0.5), Rates()
    made.pretrain(Budget(steps=80), expert=Balance(), callback=rates)
    made.finetune(Budget(steps=80), carry_over=CarryOver(exploration=0.3, **PLAIN), callback=rates)
    # What a step sees was set after the step before it.
    past = np.arange(1, 80) / 80
    for first, seen in ((1.0, rates.seen[1:80]), (0.3, rates.seen[81:])):
        expected = np.maximum(first + (0.05 - first) * past / 0.5, 0.05)
        assert_allclose(seen, expected, atol=1e-9)
    assert rates.seen[80] == 0.3


def test_shifting_moves_the_level_to_the_true_rewards_and_keeps_every_gap():
    made, probe, before = switched(CarryOver(q_scale="shift", value_updates=0))
    after = made.q_net(probe).detach()
    offset = made.progress.switch["q_offset"]
    assert_close(after, before + offset, rtol=1e-4, atol=1e-4)
    assert abs(offset) > 0.1
    held = made.buffer.batch(np.arange(200)).one_step
    values = made.q_net(made.buffer.batch(np.arange(200)).observations).detach()
    taken = values.gather(1, made.buffer.batch(np.arange(200)).actions)
    ahead = made.q_net(held.observations).detach().max(1, keepdim=True).values
    errors = held.rewards + 0.99 * (1 - held.dones) * ahead - taken
    assert abs(float(errors.mean())) < 1e-3
    keeping, _, old = switched(CarryOver(**PLAIN))
    assert_close(keeping.q_net(probe).detach(), old, rtol=0, atol=0)


def test_rescaling_keeps_the_greedy_policy():
    made, probe, before = switched(CarryOver(q_scale="rescale", value_updates=0))
    assert 0.1 <= made.progress.switch["q_slope"] <= 10
    assert_array_equal(made.q_net(probe).argmax(1), before.argmax(1))


def test_value_updates_change_values_and_keep_the_policy():
    kept = {}
    for margin in (0.8, 0.0):
        made, probe, before = switched(CarryOver(value_updates=0))
        shifted = made.q_net(probe).detach()
        learn_values(made, 400, margin)
        after = made.q_net(probe).detach()
        assert float((after - shifted).abs().mean()) > 0.1
        kept[margin] = float((after.argmax(1) == before.argmax(1)).float().mean())
    # Measured 0.92, and 0.67 for the control without a margin.
    assert kept[0.8] > 0.85
    assert kept[0.0] < 0.8


def test_the_anchor_is_the_margin_of_the_pretrained_policy_with_a_falling_weight():
    made, _, _ = switched(CarryOver(anchor_weight=2.0, anchor_weight_end=0.0, **PLAIN))
    batch = made.buffer.batch(np.arange(32))
    with torch.no_grad():
        # So that network and anchor differ.
        made.q_net.q_net[-1].bias.copy_(torch.tensor([1.0, -1.0]))
    made.num_timesteps, budget = 25, Budget(steps=100)
    made.progress.phase = Phase(kind="reinforcement", budget=budget)
    shown, q_values = made.anchor(batch.observations).argmax(1), made.q_net(batch.observations)
    rivals = q_values[torch.arange(32), 1 - shown] + 0.8
    own = q_values[torch.arange(32), shown]
    # A quarter of the phase is past.
    expected = 1.5 * torch.maximum(rivals - own, torch.zeros(32)).mean()
    assert expected > 0
    assert_close(made.loss_terms(batch).terms["anchor"], expected)
    made.progress.phase = Phase(kind="imitation", budget=budget)
    assert "anchor" not in made.loss_terms(batch).terms


def test_a_bare_switch_has_no_anchor_and_changes_no_value():
    made, probe, before = switched(CarryOver.bare_switch())
    assert_close(made.q_net(probe).detach(), before, rtol=0, atol=0)
    assert made.progress.exploration == (1.0, 0.05, 0.1)
    assert made.policy.optimizer.state_dict()["state"]


def test_no_update_is_made_before_the_warm_up_is_over():
    made, probe, _ = switched(CarryOver(buffer="clear", warmup_steps=30, **PLAIN))
    updates, weights = made._n_updates, made.q_net(probe).detach()
    made.progress.phase = None
    made.num_timesteps += 29
    made.train(1, 8)
    assert made._n_updates == updates
    assert_close(made.q_net(probe).detach(), weights, rtol=0, atol=0)


def test_an_annealed_reward_passes_from_imitation_to_true():
    made = pretrained(60)
    expert = made.expert
    how = CarryOver(imitation_anneal=0.5, **PLAIN)
    seen = []

    class Weights(BaseCallback):
        def _on_step(self):
            seen.append(self.model.buffer.imitation_weight)
            return True

    made.finetune(Budget(steps=40), carry_over=how, callback=Weights())
    assert_allclose(seen, np.maximum(0, 1 - np.arange(40) / 20), atol=1e-9)
    # The expert goes on grading as long as grades count.
    assert len(expert.seen) == 60 + 20


def test_the_switch_is_logged_with_its_choices_and_the_scale_before_and_after():
    made = pretrained().finetune(Budget(steps=8), carry_over=CarryOver(value_updates=2))
    names = {"buffer", "optimiser", "target", "exploration", "q_scale", "value_updates"}
    assert names | {"q_before", "q_after", "q_slope", "q_offset"} <= made.progress.switch.keys()
    assert made.logger.name_to_value["switch/q_before"] == made.progress.switch["q_before"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"exploration": 1.5}, "exploration"),
        ({"value_updates": -1}, "value_updates"),
        ({"buffer": "clear"}, "warmup_steps"),
        ({"imitation_anneal": 0.5}, "imitation_anneal"),
    ],
)
def test_contradictory_choices_are_refused_by_name(fields, named):
    with pytest.raises(UsageError, match=named):
        CarryOver(**fields)
