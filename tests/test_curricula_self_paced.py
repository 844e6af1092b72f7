"""Facts about self-paced learning."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.stats import kstest

from mtrl.envs.curricula import Curriculum, Gaussian, SelfPaced, SelfPacedSettings, TaskBox
from mtrl.envs.parameters import ParameterSpace, Range
from mtrl.envs.task import Task
from mtrl.errors import UsageError

LINE = TaskBox(ParameterSpace("toy", {"goal": Range(0.0, 10.0)}, split_rule="shared"))
PLANE = TaskBox(ParameterSpace("toy", {"goal": Range(0.0, 10.0, size=2)}, split_rule="shared"))
START = Gaussian.diagonal([0.3], [0.1])
FAR = Gaussian.diagonal([0.8], [0.1])


def self_paced(target: Gaussian = FAR, **settings: Any) -> SelfPaced:
    chosen = SelfPacedSettings(**({"performance": 0.0, "episodes": 40} | settings))
    return SelfPaced(LINE, np.random.default_rng(0), chosen, start=START, target=target)


def play(curriculum: SelfPaced, outcome: Callable[[float], float], updates: int = 1) -> SelfPaced:
    for _ in range(updates * curriculum.settings.episodes):
        (one,) = curriculum.propose(1)
        curriculum.update(one, outcome(float(curriculum.box.point(one.task)[0])))
    return curriculum


def divergence(first: Any, second: Any) -> float:
    """Return KL(first || second) of normal distributions, each (mean, deviation)."""
    (m, s), (n, t) = first, second
    return float(np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5)


def moments(gaussian: Gaussian) -> tuple[float, float]:
    return float(gaussian.mean[0]), float(gaussian.factor[0, 0])


def test_draws_follow_the_distribution() -> None:
    curriculum = self_paced()
    assert isinstance(curriculum, Curriculum) and curriculum.lag == 39
    drawn = [curriculum.box.point(one.task)[0] for one in curriculum.propose(500)]
    assert kstest(drawn, "norm", (0.3, 0.1)).pvalue > 1e-3


def test_the_divergence_is_the_closed_form() -> None:
    wanted = divergence((0.3, 0.1), (0.8, 0.1))
    assert_allclose(self_paced().divergence(), wanted, rtol=1e-12)


def test_a_target_within_the_bound_is_reached_at_once() -> None:
    target = Gaussian(mean=np.array([0.51, 0.5]), factor=np.array([[0.1, 0.0], [0.01, 0.095]]))
    curriculum = SelfPaced(
        PLANE,
        np.random.default_rng(0),
        SelfPacedSettings(performance=0.0, episodes=40),
        start=Gaussian.diagonal([0.5, 0.5], [0.1, 0.1]),
        target=target,
    )
    play(curriculum, lambda point: 1.0)
    assert_allclose(curriculum.gaussian.mean, target.mean, atol=1e-3)
    assert_allclose(curriculum.gaussian.factor, target.factor, atol=1e-3)


def test_a_far_target_is_approached_as_another_solver_does() -> None:
    curriculum = play(self_paced(), lambda point: 1.0)
    found = moments(curriculum.gaussian)
    wanted = minimize(
        lambda at: divergence((at[0], math.exp(at[1])), (0.8, 0.1)),
        [0.3, math.log(0.1)],
        method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": lambda at: 0.05 - divergence((0.3, 0.1), (at[0], math.exp(at[1]))),
        },
        options={"ftol": 1e-12},
    )
    assert divergence((0.3, 0.1), found) <= 0.05 + 1e-6
    assert_allclose(divergence(found, (0.8, 0.1)), wanted.fun, rtol=1e-3)
    assert_allclose(found, (wanted.x[0], math.exp(wanted.x[1])), rtol=1e-2)


def test_performance_is_kept() -> None:
    # Outcomes fall towards the target; on average they are 0.7 now, and 0.68 is to be kept.
    free = play(self_paced(), lambda point: 1 - point)
    kept = play(self_paced(performance=0.68), lambda point: 1 - point)
    assert kept.reached
    assert 0.3 < moments(kept.gaussian)[0] < moments(free.gaussian)[0]


def test_before_performance_was_ever_reached_it_is_raised() -> None:
    curriculum = play(self_paced(performance=5.0), lambda point: 1 - point)
    mean, std = moments(curriculum.gaussian)
    assert mean < 0.3  # away from the target, to where outcomes are better
    assert 0.045 < divergence((0.3, 0.1), (mean, std)) <= 0.05 + 1e-6
    assert not curriculum.reached


def test_after_it_was_reached_a_worse_performance_changes_nothing() -> None:
    curriculum = play(self_paced(), lambda point: 1.0)
    before = moments(curriculum.gaussian)
    play(curriculum, lambda point: -1.0, updates=2)
    assert moments(curriculum.gaussian) == before


def test_deviations_stay_above_their_bound_until_the_target_is_near() -> None:
    narrow = Gaussian.diagonal([0.35], [0.02])
    curriculum = self_paced(narrow, least_std=0.08, kl_threshold=1e-3)
    play(curriculum, lambda point: 1.0, updates=4)
    assert_allclose(moments(curriculum.gaussian)[1], 0.08, rtol=5e-3)
    assert moments(curriculum.gaussian)[1] >= 0.08 - 1e-12
    free = play(self_paced(narrow), lambda point: 1.0, updates=4)
    assert moments(free.gaussian)[1] < 0.08


def test_results_of_an_earlier_distribution_are_dropped() -> None:
    curriculum = self_paced()
    late = curriculum.propose(5)
    play(curriculum, lambda point: 1.0)
    for one in late:
        curriculum.update(one, 100.0)
    assert curriculum.state_dict()[1]["outcomes"] == []


def test_it_goes_on_as_if_never_stopped() -> None:
    first, second = self_paced(), self_paced()
    play(first, lambda point: 1.0)
    for one in first.propose(7):
        first.update(one, 1.0)
    tensors, values = first.state_dict()
    second.load_state_dict(tensors, json.loads(json.dumps(values, allow_nan=False)))
    for curriculum in (first, second):
        play(curriculum, lambda point: 1.0)
    assert first.propose(20) == second.propose(20)
    assert_array_equal(first.gaussian.mean, second.gaussian.mean)
    assert_array_equal(first.gaussian.factor, second.gaussian.factor)


def test_what_does_not_fit_is_refused_by_name() -> None:
    outside = Task(family="toy", params={"goal": 11.0})
    with pytest.raises(UsageError, match=rf"{outside.id} .*outside"):
        self_paced().update(outside, 1.0)
    with pytest.raises(UsageError, match="target has 2 coordinates; the box has 1"):
        self_paced(Gaussian.diagonal([0.5, 0.5], [0.1, 0.1]))
    with pytest.raises(UsageError, match=r"std \[0\.\]"):
        Gaussian.diagonal([0.5], [0.0])
    with pytest.raises(UsageError, match="episodes is 1"):
        self_paced(episodes=1)
