"""Priorities, importance weights, the sum tree and what is drawn, against closed forms and naive ones."""

import numpy as np
import pytest
from gymnasium import spaces
from replay_steps import recorded, row_of
from scipy import stats

from mtrl.agents.q_learning import PrioritizedReplayBuffer, PrioritySettings, ReplaySettings
from mtrl.agents.q_learning.prioritized import importance_weights
from mtrl.agents.q_learning.sum_tree import SumTree
from mtrl.errors import MtrlError, UsageError

BOX = spaces.Box(-1e6, 1e6, (1,))


def buffer(size=8, envs=1, priorities=None, demonstrations=0, seed=0):
    made = PrioritizedReplayBuffer(
        size * envs,
        BOX,
        spaces.Discrete(3),
        n_envs=envs,
        settings=ReplaySettings(seed=seed),
        priorities=priorities or PrioritySettings(),
    )
    if demonstrations:
        made.add_demonstrations(recorded(demonstrations))
    return made


def fill(made, rows, start=0):
    """Add rows and draw once: only steps that may have been drawn get new priorities."""
    for row in range(start, start + rows):
        made.add(*row_of(row, made.n_envs))
    made.sample(1)


def masses(made):
    return made.probabilities(np.arange(made.demonstrations + made.buffer_size * made.n_envs))


@pytest.mark.parametrize("size", [1, 5, 32, 33, 1100])
def test_the_tree_equals_naive_sums_and_search_after_random_updates(size):
    rng, tree, naive = np.random.default_rng(size), SumTree(size), np.zeros(size)
    for _ in range(30):
        leaves = rng.permutation(size)[: rng.integers(1, size + 1)]
        # Small whole numbers, so that sums are exact in any order.
        new = rng.integers(0, 9, len(leaves)).astype(float)
        tree.update(leaves, new)
        naive[leaves] = new
        np.testing.assert_array_equal(tree.masses, naive)
        assert tree.total == naive.sum()
        if naive.sum() == 0:
            continue
        points = rng.random(50) * naive.sum()
        found = np.searchsorted(naive.cumsum(), points, side="right")
        np.testing.assert_array_equal(tree.find(points), found)


def test_of_a_leaf_named_twice_the_last_mass_counts():
    tree = SumTree(40)
    tree.update(np.array([3, 20, 3]), np.array([1.0, 2.0, 5.0]))
    assert tree.masses[3] == 5.0
    assert tree.total == 7.0


def test_points_at_the_end_fall_on_the_last_leaf_with_mass():
    tree = SumTree(64)
    tree.update(np.array([7, 20]), np.array([0.1, 0.2]))
    np.testing.assert_array_equal(tree.find(np.array([0.0, tree.total, 9.0])), [7, 20, 20])


def test_a_tree_filled_at_once_equals_one_that_grew_to_the_last_bit():
    rng = np.random.default_rng(0)
    grown, filled, values = SumTree(1000), SumTree(1000), rng.random(1000)
    for leaves in np.split(rng.permutation(1000), 50):
        grown.update(leaves, values[leaves])
    filled.fill(values)
    points = rng.random(500) * grown.total
    assert grown.total == filled.total
    np.testing.assert_array_equal(grown.find(points), filled.find(points))


def test_priorities_are_the_closed_form_with_the_bonus_of_demonstrations():
    how = PrioritySettings(alpha=0.4, epsilon=0.001, demonstration_epsilon=1.0)
    made = buffer(priorities=how, demonstrations=3)
    fill(made, 5)
    errors = np.array([0.5, -2.0, 0.0, 3.0])
    made.update_priorities(np.array([0, 2, 3, 6]), errors)
    raw = np.array([0.5 + 1, 1 + 1, 2 + 1, 0.001, 1.001, 1.001, 3.001, 1.001, 0, 0, 0])
    expected = np.where(raw > 0, raw**0.4, 0)
    np.testing.assert_allclose(masses(made), expected / expected.sum(), rtol=1e-12)


def test_new_steps_have_the_largest_error_so_far():
    made = buffer(priorities=PrioritySettings(alpha=1.0, epsilon=0.5))
    fill(made, 2)
    made.update_priorities(np.array([0, 1]), np.array([4.0, 1.0]))
    fill(made, 1, start=2)
    np.testing.assert_allclose(masses(made)[:3], np.array([4.5, 1.5, 4.5]) / 10.5, rtol=1e-12)


def test_importance_weights_are_the_closed_form():
    probabilities = np.array([0.5, 0.25, 0.125])
    made = importance_weights(probabilities, 8, 0.6)
    np.testing.assert_allclose(made, np.array([4.0, 2.0, 1.0]) ** -0.6 / 1.0**-0.6, rtol=1e-12)
    assert made.max() == 1.0


def test_a_batch_has_the_weights_of_its_probabilities():
    made = buffer(size=20, priorities=PrioritySettings(alpha=1.0, beta=0.7))
    fill(made, 20)
    made.update_priorities(np.arange(20), np.linspace(0, 3, 20))
    batch = made.sample(16)
    chances = made.probabilities(batch.indices)
    expected = (20 * chances) ** -0.7
    assert batch.weights is not None
    np.testing.assert_allclose(
        batch.weights.squeeze(1).numpy(), expected / expected.max(), rtol=1e-6
    )


