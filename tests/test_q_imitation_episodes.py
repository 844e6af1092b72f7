"""Updates that follow episodes, episodes side by side, and the switch's last updates of imitation."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from torch.testing import assert_close

from mtrl.agents.q_learning import Budget, CarryOver, QImitation, ScaledFeatures
from mtrl.agents.q_learning.progress import Phase, Progress
from mtrl.agents.q_learning.switching import settle
from mtrl.errors import UsageError

PLAIN = {"q_scale": "keep", "value_updates": 0}


class Balance:
    """Pushes under the pole."""

    def actions(self, observations):
        return (observations[:, 2] + 0.5 * observations[:, 3] > 0).astype(int)


def agent(envs=2, **changes):
    given = {
        "buffer_size": 400,
        "learning_starts": 0,
        "batch_size": 16,
        "train_freq": 1,
        "target_update_interval": envs,
        "tau": 0.1,
        "policy_kwargs": {"net_arch": [16]},
        "seed": 1,
        "device": "cpu",
    }
    return QImitation("MlpPolicy", make_vec_env("CartPole-v1", envs), **(given | changes))


class Watch(BaseCallback):
    """Writes down the ends of episodes, and the updates made before each step."""

    def __init__(self):
        super().__init__()
        self.ends, self.updates = [], []

    def _on_step(self):
        self.updates.append(self.model._n_updates)
        self.ends.append(np.flatnonzero(self.locals["dones"]).tolist())
        return True


# Episodes side by side


def test_the_first_episodes_to_begin_count_whenever_they_end():
    phase = Phase(kind="imitation", budget=Budget(episodes=4))
    phase.begin_episodes(3)
    # Environment 1 ends three short ones (1, 3 and 5) while the others go on.
    for ended, episodes in (([1], 1), ([1], 2), ([1], 2), ([0, 2], 4)):
        phase.end_episodes(ended)
        assert phase.episodes == episodes
    assert phase.past(0) == 1
    assert (phase.numbers, phase.begun) == ([6, 5, 7], 8)


def test_of_a_budget_in_steps_every_episode_counts():
    phase = Phase(kind="imitation", budget=Budget(steps=10))
    phase.begin_episodes(1)
    for _ in range(5):
        phase.end_episodes([0])
    assert phase.episodes == 5


def test_a_budget_lasts_until_the_last_of_its_episodes_is_over():
    watch, made = Watch(), agent(3)
    made.pretrain(Budget(episodes=5), expert=Balance(), callback=watch)
    playing, begun, open_ones = [0, 1, 2], 3, {0, 1, 2, 3, 4}
    for ended in watch.ends:
        assert open_ones
        for slot in ended:
            open_ones.discard(playing[slot])
            playing[slot], begun = begun, begun + 1
    assert not open_ones


def test_a_phase_with_its_numbers_survives_json():
    phase = Phase(kind="imitation", budget=Budget(episodes=4))
    phase.begin_episodes(2)
    phase.end_episodes([1])
    one = Progress(exploration=(1.0, 0.1, 0.2), phase=phase)
    other = Progress(exploration=(1.0, 0.1, 0.2))
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other.state_dict() == one.state_dict()


# Updates that follow episodes


def test_so_many_updates_follow_the_end_of_each_episode_and_no_step():
    watch, made = Watch(), agent(2, updates_per_episode=7)
    made.pretrain(Budget(episodes=6), expert=Balance(), callback=watch)
    ended = np.cumsum([0] + [len(each) for each in watch.ends])
    assert_array_equal(watch.updates, 7 * ended[:-1])
    # The phase ends with the step in which its last episode does.
    assert made._n_updates == 7 * ended[-2]


def test_the_target_follows_updates_and_not_steps():
    made = agent(2, updates_per_episode=1, learning_rate=0.0)
    with torch.no_grad():
        made.q_net_target.q_net[-1].bias.add_(1.0)
    made.pretrain(Budget(episodes=4), expert=Balance())
    left = (made.q_net_target.q_net[-1].bias - made.q_net.q_net[-1].bias).detach()
    assert made._n_updates >= 3
    assert_close(left, torch.full((2,), 0.9**made._n_updates), rtol=1e-4, atol=0)


def test_updates_per_episode_below_one_are_refused():
    with pytest.raises(UsageError, match="updates_per_episode is 0"):
        agent(updates_per_episode=0)


# The switch


def test_the_learning_rate_is_lower_after_the_switch_only():
    made = agent(2, learning_rate=1e-3)
    made.pretrain(Budget(steps=40), expert=Balance())
    assert made.policy.optimizer.param_groups[0]["lr"] == 1e-3
    made.finetune(Budget(steps=40), carry_over=CarryOver(learning_rate_factor=0.1, **PLAIN))
    assert made.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    made.pretrain(Budget(steps=40), expert=Balance())
    assert made.policy.optimizer.param_groups[0]["lr"] == 1e-3


def test_settling_updates_have_a_rate_that_falls_to_zero_and_imitations_rewards():
    made = agent(2).pretrain(Budget(steps=60), expert=Balance())
    rates, weights, plain = [], [], made.update_once

    def watched():
        rates.append(made.policy.optimizer.param_groups[0]["lr"])
        weights.append(made.buffer.imitation_weight)
        plain()

    made.update_once = watched
    before = made.policy.optimizer.param_groups[0]["lr"]
    made.finetune(Budget(steps=2), carry_over=CarryOver(settling_updates=4, **PLAIN))
    assert rates == pytest.approx([before * share for share in (1, 0.75, 0.5, 0.25)])
    assert weights == [1.0] * 4
    assert made.progress.switch["settling_updates"] == 4


def test_the_anchor_is_the_settled_policy():
    made = agent(2, learning_rate=1e-2).pretrain(Budget(steps=60), expert=Balance())
    before = made.q_net.q_net[0].weight.detach().clone()
    # No update of reinforcement learning comes after.
    carry_over = CarryOver(settling_updates=20, warmup_steps=100, **PLAIN)
    made.finetune(Budget(steps=4), carry_over=carry_over)
    assert float((made.q_net.q_net[0].weight - before).detach().abs().max()) > 0
    for one, two in zip(made.anchor.parameters(), made.q_net.parameters(), strict=True):
        assert_close(one, two, rtol=0, atol=0)


def test_settling_leaves_the_learning_rate_as_it_was():
    made = agent(2).pretrain(Budget(steps=60), expert=Balance())
    before = made.policy.optimizer.param_groups[0]["lr"]
    settle(made, 3)
    assert made.policy.optimizer.param_groups[0]["lr"] == before


@pytest.mark.parametrize("field", [{"learning_rate_factor": 0.0}, {"settling_updates": -1}])
def test_choices_out_of_range_are_refused_by_name(field):
    with pytest.raises(UsageError, match=next(iter(field))):
        CarryOver(**field)


# Observations on one scale


def scaled(factors):
    return {
        "net_arch": [16],
        "features_extractor_class": ScaledFeatures,
        "features_extractor_kwargs": {"factors": factors},
    }


def test_scaled_features_are_a_first_layer_with_scaled_weights():
    one, other = agent(policy_kwargs=scaled((1.0, 2.0, 5.0, 0.5))), agent()
    factors = torch.tensor([1.0, 2.0, 5.0, 0.5])
    for mine, theirs in ((one.q_net.q_net, other.q_net.q_net),):
        theirs.load_state_dict(mine.state_dict())
        with torch.no_grad():
            theirs[0].weight.mul_(factors)
    observations = torch.randn(20, 4)
    assert_close(one.q_net(observations), other.q_net(observations))


@pytest.mark.parametrize("factors", [(1.0, 2.0), (1.0, 0.0, 1.0, 1.0)])
def test_factors_that_do_not_fit_are_refused(factors):
    with pytest.raises(UsageError, match="factors"):
        agent(policy_kwargs=scaled(factors))
