"""Minimax deviation: linear programs against hand results, brute force and the paper's examples."""

import csv
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog
from scipy.special import ndtr

from mtrl.errors import MtrlError
from mtrl.evaluation.minimax_deviation import (
    Solution,
    TableProblem,
    maximum_likelihood,
    minimax,
    minimax_deviation,
    smallest_maximum,
)
from mtrl.reproduce import REPRODUCTIONS, three_strategies
from mtrl.reproduce import minimax_deviation as minimax_deviation_module
from mtrl.reproduce.short_samples import SIGNAL_CELLS, unknown_mean, unknown_share
from mtrl.reproduce.three_strategies import (
    DEVIATION,
    EXAMPLES,
    LIKELIHOOD,
    MINIMAX,
    STRATEGIES,
    Comparison,
    Example,
    claims,
    compare,
)

ZERO_ONE = 1 - np.eye(2)
# The two certain states: model 0 is always in state 0, model 1 in state 1.
CERTAIN = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])


def random_problem(seed: int, models: int = 3) -> tuple[TableProblem, np.ndarray]:
    """Return a problem of 2 signals, 2 samples and 2 states, and its samples' likelihoods."""
    rng = np.random.default_rng(seed)
    joint = rng.dirichlet(np.ones(4), models).reshape(models, 2, 2)
    likelihoods = rng.dirichlet(np.ones(2), models)
    problem = TableProblem.with_sample(joint, likelihoods, rng.uniform(size=(2, 2)))
    return problem, np.tile(likelihoods, 2)


def full_program(losses: np.ndarray, offsets: np.ndarray, scales: np.ndarray) -> float:
    """Return the value over all random strategies q(decision | observation), in one program."""
    models, observations, decisions = losses.shape
    program = linprog(
        np.append(np.zeros(observations * decisions), 1.0),
        A_ub=np.column_stack([losses.reshape(models, -1), -scales]),
        b_ub=offsets,
        A_eq=np.column_stack(
            [np.kron(np.eye(observations), np.ones(decisions)), np.zeros(observations)]
        ),
        b_eq=np.ones(observations),
        bounds=[(0, None)] * (observations * decisions) + [(None, None)],
    )
    return float(program.fun)


def all_strategies(problem: TableProblem) -> list[np.ndarray]:
    _, observations, decisions = problem.losses.shape
    return [np.array(choice) for choice in product(range(decisions), repeat=observations)]


# By hand


@pytest.mark.parametrize("a", [0.5, 0.6, 0.75, 1.0])
def test_of_two_certain_states_a_sample_that_tells_them_apart_with_probability_a_leaves_1_minus_a(
    a: float,
) -> None:
    likelihoods = np.array([[a, 1 - a], [1 - a, a]])
    problem = TableProblem.with_sample(CERTAIN, likelihoods, ZERO_ONE)
    solution = minimax_deviation(problem)
    assert_allclose(problem.best_risks, 0)
    assert_allclose(solution.value, 1 - a, atol=1e-9)
    assert_allclose(solution.risks, [1 - a, 1 - a], atol=1e-9)
    # At a = 1 every prior is least favourable.
    if 0.5 < a < 1:
        assert a >= solution.weights.max()
    followed = problem.risks(maximum_likelihood(problem, likelihoods))
    # At a = 1/2 the first of two equally likely models is taken.
    assert_allclose(followed, [0, 1] if a == 0.5 else [1 - a, 1 - a])


def test_matching_pennies_needs_a_random_choice_which_no_prior_of_one_decision_reaches() -> None:
    problem = TableProblem.with_sample(CERTAIN, np.ones((2, 1)), ZERO_ONE)
    solution = minimax(problem)
    assert min(problem.risks(choice).max() for choice in all_strategies(problem)) == 1
    assert_allclose((solution.value, *solution.mixture, *solution.weights), (0.5,) * 5, atol=1e-9)


