"""Task objectives: exponentiated gradient in closed form, its bound, and the saddle that it finds."""

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.agents.objectives import (
    Objective,
    TaskObjective,
    exponentiated_gradient,
    hedge_bound,
    hedge_step_size,
)
from mtrl.errors import CheckpointError, MtrlError, UsageError
from mtrl.evaluation.minimax_deviation import TableProblem, minimax_deviation

THREE = ("easy", "middle", "hard")
# Returns (strategies, tasks) of a learner that may play one of four strategies, or a mixture.
RETURNS = np.array([[9.0, 1.0, 0.0], [2.0, 6.0, 0.5], [1.0, 2.0, 3.0], [5.0, 3.0, 1.0]])
BEST = RETURNS.max(0)


def make(objective: Objective = "worst-regret", **changes: Any) -> TaskObjective:
    options: dict[str, Any] = {"step_size": 0.1, "best": BEST, "random": [0.0, 0.0, 0.0]}
    return TaskObjective(objective, THREE, **options | changes)


# One step


def test_a_step_multiplies_each_weight_by_the_exponential_of_its_loss() -> None:
    log_weights, losses = np.log([0.5, 0.3, 0.2]), np.array([1.0, -2.0, 0.5])
    expected = np.array([0.5, 0.3, 0.2]) * np.exp(0.7 * losses)
    stepped = np.exp(exponentiated_gradient(log_weights, losses, 0.7))
    assert_allclose(stepped, expected / expected.sum(), rtol=1e-14)


def test_the_mean_loss_cancels() -> None:
    log_weights, losses = np.log([0.5, 0.3, 0.2]), np.array([1.0, -2.0, 0.5])
    centred = exponentiated_gradient(log_weights, losses - losses.mean(), 0.7)
    assert_allclose(centred, exponentiated_gradient(log_weights, losses, 0.7), rtol=1e-14)


def test_weights_that_round_to_zero_come_back() -> None:
    objective = TaskObjective("worst-return", ("a", "b"), step_size=1.0)
    objective.update([2000.0, 0.0])
    assert_array_equal(objective.weights, [0.0, 1.0])
    objective.update([-2000.0, 0.0])
    assert_allclose(objective.weights, [0.5, 0.5])


@pytest.mark.parametrize(
    ("objective", "losses"),
    [
        ("mean-return", [-4.0, -2.0, -1.0]),
        ("worst-return", [-4.0, -2.0, -1.0]),
        ("worst-regret", [5.0, 4.0, 2.0]),
        ("normalised-worst-regret", [5 / 9, 4 / 5, 2 / 4]),
    ],
)
def test_the_losses_of_every_objective(objective: Objective, losses: list[float]) -> None:
    found = make(objective, random=[0.0, 1.0, -1.0]).losses([4.0, 2.0, 1.0])
    assert_allclose(found, losses)


def test_each_objective_leans_to_its_own_worst_task() -> None:
    returns = [4.0, 2.0, 1.0]
    kinds: tuple[Objective, ...] = ("worst-return", "worst-regret", "normalised-worst-regret")
    for kind, worst in zip(kinds, (2, 0, 1), strict=True):
        objective = make(kind, random=[0.0, 1.0, -1.0])
        objective.update(returns)
        assert objective.weights.argmax() == worst


def test_equal_regrets_leave_the_weights_uniform_and_the_gap_zero() -> None:
    objective = make()
    for _ in range(5):
        saddle = objective.update(BEST - 0.75)
    assert_allclose(objective.weights, 1 / 3)
    assert_allclose((saddle.worst, saddle.gap, saddle.average_gap), (0.75, 0, 0), atol=1e-15)


def test_the_mean_return_never_moves_its_weights() -> None:
    objective = make("mean-return")
    saddle = objective.update([4.0, 2.0, 1.0])
    assert_array_equal(objective.weights, np.exp(np.full(3, -math.log(3))))
    assert_allclose(saddle.gap, -1.0 + 7 / 3)


def test_the_gap_is_of_the_weights_under_which_the_returns_were_made() -> None:
    objective = make(step_size=math.log(2))
    # Regrets 1, 0, 0 under uniform weights, which become 2/4, 1/4, 1/4.
    first = objective.update(BEST - [1.0, 0.0, 0.0])
    assert_allclose(first.gap, 1 - 1 / 3)
    assert_allclose(objective.weights, [0.5, 0.25, 0.25])
    second = objective.update(BEST - [0.0, 2.0, 0.0])
    assert_allclose(second.gap, 2 - 0.5)
    assert_allclose(second.average_gap, (2 - (1 / 3 + 0.5)) / 2)


def test_returns_are_weighted_by_the_slope_of_the_normalised_loss() -> None:
    objective = make("normalised-worst-regret")
    objective.update([4.0, 2.0, 1.0])
    slopes = objective.weights / BEST
    assert_allclose(objective.return_weights, slopes / slopes.sum())
    plain = make("worst-regret")
    plain.update([4.0, 2.0, 1.0])
    assert_allclose(plain.return_weights, plain.weights)


