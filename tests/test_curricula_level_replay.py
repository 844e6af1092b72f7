"""Facts about prioritised level replay and its scores."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mtrl.envs.curricula import LevelReplay, ReplaySettings
from mtrl.envs.curricula.level_replay import rank_weights, replay_distribution
from mtrl.envs.curricula.scores import (
    EpisodeScore,
    gae_score,
    max_monte_carlo,
    one_step_error,
    positive_value_loss,
)
from mtrl.envs.task import Task
from mtrl.errors import UsageError

TASKS = [Task(family="toy", params={"x": float(place)}) for place in range(4)]
A, B, C, D = TASKS


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_scores_are_means_over_steps() -> None:
    advantages = [1.0, -3.0, 2.0]
    assert gae_score(advantages) == 2.0
    assert positive_value_loss(advantages) == 1.0
    assert max_monte_carlo([1.0, 4.0], 3.0) == 0.5
    # Errors 1 + 0.5 * 4 - 2 = 1 and 0 + 0 - 4 = -4.
    assert one_step_error([1.0, 0.0], [2.0, 4.0, 0.0], 0.5) == 2.5
    assert gae_score(advantages * 5) == 2.0
    with pytest.raises(UsageError, match="2 rewards need 3 values, got 2"):
        one_step_error([1.0, 0.0], [2.0, 4.0], 0.5)
    with pytest.raises(UsageError, match=r"advantages has shape \(0,\)"):
        gae_score([])


def test_an_episode_in_parts_scores_as_a_whole() -> None:
    advantages = rng().normal(size=11)
    merged = EpisodeScore()
    for part in np.split(advantages, [2, 3, 8]):
        merged.add(gae_score(part), len(part))
    assert merged.steps == 11
    assert_allclose(merged.mean, gae_score(advantages), rtol=1e-14)
    with pytest.raises(UsageError, match="steps is 0"):
        merged.add(1.0, 0)


def test_ranks_begin_at_one_and_ties_keep_their_order() -> None:
    assert_allclose(rank_weights(np.array([2.0, 5.0, 2.0, -1.0])), [1 / 2, 1, 1 / 3, 1 / 4])


def test_replay_mixes_score_and_staleness() -> None:
    scores, ages = np.array([2.0, 5.0, 3.0]), np.array([1.0, 0.0, 3.0])
    settings = ReplaySettings(temperature=0.5, staleness=0.3)
    by_rank = np.array([1 / 9, 1, 1 / 4])
    wanted = 0.7 * by_rank / by_rank.sum() + 0.3 * ages / 4
    assert_allclose(replay_distribution(scores, ages, settings), wanted, rtol=1e-12)
    power = ReplaySettings(transform="power", temperature=0.5, staleness=0.3)
    wanted = 0.7 * scores**2 / 38 + 0.3 * ages / 4
    assert_allclose(replay_distribution(scores, ages, power), wanted, rtol=1e-12)
    alone = ReplaySettings(transform="power", temperature=1.0, staleness=0.0)
    assert_allclose(replay_distribution(scores, ages, alone), (scores + 1e-3) / 10.003, rtol=1e-12)


def test_replay_without_weights_is_uniform_and_without_ages_by_score() -> None:
    power, nothing = ReplaySettings(transform="power"), np.zeros(3)
    assert_allclose(replay_distribution(nothing, nothing, power), [1 / 3] * 3)
    assert_allclose(replay_distribution(-np.ones(3), nothing, power), [1 / 3] * 3)
    shares = replay_distribution(np.array([1.0, 3.0, 0.0]), nothing, power)
    assert_allclose(shares, np.array([1, 3.0**10, 0]) / (1 + 3.0**10))


def test_unseen_levels_come_first_and_seen_ones_with_the_fraction_seen() -> None:
    replay = LevelReplay(TASKS, rng())
    assert_allclose(replay.probabilities(), [0.25] * 4)
    replay.update(B, 7.0)
    assert replay.replay_probability == 0.25
    assert_allclose(replay.probabilities(), [0.25] * 4)
    replay.update(A, 9.0)
    by_rank = np.array([1.0, 0.5**10])
    wanted = np.append(0.5 * by_rank / by_rank.sum(), [0.25, 0.25])
    assert_allclose(replay.probabilities(), wanted, rtol=1e-12)
    assert LevelReplay(TASKS, rng(), ReplaySettings(replay=0.5)).replay_probability == 0
    for task in (C, D):
        replay.update(task, 0.0)
    assert replay.replay_probability == 1


def test_replay_waits_for_its_fraction() -> None:
    replay = LevelReplay(TASKS, rng(), ReplaySettings(replay=0.3, replay_from=0.5))
    replay.update(A, 1.0)
    assert replay.replay_probability == 0
    replay.update(B, 1.0)
    assert replay.replay_probability == 0.3


def test_every_draw_ages_all_levels_but_its_own() -> None:
    replay = LevelReplay(TASKS, rng(), ReplaySettings(staleness=1.0))
    for task in TASKS:
        replay.update(task, 1.0)
    last = [TASKS.index(one.task) for one in replay.propose(30)]
    ages = np.array([last[::-1].index(place) if place in last else 30 for place in range(4)])
    assert_allclose(replay.probabilities(), ages / ages.sum(), rtol=1e-12)


def test_scores_follow_at_their_rate() -> None:
    replay = LevelReplay(TASKS, rng(), ReplaySettings(score_rate=0.25))
    replay.update(A, 8.0)
    replay.update(A, 4.0)
    assert replay.state_dict()[1]["scores"] == [7.0, 0, 0, 0]


def test_robust_replay_trains_on_replays_only() -> None:
    robust = LevelReplay(TASKS, rng(), ReplaySettings(robust=True, replay=0.5))
    plain = LevelReplay(TASKS, rng())
    (new,) = robust.propose(1)
    assert not robust.trains(new) and plain.trains(plain.propose(1)[0])
    for task in TASKS[:2]:
        robust.update(task, 1.0)
    drawn = robust.propose(400)
    for one in drawn:
        assert robust.trains(one) == (one.task in TASKS[:2])
    assert abs(sum(map(robust.trains, drawn)) - 200) < 50  # five deviations


def test_bad_replay_settings_are_refused() -> None:
    with pytest.raises(UsageError, match=r"staleness is 1\.5"):
        ReplaySettings(staleness=1.5)
    with pytest.raises(UsageError, match="temperature is 0"):
        ReplaySettings(temperature=0)
    with pytest.raises(UsageError, match="transform is 'softmax'"):
        ReplaySettings(transform="softmax")  # type: ignore[arg-type]  # a typing error, made