def test_minimax_gives_up_an_easy_model_for_a_hopeless_one_and_minimax_deviation_does_not() -> None:
    # Decision 0 is best for model 0; model 1 loses 0.9 or 0.8. Decision 1 costs model 0 everything.
    problem = TableProblem(np.array([[[0.0, 0.85]], [[0.9, 0.8]]]))
    assert_array_equal(problem.best_risks, [0, 0.8])
    # 0.85 q = 0.9 - 0.1 q, q = 0.9 / 0.95, would be minimax were it below 0.85.
    q = 0.9 / 0.95
    assert_allclose(minimax(problem).risks, [0.85 * q, 0.9 - 0.1 * q], atol=1e-9)
    # 0.85 q = 0.1 - 0.1 q.
    q = 0.1 / 0.95
    solution = minimax_deviation(problem)
    assert_allclose(solution.risks, [0.85 * q, 0.9 - 0.1 * q], atol=1e-9)
    # Under the least favourable prior both decisions cost the same: 0.85 t = 0.1 (1 - t).
    assert_allclose(solution.weights, [0.1 / 0.95, 0.85 / 0.95], atol=1e-9)


def test_where_one_strategy_is_best_for_every_model_the_deviation_is_zero() -> None:
    problem = TableProblem(np.array([[[0.1, 0.5]], [[0.3, 0.4]]]))
    solution = minimax_deviation(problem)
    assert_allclose(solution.value, 0, atol=1e-12)
    assert_array_equal(np.concatenate(solution.strategies), 0)


def test_an_observation_is_a_pair_of_signal_and_sample() -> None:
    rng = np.random.default_rng(0)
    joint, likelihoods = rng.random((2, 3, 2)), rng.random((2, 4))
    loss = rng.random((2, 5))
    losses = TableProblem.with_sample(joint, likelihoods, loss).losses
    for m, x, z, d in product(range(2), range(3), range(4), range(5)):
        expected = sum(joint[m, x, y] * likelihoods[m, z] * loss[y, d] for y in range(2))
        assert_allclose(losses[m, x * 4 + z, d], expected)


# Against independent solutions