def test_the_weights_undo_the_draws_with_full_correction():
    made = buffer(size=50, priorities=PrioritySettings(alpha=1.0, beta=1.0))
    fill(made, 50)
    made.update_priorities(np.arange(50), np.linspace(0, 5, 50))
    values, sums = np.sin(np.arange(50)), np.zeros(2)
    for _ in range(2000):
        indices, _ = made._draw(32)
        weights = 1 / (50 * made.probabilities(indices))
        sums += [(weights * values[indices]).sum(), weights.sum()]
    assert sums[0] / (2000 * 32) == pytest.approx(values.mean(), abs=0.02)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_what_is_drawn_follows_the_priorities(batch_size):
    made = buffer(size=40, demonstrations=10)
    fill(made, 40)
    made.update_priorities(np.arange(50), np.random.default_rng(1).exponential(2.0, 50))
    draws = np.concatenate([made._draw(batch_size)[0] for _ in range(6400 // batch_size)])
    counts = np.bincount(draws, minlength=50)
    expected = masses(made) * len(draws)
    # Strata make counts vary less than independent draws: a large p-value is no fault.
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_the_test_of_what_is_drawn_would_notice_uniform_draws():
    made = buffer(size=40, demonstrations=10)
    fill(made, 40)
    made.update_priorities(np.arange(50), np.random.default_rng(1).exponential(2.0, 50))
    counts = np.bincount(np.random.default_rng(0).integers(0, 50, 6400), minlength=50)
    assert stats.chisquare(counts, masses(made) * 6400).pvalue < 1e-6


def test_strata_draw_each_part_of_the_mass_once():
    made = buffer(size=10, priorities=PrioritySettings(alpha=0.0))
    fill(made, 10)
    indices, _ = made._draw(10)
    np.testing.assert_array_equal(indices, np.arange(10))


def test_demonstrations_are_never_evicted_and_keep_their_priorities():
    made = buffer(size=4, envs=2, demonstrations=3)
    made.update_priorities(np.arange(3), np.array([1.0, 2.0, 3.0]))
    demonstrations = made.batch(np.arange(3))
    before = masses(made)[:3] * made._tree.total
    fill(made, 50)
    made.reset()
    fill(made, 50)
    after = made.batch(np.arange(3))
    np.testing.assert_array_equal(after.observations, demonstrations.observations)
    np.testing.assert_allclose(masses(made)[:3] * made._tree.total, before, rtol=1e-12)
    assert made.stored == 3 + 8
    assert set(made._draw(2000)[0].tolist()) == set(range(11))


def test_steps_not_there_yet_are_never_drawn():
    made = buffer(size=100, envs=2, demonstrations=5)
    fill(made, 3)
    drawn = np.concatenate([made._draw(64)[0] for _ in range(50)])
    assert drawn.max() == 5 + 5


def test_an_overwritten_step_does_not_get_the_error_of_the_old_one():
    made = buffer(size=2, priorities=PrioritySettings(alpha=1.0, epsilon=1.0))
    fill(made, 2)
    indices = made.sample(2).indices
    for row in (2, 3):
        made.add(*row_of(row, 1))
    made.update_priorities(indices, np.zeros(2))
    np.testing.assert_allclose(masses(made), [0.5, 0.5])
    assert made._tree.total == 4.0


def test_demonstrations_added_later_join_the_earlier_ones():
    made = buffer(size=4, demonstrations=2)
    fill(made, 3)
    made.update_priorities(np.arange(5), np.arange(5.0))
    ring = masses(made)[2:] * made._tree.total
    made.add_demonstrations(recorded(3, first=100))
    assert made.demonstrations == 5
    np.testing.assert_allclose(masses(made)[5:] * made._tree.total, ring, rtol=1e-12)
    assert made.batch(np.array([2])).observations.item() == 100
    assert made.batch(np.array([5])).observations.item() == row_of(0, 1)[0].item()
    made.drop_demonstrations()
    np.testing.assert_allclose(masses(made) * made._tree.total, ring, rtol=1e-12)


def test_a_loaded_buffer_draws_the_same_steps_ever_after():
    made, other = buffer(demonstrations=3, seed=1), buffer(seed=2)
    fill(made, 13)
    made.update_priorities(np.arange(11), np.linspace(-1, 4, 11))
    made.beta = 0.9
    arrays, values = made.state_dict()
    other.load_state_dict(arrays, values)
    for copy in (made, other):
        fill(copy, 2, start=13)
    for _ in range(5):
        one, two = made.sample(16), other.sample(16)
        np.testing.assert_array_equal(one.indices, two.indices)
        np.testing.assert_array_equal(one.weights, two.weights)
        np.testing.assert_array_equal(one.observations, two.observations)
        for copy in (made, other):
            copy.update_priorities(one.indices, one.observations.squeeze(1).numpy())


def test_an_error_that_is_not_finite_is_refused():
    made = buffer()
    fill(made, 3)
    with pytest.raises(MtrlError, match="diverged"):
        made.update_priorities(np.array([0]), np.array([np.nan]))


@pytest.mark.parametrize(
    "field", [{"alpha": 1.5}, {"beta": -0.1}, {"epsilon": 0.0}, {"demonstration_epsilon": -1.0}]
)
def test_settings_out_of_range_are_refused_by_name(field):
    with pytest.raises(UsageError, match=next(iter(field))):
        PrioritySettings(**field)


def test_fixed_shares_and_priorities_contradict_each_other():
    with pytest.raises(UsageError, match="demonstration_share"):
        PrioritizedReplayBuffer(
            8, BOX, spaces.Discrete(2), settings=ReplaySettings(demonstration_share=0.5)
        )