# The game


@pytest.mark.parametrize("rounds", [50, 800])
def test_against_best_responses_the_averages_reach_the_solution_of_the_linear_program(
    rounds: int,
) -> None:
    # One observation, and a decision for each strategy: risk is minus the return.
    problem = TableProblem(-RETURNS.T[:, None])
    exact = minimax_deviation(problem)
    regrets = BEST - RETURNS
    width = float(regrets.max() - regrets.min())
    step_size = hedge_step_size(3, rounds, width=width)
    objective = make(step_size=step_size)
    played, weights = np.zeros(4), np.zeros(3)
    for _ in range(rounds):
        weights += objective.weights / rounds
        answer = (RETURNS @ objective.return_weights).argmax()
        played[answer] += 1 / rounds
        saddle = objective.update(RETURNS[answer])
    bound = hedge_bound(3, rounds, step_size=step_size, width=width)
    assert_allclose(bound, width * math.sqrt(math.log(3) / (2 * rounds)))
    # The learner's mixture is at most this far above the value, the mean prior as far below it.
    assert exact.value - 1e-7 <= (played @ regrets).max() <= exact.value + bound
    assert exact.value - bound <= (regrets @ weights).min() <= exact.value + 1e-7
    assert 0 <= saddle.average_gap <= bound
    assert_allclose(
        saddle.average_gap, (played @ regrets).max() - self_play(regrets, played, rounds, step_size)
    )


def self_play(regrets: np.ndarray, played: np.ndarray, rounds: int, step_size: float) -> float:
    """Return the mean weighted regret of the same game, played without the class."""
    sums, total = np.zeros(3), 0.0
    for _ in range(rounds):
        weights = np.exp(step_size * sums)
        weights /= weights.sum()
        losses = regrets[(regrets @ weights).argmin()]
        total += weights @ losses
        sums += losses
    assert_allclose(sums / rounds, played @ regrets)
    return total / rounds


def test_random_losses_never_regret_more_than_the_bound() -> None:
    rng = np.random.default_rng(0)
    for rounds in (1, 10, 100):
        step_size = hedge_step_size(3, rounds, width=1.0)
        objective = TaskObjective("worst-return", THREE, step_size=step_size)
        for _ in range(rounds):
            saddle = objective.update(rng.random(3))
        assert saddle.average_gap <= hedge_bound(3, rounds, step_size=step_size, width=1.0)


# Checkpoints and refusals


def test_a_loaded_state_goes_on_to_the_last_bit() -> None:
    rng = np.random.default_rng(1)
    returns = rng.normal(size=(6, 3))
    whole, half, rest = make(), make(), make()
    for row in returns[:3]:
        whole.update(row)
        half.update(row)
    rest.load_state_dict(json.loads(json.dumps(half.state_dict())))
    for row in returns[3:]:
        expected, found = whole.update(row), rest.update(row)
        assert (expected.gap, expected.average_gap) == (found.gap, found.average_gap)
    assert_array_equal(rest.weights, whole.weights)


def test_a_state_of_other_tasks_or_another_objective_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match="has objective 'mean-return', this run 'worst-regret'"
    ):
        make().load_state_dict(make("mean-return").state_dict())
    other = TaskObjective("worst-regret", ("a",), step_size=0.1, best=[1.0])
    with pytest.raises(CheckpointError, match=r"has tasks \['a'\]"):
        make().load_state_dict(other.state_dict())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_return_that_is_not_finite_is_refused_by_name_and_changes_nothing(value: float) -> None:
    objective = make()
    objective.update([4.0, 2.0, 1.0])
    before = objective.state_dict()
    with pytest.raises(MtrlError, match=f"middle: {value}"):
        objective.update([4.0, value, 1.0])
    assert objective.state_dict() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best": None}, "worst-regret needs best"),
        ({"best": [1.0, 2.0]}, "one finite return for each of 3 tasks"),
        ({"best": [1.0, math.nan, 2.0]}, "one finite return for each of 3 tasks"),
        ({"step_size": 0.0}, "step_size must be positive, got 0.0"),
        ({"step_size": math.inf}, "step_size must be positive, got inf"),
    ],
)
def test_wrong_arguments_are_usage_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**changes)


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(UsageError, match="hard: the best return is not above the random one"):
        make("normalised-worst-regret", random=[0.0, 0.0, 3.0])
    with pytest.raises(UsageError, match="tasks is empty"):
        TaskObjective("mean-return", (), step_size=0.1)
    with pytest.raises(UsageError, match="objective must be one of mean-return, .*, got 'median'"):
        TaskObjective("median", THREE, step_size=0.1)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match=r"returns have shape \(2,\), expected one for each of 3"):
        make().update([1.0, 2.0])