@pytest.mark.parametrize("seed", range(6))
def test_the_value_is_that_of_the_program_over_all_random_strategies(seed: int) -> None:
    problem, _ = random_problem(seed)
    none, ones, best = np.zeros(3), np.ones(3), problem.best_risks
    kinds = [
        (minimax(problem), none, ones),
        (minimax_deviation(problem), best, ones),
        (smallest_maximum(problem, none, best), none, best),
    ]
    for solution, offsets, scales in kinds:
        assert_allclose(solution.value, full_program(problem.losses, offsets, scales), atol=2e-7)
        assert_allclose(((solution.risks - offsets) / scales).max(), solution.value, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_primal_and_dual_agree_and_the_dual_is_what_brute_force_finds(seed: int) -> None:
    problem, _ = random_problem(seed)
    solution = minimax_deviation(problem)
    regrets = [problem.risks(choice) - problem.best_risks for choice in all_strategies(problem)]
    assert 0 <= solution.gap <= 1e-7
    assert_allclose(solution.weights.sum(), 1)
    assert_allclose(min(solution.weights @ r for r in regrets), solution.lower_bound, atol=1e-12)
    assert solution.value <= min(r.max() for r in regrets) + 1e-7
    chosen = np.array([problem.risks(choice) for choice in solution.strategies])
    assert_allclose(solution.mixture @ chosen, solution.risks)


@pytest.mark.parametrize("seed", range(6))
def test_no_other_strategy_is_better_in_its_own_measure(seed: int) -> None:
    problem, likelihoods = random_problem(seed)
    plug_in = problem.risks(maximum_likelihood(problem, likelihoods))
    safe, nearest = minimax(problem), minimax_deviation(problem)

    def deviation(risks: np.ndarray) -> float:
        return float((risks - problem.best_risks).max())

    assert deviation(nearest.risks) <= min(deviation(plug_in), deviation(safe.risks)) + 1e-7
    assert safe.value <= min(plug_in.max(), nearest.risks.max()) + 1e-7


def test_maximum_likelihood_is_optimal_for_the_model_that_the_sample_makes_likeliest() -> None:
    problem, likelihoods = random_problem(3)
    decisions = maximum_likelihood(problem, likelihoods)
    for index, model in enumerate(likelihoods.argmax(0)):
        assert decisions[index] == problem.losses[model, index].argmin()


def test_what_cannot_be_solved_is_refused() -> None:
    problem = TableProblem.with_sample(CERTAIN, np.ones((2, 1)), ZERO_ONE)
    with pytest.raises(ValueError, match="best risk is 0 has no relative risk"):
        smallest_maximum(problem, np.zeros(2), problem.best_risks)
    example = unknown_share(2, coarse=True).problem
    with pytest.raises(MtrlError, match="duality gap is .* after 1 linear programs"):
        smallest_maximum(example, example.best_risks, np.ones(21), rounds=1)


# The paper's examples


@pytest.fixture(scope="module")
def solved() -> dict[str, Comparison]:
    return {example.name: compare(example, 1, quick=True) for example in EXAMPLES}


def test_the_probabilities_of_the_examples_are_one() -> None:
    for sample in (unknown_mean(1), unknown_mean(10, coarse=True), unknown_share(5)):
        total = (sample.problem.first + sample.problem.second).sum(1)
        assert_allclose(total, 1, atol=1e-9)


def test_cells_are_counted_as_stars_and_bars_are() -> None:
    for samples, ways in ((1, 32), (2, 528), (5, 4368)):
        assert unknown_share(samples).problem.first.shape == (41, ways)
    assert SIGNAL_CELLS.keys() >= {1, 2, 5, 10}


def test_best_risks_are_the_closed_forms() -> None:
    mean, share = unknown_mean(1).problem.best_risks, unknown_share(1).problem.best_risks
    # Two unit normals at a distance d, equally likely, are confused with probability Phi(-d / 2).
    assert_allclose(mean[[0, 24, 48]], ndtr([-np.sqrt(40) / 2, -1, -np.sqrt(40) / 2]))
    assert_allclose(share[[0, 20, 40]], [0, ndtr(-1), 0], atol=1e-15)
    t = np.log(0.25 / 0.75) / 2
    assert_allclose(share[10], 0.25 * ndtr(-t - 1) + 0.75 * ndtr(t - 1))


@pytest.mark.parametrize("build", [unknown_mean, unknown_share])
def test_minimax_ignores_everything_but_the_signal_and_is_right_in_84_of_100(build: object) -> None:
    solution = minimax(build(2, coarse=True).problem)  # type: ignore[operator]  # both take these
    assert_allclose(solution.risks, ndtr(-1), atol=1e-6)
    assert round(1 - solution.value, 2) == 0.84
    # The threshold of s = 1 - x1 at 0 is that of x1 at 1.
    expected = np.zeros_like(solution.strategies[0])
    for strategy in solution.strategies:
        # The risk is flat here: an error of 1e-7 in it is one of some 1e-3 in the threshold.
        assert_allclose(strategy, expected, atol=5e-3)


def test_of_one_unlabelled_signal_maximum_likelihood_repeats_its_sign() -> None:
    sample = unknown_share(1)
    risks = sample.problem.risks(maximum_likelihood(sample.problem, sample.log_likelihoods))
    theta, p = sample.models, ndtr(1)
    assert_allclose(
        risks,
        theta * (theta * (1 - p) + (1 - theta) * p)
        + (1 - theta) * (theta * p + (1 - theta) * (1 - p)),
    )


def test_thresholds_agree_with_a_table_of_the_same_problem_whose_signal_is_cut_finely() -> None:
    problem = unknown_share(2, coarse=True).problem
    edges = np.concatenate([[-np.inf], np.linspace(-4, 4, 161), [np.inf]])
    table = np.stack(
        [
            np.einsum("mc,s->msc", mass, np.diff(ndtr(edges - mean))).reshape(21, -1)
            for mass, mean in ((problem.second, 1), (problem.first, -1))
        ],
        axis=-1,
    )
    # Decision 0 is "first", and wrong in the second state.
    finite = TableProblem(table)
    risks = [solution.value for solution in map(nearest, (problem, finite))]
    # A cell of 0.05 costs about its square.
    assert_allclose(risks[0], risks[1], atol=2e-4)
    assert risks[0] <= risks[1]


def nearest(problem: object) -> Solution:
    return minimax_deviation(problem, tolerance=1e-6)  # type: ignore[arg-type]  # either class


def test_between_the_models_of_the_grid_the_deviation_is_no_larger() -> None:
    coarse, fine = unknown_share(2, coarse=True), unknown_share(2)
    # The same 16 cells, at twice as many shares: mixing probabilities is linear in the share.
    between = (coarse.models[:-1] + coarse.models[1:]) / 2
    solution = nearest(coarse.problem)
    singles = coarse.problem.first + coarse.problem.second
    degree = np.array([singles[0], singles[10], singles[20]])
    # Of two samples every cell's probability is a quadratic of the share, known from three values.
    basis = np.stack(
        [
            (1 - between) * (1 - 2 * between),
            4 * between * (1 - between),
            between * (2 * between - 1),
        ]
    )
    mass = basis.T @ degree
    risks = sum(
        share
        * ((between[:, None] * mass) @ ndtr(-t - 1) + ((1 - between)[:, None] * mass) @ ndtr(t - 1))
        for share, t in zip(solution.mixture, solution.strategies, strict=True)
    )
    assert_allclose(between, fine.models[1::2])
    excess = (risks - fine.problem.best_risks[1::2]).max() - solution.value
    assert excess < 1e-4


@pytest.mark.parametrize("index", [24, 36])
def test_the_first_example_is_the_one_that_is_drawn_at_random(index: int) -> None:
    sample = unknown_mean(3)
    risk = sample.problem.risks(maximum_likelihood(sample.problem, sample.log_likelihoods))[index]
    rng, theta, draws = np.random.default_rng(0), sample.models[index], 200_000
    second = rng.random(draws) < 0.5
    x1 = rng.normal(size=draws) + np.where(second, 0, 2)
    x2 = rng.normal(size=draws) + np.where(second, theta, 0)
    estimate = np.clip((theta + 4 * rng.normal(size=(3, draws))).mean(0), -6, 6)
    says_second = x1**2 + (x2 - estimate) ** 2 < (x1 - 2) ** 2 + x2**2
    # Three standard errors are 0.003; the estimate here is not rounded to a grid of 0.25.
    assert_allclose((says_second != second).mean(), risk, atol=0.005)


def test_the_second_example_is_the_one_that_is_drawn_at_random() -> None:
    sample = unknown_share(5)
    risk = sample.problem.risks(maximum_likelihood(sample.problem, sample.log_likelihoods))[12]
    rng, draws, shares = np.random.default_rng(0), 50_000, sample.models[:, None]
    first = rng.random((6, draws)) < shares[12]
    signals = rng.normal(size=(6, draws)) + np.where(first, -1, 1)
    likelihood = np.ones((len(shares), draws))
    for z in signals[1:]:
        likelihood *= shares * np.exp(-z) + (1 - shares) * np.exp(z)
    estimate = sample.models[likelihood.argmax(0)]
    says_first = estimate * np.exp(-signals[0]) > (1 - estimate) * np.exp(signals[0])
    # Three standard errors are 0.006; here the sample is not rounded to 12 cells.
    assert_allclose((says_first != first[0]).mean(), risk, atol=0.01)


def test_the_shortest_sample_shows_what_the_paper_claims(solved: dict[str, Comparison]) -> None:
    for row in solved.values():
        deviations = {name: row.max_deviation(name) for name in STRATEGIES}
        assert deviations[DEVIATION] < deviations[MINIMAX] < deviations[LIKELIHOOD]
        assert row.max_risk(MINIMAX) < row.max_risk(LIKELIHOOD)
    share = solved["unknown share"]
    assert_allclose(share.max_deviation(LIKELIHOOD), 0.5 - ndtr(-1), atol=1e-12)


# Claims and pages


def made_up(samples: int, likelihood: float, deviation: float, example: str) -> Comparison:
    best = np.zeros(2)
    risks = {
        LIKELIHOOD: best + likelihood,
        MINIMAX: best + three_strategies.MINIMAX_RISK,
        DEVIATION: best + deviation,
    }
    return Comparison(
        example=example,
        samples=samples,
        of_paper=samples < 20,
        models=np.arange(2.0),
        best_risks=best,
        risks=risks,
        gap=0.0,
        change=dict.fromkeys(STRATEGIES, 0.001),
    )


def verdicts(*, first: float = 0.05, last: float = 0.005, likelihood: float = 0.3) -> list[bool]:
    rows = [
        row
        for example in EXAMPLES
        for row in (
            made_up(1, likelihood, first, example.name),
            made_up(50, 0.006, last, example.name),
        )
    ]
    return list(claims(rows).values())


def test_a_claim_that_fails_is_seen() -> None:
    assert verdicts() == [True] * 5
    # Below minimax, but by less than twice the change of 0.001.
    assert verdicts(first=three_strategies.MINIMAX_RISK - 0.0015)[0] is False
    assert verdicts(first=0.004)[1] is False
    assert verdicts(last=0.009)[1:3] == [False, False]
    assert verdicts(likelihood=0.1)[4] is False


def test_a_failed_claim_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solved: dict[str, Comparison]
) -> None:
    def same(example: Example, samples: int, *, quick: bool) -> Comparison:
        return replace(solved[example.name], samples=samples)

    monkeypatch.setattr(minimax_deviation_module, "compare", same)
    monkeypatch.setattr(minimax_deviation_module, "_figure", lambda rows, record: Figure())
    outcome = REPRODUCTIONS["minimax-deviation"].run(tmp_path, work=tmp_path)
    # All sizes have the deviation of the first: it does not fall.
    assert outcome.met is False
    assert "- NO: It is not above them at any larger size" in outcome.text


