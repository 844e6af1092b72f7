"""What the replay buffer returns, against brute force over the episodes that were put in."""

import copy
import pickle

import numpy as np
import pytest
from gymnasium import spaces
from replay_steps import recorded, row_of
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mtrl.agents.q_learning import QReplayBuffer, ReplaySettings
from mtrl.agents.q_learning.n_step import n_step_returns
from mtrl.errors import CheckpointError, UsageError

BOX = spaces.Box(-1e6, 1e6, (1,))
GAMMA = 0.5


def buffer(rows=8, envs=1, n_steps=1, **settings):
    return QReplayBuffer(
        rows * envs,
        BOX,
        spaces.Discrete(3),
        n_envs=envs,
        settings=ReplaySettings(n_steps=n_steps, gamma=GAMMA, seed=0, **settings),
    )


def random_steps(count, envs, seed):
    """Return, for each row, which environments terminated and which were truncated."""
    rng = np.random.default_rng(seed)
    ended = rng.random((count, envs)) < 0.2
    return ended, (rng.random((count, envs)) < 0.2) & ~ended


def brute_force(rows, env, start, newest, n_steps):
    """Return (return, last row, terminal, discount) of one start, step by step."""
    ended, truncated = rows
    total, discount = 0.0, 1.0
    for row in range(start, start + n_steps):
        total += discount * (env + row / 8)
        discount *= GAMMA
        if ended[row, env] or truncated[row, env] or row == newest:
            break
    return total, row, bool(ended[row, env]), discount


