"""Intervals against SciPy, known coverage and brute-force counts."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from mtrl.evaluation import (
    Interval,
    PairedDifference,
    interval,
    iqm,
    normal_interval,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def bounds(result: Interval | PairedDifference) -> list[float]:
    return [result.low, result.high]


def test_iqm_by_hand() -> None:
    # Of eight scores the two lowest and the two highest go: (2 + 3 + 4 + 7) / 4.
    assert_allclose(iqm([[-100, 3, 2, 1], [1000, 7, 4, 50]]), 4.0, rtol=0)
    # Of six a quarter is 1.5, of which one goes: (2 + 3 + 4 + 5) / 4.
    assert_allclose(iqm([[1, 2, 3], [4, 5, 600]]), 3.5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 7), (4, 25)])
def test_iqm_is_the_trimmed_mean_for_every_resample(shape: tuple[int, int]) -> None:
    scores = rng().normal(size=(3, *shape))
    expected = [scipy.stats.trim_mean(block, 0.25, axis=None) for block in scores]
    assert_allclose(iqm(scores), expected, rtol=1e-13)


SKEWED = rng(3).exponential(size=40)
INTERVALS = {
    "bca": lambda r: interval(SKEWED, r),
    "percentile": lambda r: interval(SKEWED, r, method="percentile"),
    "stratified": lambda r: stratified_interval(SKEWED.reshape(8, 5), r),
    "improvement": lambda r: probability_of_improvement(
        SKEWED.reshape(8, 5), rng(4).exponential(size=(9, 5)), r
    ),
    "paired": lambda r: paired_difference(SKEWED, SKEWED**2, r),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_the_generator_alone_decides_the_interval(name: str) -> None:
    compute = INTERVALS[name]
    assert compute(rng(1)) == compute(rng(1))
    assert compute(rng(1)) != compute(rng(2))
    used = rng(1)
    compute(used)
    assert compute(used) != compute(rng(1))


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_interval_is_scipys_up_to_the_error_of_resampling(method: str) -> None:
    n, count = len(SKEWED), 20_000
    theirs = scipy.stats.bootstrap(
        (SKEWED,), np.mean, n_resamples=count, method=method, rng=rng(5)
    ).confidence_interval
    ours = interval(SKEWED, rng(6), resamples=count, method=method)
    # A quantile at level p of m draws has error sqrt(p (1 - p) / m) / density; near these tails
    # the density of the mean is at least the normal's at 2.5 deviations. Two draws, four sigma.
    sigma = SKEWED.std() / math.sqrt(n)
    error = math.sqrt(0.025 * 0.975 / count) / (scipy.stats.norm.pdf(2.5) / sigma)
    assert_allclose(bounds(ours), theirs, rtol=0, atol=4 * math.sqrt(2) * error)


def test_bca_moves_towards_the_long_tail() -> None:
    percentile = interval(SKEWED, rng(), method="percentile")
    bca = interval(SKEWED, rng())
    assert bca.low > percentile.low
    assert bca.high > percentile.high


def coverage(compute, draw, truth: float, trials: int = 400) -> int:
    """Count the trials whose interval holds the truth."""
    data, resampling = rng(11), rng(12)
    held = (compute(draw(data), resampling) for _ in range(trials))
    return sum(result.low <= truth <= result.high for result in held)


@pytest.mark.parametrize(
    ("draw", "truth", "expected"),
    [
        # The bootstrap uses z and the population deviation where Student's t is exact.
        (lambda r: r.normal(3.0, 2.0, 20), 3.0, 2 * scipy.stats.t(19).cdf(1.96 * 0.95**0.5) - 1),
        (lambda r: r.exponential(1.0, 100), 1.0, 0.94),
    ],
    ids=["normal", "skewed"],
)
def test_interval_holds_the_truth_as_often_as_it_says(draw, truth, expected) -> None:
    low, high = scipy.stats.binom(400, expected).ppf([0.001, 0.999])
    fast = partial(interval, resamples=1000)
    assert low <= coverage(fast, draw, truth) <= high
    assert coverage(partial(fast, confidence=0.8), draw, truth) < low


def test_normal_interval_is_the_papers_formula() -> None:
    samples = rng().normal(size=30)
    half = 1.959963984540054 * samples.std(ddof=1) / math.sqrt(30)
    result = normal_interval(samples)
    assert_allclose(result.estimate, samples.mean(), rtol=1e-15)
    assert_allclose(bounds(result), [samples.mean() - half, samples.mean() + half], rtol=1e-12)


def test_stratified_interval_resamples_runs_within_tasks_only() -> None:
    """Tasks that differ but whose runs agree leave nothing to resample."""
    scores = np.tile([0.0, 1.0, 10.0, 100.0], (5, 1))
    result = stratified_interval(scores, rng())
    assert_allclose([result.estimate, *bounds(result)], [5.5] * 3, rtol=0)


def test_stratified_interval_of_the_mean_has_the_variance_of_its_strata() -> None:
    scores = rng(1).normal(size=(30, 6)) * np.arange(1, 7)
    result = stratified_interval(scores, rng(2), lambda s: s.mean((-2, -1)), resamples=20_000)
    half = 1.96 * math.sqrt((scores.var(0) / 30).sum()) / 6
    # Quantiles of 20,000 draws are good to about 1 % of the half width; 30 runs are not quite normal.
    assert_allclose(np.subtract(bounds(result), scores.mean()), [-half, half], rtol=0.05)


def test_probability_of_improvement_counts_pairs() -> None:
    x = rng(1).integers(0, 4, size=(5, 3))
    y = rng(2).integers(0, 4, size=(7, 3))
    pairs = itertools.product(range(5), range(7), range(3))
    wins = sum(1.0 if x[i, t] > y[j, t] else 0.5 * (x[i, t] == y[j, t]) for i, j, t in pairs)
    result = probability_of_improvement(x, y, rng())
    assert_allclose(result.estimate, wins / (5 * 7 * 3), rtol=1e-14)
    assert result.low < result.estimate < result.high
    reverse = probability_of_improvement(y, x, rng())
    assert_allclose(result.estimate + reverse.estimate, 1.0, rtol=1e-14)


def test_probability_of_improvement_is_certain_without_overlap() -> None:
    result = probability_of_improvement(np.ones((4, 2)), np.zeros((3, 2)), rng())
    assert (result.estimate, result.low, result.high) == (1.0, 1.0, 1.0)


def test_pairing_narrows_the_interval_of_correlated_scores() -> None:
    data = rng(4)
    task = data.normal(0.0, 5.0, 200)
    a, b = task + data.normal(0.3, 0.5, 200), task + data.normal(0.0, 0.5, 200)
    paired = paired_difference(a, b, rng())
    unpaired = [interval(x, rng()) for x in (a, b)]
    # The shared part is ten times the noise.
    assert paired.high - paired.low < 0.2 * min(r.high - r.low for r in unpaired)
    assert paired.low > 0.0
    assert_allclose(paired.mean, a.mean() - b.mean(), rtol=1e-12)
    assert_allclose(paired.share_above, (a > b).mean(), rtol=1e-15)
    assert paired.n == 200
    assert paired.p_value < 0.001


def test_sign_flip_p_value_is_the_exact_share_of_sign_patterns() -> None:
    a = np.array([1.0, 2.0, -0.5, 3.0, 0.25, 1.5])
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    exact = (np.abs(signs @ a) >= abs(a.sum())).mean()
    result = paired_difference(a, np.zeros(6), rng(), resamples=20_000)
    error = math.sqrt(exact * (1 - exact) / 20_000)
    assert_allclose(result.p_value, exact, rtol=0, atol=4 * error + 1 / 20_000)


def test_equal_learners_differ_by_nothing() -> None:
    a = np.full(10, 0.1)
    result = paired_difference(a, a, rng())
    assert (result.mean, result.low, result.high) == (0.0, 0.0, 0.0)
    assert (result.share_above, result.p_value) == (0.5, 1.0)
    constant = interval(a, rng())
    assert_allclose([constant.estimate, *bounds(constant)], [0.1] * 3, rtol=1e-14)


def test_one_sample_has_an_estimate_and_no_interval() -> None:
    results = [
        interval([0.25], rng()),
        normal_interval([0.25]),
        stratified_interval([[0.25]], rng()),
        probability_of_improvement([[1.0]], [[2.0]], rng()),
    ]
    assert [r.estimate for r in results] == [0.25, 0.25, 0.25, 0.0]
    assert np.isnan([bounds(r) for r in results]).all()
    assert str(results[0]) == "0.25 (no interval)"
    single = paired_difference([1.0], [0.5], rng())
    assert math.isnan(single.low) and single.p_value == 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Interval(estimate=0.53, low=0.49, high=0.57), "0.53 [0.49, 0.57]"),
        (Interval(estimate=-8.64, low=-8.9, high=-8.4), "-8.64 [-8.90, -8.40]"),
        (Interval(estimate=0.00312, low=0.0029, high=0.0034), "0.0031 [0.0029, 0.0034]"),
        (Interval(estimate=1.0, low=1.0, high=1.0), "1.00 [1.00, 1.00]"),
        (
            PairedDifference(mean=0.2, low=0.1, high=0.3, n=600, share_above=0.73, p_value=1e-4),
            "0.20 [0.10, 0.30], above in 73% of 600 pairs, p = 0.0001",
        ),
    ],
)
def test_results_print_with_the_digits_they_support(value, text) -> None:
    assert str(value) == text


NAN = [[1.0, 2.0], [3.0, math.nan]]
GOOD = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval(NAN[1], rng()), r"samples holds 1 .* first at \[1\]: give a diverged"),
        (lambda: normal_interval([math.inf, 1.0]), r"samples holds 1 values that are not finite"),
        (lambda: stratified_interval(NAN, rng()), r"scores holds 1 .* first at \[1, 1\]"),
        (lambda: probability_of_improvement(GOOD, NAN, rng()), "^y holds 1"),
        (lambda: paired_difference(NAN[1], GOOD[1], rng()), "^a holds 1"),
        (lambda: paired_difference([1.0, 2.0], [1.0], rng()), r"a \(2\) and b \(1\)"),
        (lambda: interval([], rng()), r"not be empty, got \(0,\)"),
        (lambda: interval(GOOD, rng()), r"shape \(samples,\).*got \(2, 2\)"),
        (lambda: stratified_interval(GOOD[0], rng()), r"shape \(runs, tasks\).*got \(2,\)"),
        (lambda: probability_of_improvement(GOOD, [[1.0]], rng()), "the same tasks"),
        (lambda: interval(GOOD[0], rng(), confidence=95), "95 % is 0.95"),
        (lambda: interval(GOOD[0], rng(), resamples=0), "at least 1, got 0"),
        (lambda: interval(GOOD[0], rng(), method="basic"), "'bca' or 'percentile', got 'basic'"),
    ],
)
def test_what_cannot_be_averaged_is_refused_by_name(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_profile_is_the_share_above_each_threshold_by_hand() -> None:
    scores = [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    profile = performance_profile(scores, [0.0, 2.0, 3.5, 6.0], rng())
    assert_allclose(profile.share, [1, 4 / 6, 3 / 6, 0], rtol=1e-15)
    # At the ends nothing is left to chance; between, runs are resampled within each task.
    assert_allclose([profile.low[0], profile.high[0], profile.high[3]], [1, 1, 0])
    assert profile.low[1] < 4 / 6 < profile.high[1]
    # All of the second task lies above 3.5 and none of the first, whichever runs are drawn.
    assert_allclose([profile.low[2], profile.high[2]], [0.5, 0.5])


def test_a_profile_of_one_run_has_no_bounds() -> None:
    profile = performance_profile([[1.0, 2.0]], [1.5], rng())
    assert_allclose(profile.share, [0.5])
    assert math.isnan(profile.low[0])


def test_the_generator_alone_decides_a_profile() -> None:
    scores = SKEWED.reshape(8, 5)
    one, same, other = (performance_profile(scores, [0.5, 1.0], rng(s)) for s in (1, 1, 2))
    assert_allclose(one.low, same.low, rtol=0)
    assert_allclose(one.high, same.high, rtol=0)
    assert (one.low != other.low).any() or (one.high != other.high).any()