def test_a_quick_run_writes_page_numbers_and_figure_that_agree(tmp_path: Path) -> None:
    outcome = REPRODUCTIONS["minimax-deviation"].run(tmp_path, quick=True, work=tmp_path / "runs")
    assert outcome.met is None and "scaled-down run" in outcome.text
    assert "claims hold" not in outcome.text
    assert {path.name for path in tmp_path.iterdir()} == {
        f"minimax-deviation-quick.{suffix}" for suffix in ("md", "csv", "png")
    }
    assert outcome.figure.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(outcome.scores.read_text().splitlines()))
    lines = outcome.text.splitlines()
    for example in EXAMPLES:
        for samples in ("1", "10"):
            mine = [r for r in rows if (r["example"], r["samples"]) == (example.name, samples)]
            shown = [r["value"] for r in mine if r["quantity"] == "max deviation"]
            assert len(shown) == 3
            numbers = " | ".join(f"{float(value):.4f}" for value in shown)
            assert any(line.startswith(f"| {samples} | {numbers} |") for line in lines)
            risks = {
                name: [
                    float(r["value"])
                    for r in mine
                    if r["quantity"] == "risk" and r["strategy"] == name
                ]
                for name in ("best", *STRATEGIES)
            }
            for name, value in zip(STRATEGIES, shown, strict=True):
                assert_allclose(np.subtract(risks[name], risks["best"]).max(), float(value))
