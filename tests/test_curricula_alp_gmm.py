"""Facts about ALP-GMM and the mixtures it fits."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest, multivariate_normal

from mtrl.envs.curricula import AlpGmm, AlpSettings, Curriculum, TaskBox
from mtrl.envs.curricula.alp_gmm import absolute_progress
from mtrl.envs.curricula.mixtures import Mixture, akaike, fit_mixture, log_densities
from mtrl.envs.parameters import ParameterSpace, Range
from mtrl.errors import UsageError

SPACE = ParameterSpace(
    "toy", {"goal": Range(0.0, 10.0), "mass": Range(1.0, 2.0)}, split_rule="shared"
)
TWO = Mixture(
    weights=np.array([0.25, 0.75]),
    means=np.array([[0.0, 1.0], [4.0, -2.0]]),
    covariances=np.array([[[0.5, 0.1], [0.1, 0.3]], [[0.2, -0.1], [-0.1, 0.6]]]),
)


def alp_gmm(fit_every: int = 30, *, random: float = 0.2) -> AlpGmm:
    settings = AlpSettings(
        lowest=-10, highest=10, fit_every=fit_every, random=random, most_components=4
    )
    return AlpGmm(TaskBox(SPACE), np.random.default_rng(0), settings)


def live(curriculum: AlpGmm, episodes: int, seed: int = 1) -> list[str]:
    """Returns that are noise where the goal is above 5, and 0 elsewhere."""
    noise, ids = np.random.default_rng(seed), []
    for _ in range(episodes):
        (one,) = curriculum.propose(1)
        ids.append(one.task.id)
        curriculum.update(one, noise.uniform(-10, 10) if one.task.params["goal"] > 5 else 0.0)
    return ids


def test_densities_are_those_of_scipy() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 2))
    wanted = [
        np.log(weight) + multivariate_normal(mean, covariance).logpdf(rows)
        for weight, mean, covariance in zip(TWO.weights, TWO.means, TWO.covariances, strict=True)
    ]
    assert_allclose(log_densities(TWO, rows), np.transpose(wanted), rtol=1e-10)


def test_akaike_counts_all_that_is_free() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 2))
    likelihood = np.log(np.exp(log_densities(TWO, rows)).sum(axis=1)).sum()
    # One weight, two means of two, two covariances of three.
    assert_allclose(akaike(TWO, rows), 2 * (1 + 4 + 6) - 2 * likelihood, rtol=1e-10)


def test_one_component_is_the_sample_mean_and_covariance() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3))
    mixture = fit_mixture(rows, 1, np.random.default_rng(1))
    assert_allclose(mixture.means[0], rows.mean(axis=0), atol=1e-12)
    wanted = np.cov(rows.T, bias=True) + 1e-6 * np.eye(3)
    assert_allclose(mixture.covariances[0], wanted, atol=1e-12)


def test_two_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    parts = [
        rng.multivariate_normal(mean, covariance, size=count)
        for mean, covariance, count in zip(TWO.means, TWO.covariances, (100, 300), strict=True)
    ]
    rows = np.concatenate(parts)
    mixture = fit_mixture(rows, 2, np.random.default_rng(3))
    order = np.argsort(mixture.means[:, 0])
    assert_allclose(mixture.weights[order], TWO.weights, atol=0.01)
    assert_allclose(mixture.means[order], [part.mean(axis=0) for part in parts], atol=0.02)
    one = fit_mixture(rows, 1, np.random.default_rng(3))
    assert akaike(mixture, rows) < akaike(one, rows)


def test_equal_rows_still_have_a_density() -> None:
    rows = np.ones((12, 2))
    mixture = fit_mixture(rows, 3, np.random.default_rng(0))
    assert np.isfinite(akaike(mixture, rows))


def test_progress_is_the_change_from_the_nearest_task() -> None:
    points = np.array([[0.0, 0], [0.1, 0], [0.2, 0], [0.9, 0], [0.9, 1], [0.5, 0.5]])
    returns = np.arange(6.0)
    assert absolute_progress(points, returns, np.array([0.8, 0.1]), 7.5) == 4.5
    assert absolute_progress(points, returns, np.array([0.8, 0.8]), 1.0) == 3.0
    assert absolute_progress(points[:5], returns[:5], np.array([0.8, 0.1]), 7.5) == 0


def test_returns_are_scaled_before_they_are_compared() -> None:
    curriculum = alp_gmm()
    box = curriculum.box
    for value in (-10.0, 10.0, 0.0, 0.0, 0.0, 0.0, 5.0):
        curriculum.update(box.task(np.array([0.5, 0.5])), value)
    episodes = curriculum.state_dict()[0]["episodes"].numpy()
    assert_allclose(episodes[:, 2], [0, 1, 0.5, 0.5, 0.5, 0.5, 0.75])
    # The nearest is the first of equals, whose return is 0.
    assert_allclose(episodes[:, 3], [0, 0, 0, 0, 0, 0, 0.75])


def test_tasks_are_uniform_until_the_first_fit() -> None:
    curriculum = alp_gmm()
    assert isinstance(curriculum, Curriculum) and curriculum.lag == 29
    goals = [one.task.params["goal"] for one in curriculum.propose(400)]
    assert kstest(np.array(goals) / 10, "uniform").pvalue > 1e-3
    live(curriculum, 29)
    assert curriculum.mixture is None
    live(curriculum, 1)
    assert curriculum.mixture is not None


def test_tasks_come_from_where_returns_change() -> None:
    curriculum = alp_gmm(60, random=0.0)
    live(curriculum, 120)
    goals = np.array([one.task.params["goal"] for one in curriculum.propose(300)])
    assert (goals > 4.5).mean() > 0.8
    assert goals.min() >= 0 and goals.max() <= 10


def test_components_are_drawn_by_their_mean_progress() -> None:
    curriculum = alp_gmm(random=0.0)
    curriculum.mixture = Mixture(
        weights=np.array([0.5, 0.25, 0.25]),
        means=np.array([[0.2, 0.5, 0.3], [0.8, 0.5, 0.1], [0.5, 0.5, 0.0]]),
        covariances=np.array([np.eye(3) * 1e-6] * 3),
    )
    goals = np.array([one.task.params["goal"] for one in curriculum.propose(400)])
    assert not (abs(goals - 5) < 1).any()  # a component without progress is never drawn
    assert abs((goals < 4).mean() - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 400)


def test_without_any_progress_all_components_are_drawn() -> None:
    curriculum = alp_gmm(random=0.0)
    curriculum.mixture = Mixture(
        weights=np.array([0.9, 0.1]),
        means=np.array([[0.2, 0.5, 0.0], [0.8, 0.5, 0.0]]),
        covariances=np.array([np.eye(3) * 1e-6] * 2),
    )
    goals = np.array([one.task.params["goal"] for one in curriculum.propose(400)])
    assert abs((goals < 5).mean() - 0.5) < 5 * np.sqrt(0.25 / 400)


@pytest.mark.parametrize("before", [17, 45])
def test_it_goes_on_as_if_never_stopped(before: int) -> None:
    first, second = alp_gmm(), alp_gmm()
    live(first, before)
    tensors, values = first.state_dict()
    second.load_state_dict(tensors, json.loads(json.dumps(values, allow_nan=False)))
    assert live(first, 40) == live(second, 40)
    ours, theirs = first.state_dict()[0], second.state_dict()[0]
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert_array_equal(ours[name].numpy(), theirs[name].numpy())
    assert len(tensors["episodes"]) == before  # what was saved did not change


def test_bad_settings_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="lowest is 1 and highest 1"):
        AlpSettings(lowest=1, highest=1)
    with pytest.raises(UsageError, match="most_components is 20"):
        AlpSettings(lowest=0, highest=1, fit_every=10, most_components=20)
    with pytest.raises(UsageError, match=r"random is 1\.1"):
        AlpSettings(lowest=0, highest=1, random=1.1)