@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize("added", [5, 8, 19])
def test_returns_equal_brute_force_with_terminations_and_truncations_mixed(envs, n_steps, added):
    made, steps = buffer(8, envs, n_steps), random_steps(added, envs, added)
    for row in range(added):
        made.add(*row_of(row, envs, steps[0][row], steps[1][row]))
    indices = np.arange(made.stored)
    batch = made.batch(indices)
    for index in indices.tolist():
        slot, env = divmod(index, envs)
        # The row that this place of the ring holds now.
        row = slot + 8 * ((added - 1 - slot) // 8)
        total, last, terminal, discount = brute_force(steps, env, row, added - 1, n_steps)
        assert batch.observations[index].item() == 1000 * env + row
        assert batch.one_step.rewards[index].item() == env + row / 8
        assert batch.one_step.observations[index].item() == 1000 * env + row + 0.5
        assert batch.one_step.dones[index].item() == float(steps[0][row, env])
        assert batch.rewards[index].item() == pytest.approx(total, rel=1e-6)
        # A truncated episode goes on from its own last observation.
        assert batch.next_observations[index].item() == 1000 * env + last + 0.5
        assert batch.dones[index].item() == float(terminal)
        if n_steps > 1:
            assert batch.discounts[index].item() == discount


def test_returns_equal_those_of_stable_baselines3():
    ours = buffer(16, 1, 4)
    theirs = NStepReplayBuffer(16, BOX, spaces.Discrete(3), n_steps=4, gamma=GAMMA)
    ended, truncated = random_steps(40, 1, 7)
    for row in range(40):
        for made in (ours, theirs):
            made.add(*row_of(row, 1, ended[row], truncated[row]))
    indices = np.arange(16)
    one, two = ours.batch(indices), theirs._get_samples(indices)
    for name in ("observations", "actions", "next_observations", "dones", "rewards", "discounts"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-6)


def test_the_closed_form_of_a_constant_reward():
    cuts = np.zeros((2, 6), bool)
    cuts[1, 2] = True
    made = n_step_returns(np.ones((2, 6), np.float32), cuts, 0.9)
    lengths = np.array([6, 3])
    np.testing.assert_array_equal(made.lengths, lengths)
    np.testing.assert_allclose(made.returns, (1 - 0.9**lengths) / (1 - 0.9), rtol=1e-6)
    np.testing.assert_allclose(made.discounts, 0.9**lengths, rtol=1e-6)


def test_demonstrations_have_returns_of_their_own_episodes_only():
    made = buffer(4, 2, 3)
    made.add(*row_of(0, 2))
    made.add_demonstrations(recorded(5, terminated=[1], truncated=[3]))
    made.add_demonstrations(recorded(2, first=50))
    batch = made.batch(np.arange(7))
    rewards = np.arange(5) / 4 - 1
    expected = [rewards[0] + rewards[1] / 2, rewards[1], rewards[2] + rewards[3] / 2, rewards[3]]
    # The last row of a recording is cut, whatever is recorded or stored after it.
    expected += [rewards[4], -1 - 0.75 / 2, -0.75]
    np.testing.assert_allclose(batch.rewards.squeeze(1), expected, rtol=1e-6)
    np.testing.assert_array_equal(
        batch.next_observations.squeeze(1), [1.5, 1.5, 3.5, 3.5, 4.5, 51.5, 51.5]
    )
    np.testing.assert_array_equal(batch.dones.squeeze(1), [1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(
        made.batch(np.arange(9)).demonstrations.squeeze(1)[-3:], [1, 0, 0]
    )


def test_no_return_reaches_across_a_reset_from_outside():
    made = buffer(8, 1, 3)
    made.add(*row_of(0, 1))
    made.cut()
    made.add(*row_of(1, 1))
    made.add(*row_of(2, 1, ended=[True]))
    made.cut()
    batch = made.batch(np.arange(3))
    np.testing.assert_array_equal(batch.rewards.squeeze(1), [0.0, 1 / 8 + 2 / 16, 2 / 8])
    # The first was cut short and goes on in value; the last really ended.
    np.testing.assert_array_equal(batch.dones.squeeze(1), [0, 1, 1])


def test_batches_mix_both_rewards_by_weight():
    made = buffer()
    made.add(*row_of(4, 1))
    made.label_newest(np.array([3.0]))
    made.add(*row_of(8, 1))
    seen = []
    for weight in (0.0, 0.25, 1.0):
        made.imitation_weight = weight
        seen.append(made.batch(np.arange(2)).one_step.rewards.squeeze(1).tolist())
    assert seen == [[0.5, 1.0], [0.75 + 0.375, 0.75], [3.0, 0.0]]


def test_a_place_used_again_forgets_its_imitation_reward():
    made = buffer(2)
    made.imitation_weight = 1.0
    for row in range(3):
        made.add(*row_of(row, 1))
        if row == 0:
            made.label_newest(np.array([9.0]))
    assert made.batch(np.array([0])).one_step.rewards.item() == 0.0


def test_batches_have_the_share_of_demonstrations_that_is_set():
    made = buffer(demonstration_share=0.5)
    made.add_demonstrations(recorded(2))
    assert bool(made.sample(6).demonstrations.all())
    for row in range(8):
        made.add(*row_of(row, 1))
    for _ in range(5):
        assert int(made.sample(10).demonstrations.sum()) == 5
    made.demonstration_share = None
    counts = np.bincount(made.sample(20_000).indices, minlength=10)
    np.testing.assert_allclose(counts, 2000, atol=220)


def test_stable_baselines3s_own_buffer_becomes_a_batch():
    from mtrl.agents.q_learning import ReplayBatch

    theirs = ReplayBuffer(4, BOX, spaces.Discrete(3))
    theirs.add(*row_of(3, 1))
    samples = theirs._get_samples(np.array([0]))
    batch = ReplayBatch.of(samples)
    assert batch.discounts is None
    np.testing.assert_array_equal(batch.one_step.rewards, samples.rewards)


def test_vec_normalize_is_applied_to_each_reward_and_not_to_imitations():
    import gymnasium as gym

    env = VecNormalize(DummyVecEnv([lambda: gym.make("MountainCar-v0")]), gamma=GAMMA)
    env.ret_rms.var, env.epsilon = np.array(16.0), 0.0
    made = QReplayBuffer(
        8, env.observation_space, env.action_space, settings=ReplaySettings(n_steps=2, gamma=GAMMA)
    )
    for row in range(2):
        at = np.full((1, 2), float(row))
        made.add(at, at, np.array([0]), np.array([-2.0]), np.array([False]), [{}])
        made.label_newest(np.array([1.0]))
    assert made.batch(np.array([0]), env=env).rewards.item() == -0.5 - 0.25
    made.imitation_weight = 1.0
    assert made.batch(np.array([0]), env=env).rewards.item() == 1.5
    env.close()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_still_writes_where_it_reads(copied):
    made = buffer()
    made.add_demonstrations(recorded(1))
    other = copied(made)
    other.add(*row_of(6, 1))
    assert other.batch(np.array([1])).observations.item() == 6
    assert made.size() == 0


@pytest.mark.parametrize("added", [3, 20])
def test_a_loaded_buffer_is_the_saved_one(added):
    made, other = buffer(8, 2, 3, demonstration_share=0.5), buffer(8, 2, 3)
    made.add_demonstrations(recorded(3))
    for row in range(added):
        made.add(*row_of(row, 2))
    made.imitation_weight = 0.25
    other.load_state_dict(*made.state_dict())
    for both in (made, other):
        both.add(*row_of(added, 2))
    one, two = made.sample(32), other.sample(32)
    for name in ("observations", "rewards", "discounts", "demonstrations", "indices"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_a_state_of_another_size_is_refused_by_name():
    made = buffer(8)
    for row in range(9):
        made.add(*row_of(row, 1))
    with pytest.raises(CheckpointError, match="observations"):
        buffer(4).load_state_dict(*made.state_dict())


@pytest.mark.parametrize(
    ("change", "named"),
    [({"observations": np.zeros((2, 3))}, "observations"), ({"rewards": np.zeros(5)}, "rewards")],
)
def test_demonstrations_of_another_environment_are_refused_by_name(change, named):
    given = recorded(2)
    vars(given).update(change)
    with pytest.raises(UsageError, match=named):
        buffer().add_demonstrations(given)


def test_nothing_to_draw_from_and_no_demonstrations_are_refused():
    with pytest.raises(UsageError, match="empty"):
        buffer().sample(4)
    with pytest.raises(UsageError, match="empty"):
        buffer().add_demonstrations(recorded(0))


@pytest.mark.parametrize("field", [{"n_steps": 0}, {"gamma": 1.5}, {"demonstration_share": 1.0}])
def test_settings_out_of_range_are_refused_by_name(field):
    with pytest.raises(UsageError, match=next(iter(field))):
        ReplaySettings(**field)


def test_dict_observations_and_saved_memory_are_refused():
    with pytest.raises(UsageError, match="optimize_memory_usage"):
        QReplayBuffer(8, BOX, spaces.Discrete(2), optimize_memory_usage=True)
    with pytest.raises(UsageError, match="one array"):
        QReplayBuffer(8, spaces.Dict({"observation": BOX}), spaces.Discrete(2))
