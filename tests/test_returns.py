"""Returns and advantages against sums written out in full, and the baseline against NumPy's lstsq."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mtrl.returns import (
    _solve,
    discounted_returns,
    fit_linear_baseline,
    generalized_advantages,
    linear_baseline,
    standardize,
)

# Double precision, sums of up to 23 terms of order 1: rounding stays far below this.
EXACT = {"rtol": 0.0, "atol": 1e-12}


def episodes(seed: int = 0, time: int = 23) -> dict[str, Tensor]:
    """Episodes (2, 6) of every kind: full or short, terminated or truncated; poison after the end."""
    rng = np.random.default_rng(seed)
    lengths = np.array([[time, time, 1, 1, 7, 9], [2, 2, time, 16, 17, 5]])
    mask = np.arange(time) < lengths[..., None]
    last = np.arange(time) == lengths[..., None] - 1
    ends = rng.random(lengths.shape) < 0.5
    ends[0] = [True, False, True, False, True, False]
    values = rng.normal(size=(2, 6, time + 1))
    values[np.arange(time + 1) > lengths[..., None]] = np.inf
    arrays = {
        "rewards": np.where(mask, rng.normal(size=mask.shape), np.nan),
        "values": values,
        "terminated": (last & ends[..., None]).astype(float),
        "mask": mask.astype(float),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def rows(batch: dict[str, Tensor]) -> list[tuple[tuple[int, ...], dict[str, Tensor], int]]:
    """List (index, one episode's tensors, its length)."""
    shape = batch["mask"].shape[:-1]
    return [
        (
            index,
            {name: tensor[index] for name, tensor in batch.items()},
            int(batch["mask"][index].sum()),
        )
        for index in itertools.product(*map(range, shape))
    ]


def test_returns_equal_the_sum_written_out() -> None:
    batch = episodes()
    actual = discounted_returns(batch["rewards"], batch["mask"], 0.93)
    expected = torch.zeros_like(actual)
    for index, row, length in rows(batch):
        for t in range(length):
            expected[index][t] = sum(0.93 ** (k - t) * row["rewards"][k] for k in range(t, length))
    assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_advantages_equal_the_sum_over_k_step_advantages(gae_lambda: float) -> None:
    """Schulman et al. 2016, eq. 11-16: weights (1 - l) l^(k-1), what is left on the longest k."""
    batch = episodes()
    discount = 0.9
    actual = generalized_advantages(**batch, discount=discount, gae_lambda=gae_lambda)
    expected = torch.zeros_like(actual)
    for index, row, length in rows(batch):
        for t in range(length):
            longest = length - t
            for k in range(1, longest + 1):
                rewards = sum(discount**i * row["rewards"][t + i] for i in range(k))
                alive = 1.0 - row["terminated"][t + k - 1]
                advantage = rewards + discount**k * alive * row["values"][t + k] - row["values"][t]
                share = 1.0 - gae_lambda if k < longest else 1.0
                expected[index][t] += share * gae_lambda ** (k - 1) * advantage
    assert_close(actual, expected, **EXACT)


def test_advantages_by_hand() -> None:
    """Discount 0.5, lambda 0.5, so errors are carried at 0.25."""
    rewards = torch.tensor([[1.0, 2.0, 4.0]]).expand(3, 3)
    values = torch.tensor([[2.0, 4.0, 8.0, 16.0]]).expand(3, 4)
    # In turn: runs out of time, terminates at the end, runs out of time after two steps.
    terminated = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    # Errors 1 + 2 - 2 = 1, 2 + 4 - 4 = 2, and 4 + 8 - 8 = 4 or, terminated, 4 - 8 = -4.
    expected = torch.tensor([[1.75, 3.0, 4.0], [1.25, 1.0, -4.0], [1.5, 2.0, 0.0]])
    actual = generalized_advantages(rewards, values, terminated, mask, 0.5, 0.5)
    assert_close(actual, expected, rtol=0, atol=0)


def learned_value(terminated: float, discount: float = 0.9, time: int = 5) -> float:
    """Iterate values towards their targets on an endless loop of reward 1, cut every 5 steps."""
    ends = torch.zeros(1, time, dtype=torch.float64)
    ends[..., -1] = terminated
    ones = torch.ones_like(ends)
    value = torch.zeros((), dtype=torch.float64)
    for _ in range(60):
        values = value.expand(1, time + 1)
        advantages = generalized_advantages(ones, values, ends, ones, discount, 1.0)
        value = (advantages + values[..., :-1])[0, 0]
    return float(value)


def test_an_endless_loop_is_worth_its_geometric_series_only_with_bootstrapping() -> None:
    # 0.9^(5 * 60) of the initial error is left.
    assert learned_value(terminated=0.0) == pytest.approx(1 / (1 - 0.9), abs=1e-10)
    assert learned_value(terminated=1.0) == pytest.approx((1 - 0.9**5) / (1 - 0.9), abs=1e-10)


def test_standardize_gives_each_task_mean_zero_and_deviation_one() -> None:
    batch = episodes()
    scale = torch.tensor([1.0, 1e3], dtype=torch.float64)[:, None, None]
    actual = standardize(batch["rewards"] * scale + 5.0 * scale, batch["mask"])
    for task in range(2):
        valid = actual[task][batch["mask"][task].bool()]
        assert_close(valid.mean().item(), 0.0, **EXACT)
        # The added 1e-8 moves a deviation of about 1 by as much.
        assert_close(valid.std(correction=0).item(), 1.0, rtol=0, atol=1e-7)
    assert_close(actual[batch["mask"] == 0].abs().sum().item(), 0.0, rtol=0, atol=0)


def test_standardize_over_all_axes_keeps_the_difference_between_tasks() -> None:
    x = torch.tensor([[[0.0, 0.0]], [[2.0, 2.0]]], dtype=torch.float64)
    ones = torch.ones_like(x)
    assert_close(standardize(x, ones), torch.zeros_like(x), rtol=0, atol=0)
    assert_close(standardize(x, ones, over=(0, 1, 2)), x - 1.0, rtol=0, atol=1e-7)


def reference_features(o: np.ndarray) -> np.ndarray:
    """Features (episodes, time, features) of one task's observations."""
    t = np.broadcast_to(np.arange(o.shape[1]) / 100.0, o.shape[:2])[..., None]
    return np.concatenate([o, o**2, t, t**2, t**3, np.ones_like(t)], -1)


def reference_fit(features: np.ndarray, returns: np.ndarray, ridge: float) -> np.ndarray:
    """Least squares of the features stacked over sqrt(ridge) I: the same minimum, solved by SVD."""
    size = features.shape[-1]
    stacked = np.concatenate([features, np.sqrt(ridge) * np.eye(size)])
    weights, *_ = np.linalg.lstsq(stacked, np.concatenate([returns, np.zeros(size)]))
    return features @ weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_baseline_predicts_what_least_squares_per_task_predicts(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    mask = np.arange(40) < rng.integers(5, 41, size=(3, 8, 1))
    observations = torch.from_numpy(rng.normal(size=(3, 8, 40, 2))).to(dtype)
    returns = torch.from_numpy(10.0 * rng.normal(size=(3, 8, 40))).to(dtype)
    poisoned = observations.masked_fill(~torch.from_numpy(mask)[..., None], torch.nan)
    weights = fit_linear_baseline(poisoned, returns, torch.from_numpy(mask))
    actual = linear_baseline(observations, weights)
    assert actual.dtype == dtype
    for task in range(3):
        features = reference_features(observations[task].double().numpy())[mask[task]]
        expected = reference_fit(features, returns[task].double().numpy()[mask[task]], 1e-5)
        # Predictions are of order 10: one rounding in float32, the normal equations' in float64.
        atol = 1e-5 if dtype == torch.float32 else 1e-7
        assert_close(
            actual[task][mask[task]].double(), torch.from_numpy(expected), rtol=0, atol=atol
        )


def test_baseline_of_one_task_does_not_see_the_others() -> None:
    rng = np.random.default_rng(2)
    observations, returns = (
        torch.from_numpy(rng.normal(size=s)) for s in [(3, 4, 9, 2), (3, 4, 9)]
    )
    mask = torch.ones(3, 4, 9)
    together = fit_linear_baseline(observations, returns, mask)
    alone = fit_linear_baseline(observations[1:2], returns[1:2], mask[1:2])
    # Weights of collinear powers of time reach 1e3; both solves see the same numbers.
    assert_close(together[1:2], alone, rtol=1e-6, atol=1e-6)


def test_each_task_is_solved_with_the_least_regularisation_that_works() -> None:
    """Diagonal equations by hand: 1 + r > 0 at once, -5e-5 + r > 0 from r = 1e-4, -2 + r never."""
    gram = torch.diag_embed(torch.tensor([[1.0, 1.0], [1.0, -5e-5], [1.0, -2.0]]).double())
    moments = torch.tensor([[1.0], [1.0]]).double().expand(3, 2, 1)
    expected = torch.tensor(
        [
            [1 / (1 + 1e-5), 1 / (1 + 1e-5)],
            [1 / (1 + 1e-4), 1 / (-5e-5 + 1e-4)],
            [torch.nan, torch.nan],
        ],
        dtype=torch.float64,
    )
    # The single-precision literal -5e-5 is off by 1e-8 relative.
    assert_close(_solve(gram, moments, 1e-5), expected, rtol=1e-6, atol=0, equal_nan=True)


def test_baseline_of_infinite_observations_is_nan_for_that_task_only() -> None:
    observations = torch.ones(2, 1, 4, 1)
    observations[1, 0, 2] = torch.inf
    weights = fit_linear_baseline(observations, torch.ones(2, 1, 4), torch.ones(2, 1, 4))
    assert_close(weights.isnan().all(-1), torch.tensor([False, True]))
    assert_close(weights[0].isfinite().all(), torch.tensor(True))


ONES = torch.ones(2, 3, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: discounted_returns(ONES, torch.ones(2, 3, 1), 0.9), r"\(2, 3, 1\).*\(2, 3, 4\)"),
        (lambda: discounted_returns(ONES, torch.ones(4), 0.9), r"\(4,\).*\(2, 3, 4\)"),
        (lambda: discounted_returns(ONES, ONES, 1.01), r"discount .* 1\.01"),
        (
            lambda: generalized_advantages(ONES, ONES, ONES, ONES, 0.9, 0.9),
            r"values \(2, 3, 4\).*\(2, 3, 4\): append the value of the final observation",
        ),
        (
            lambda: generalized_advantages(ONES, torch.ones(2, 3, 5), ONES[:1], ONES, 0.9, 0.9),
            r"terminated \(1, 3, 4\).*\(2, 3, 4\)",
        ),
        (lambda: standardize(ONES, ONES[..., 0]), r"mask \(2, 3\).*\(2, 3, 4\)"),
        (lambda: fit_linear_baseline(ONES, ONES, ONES), r"\(2, 3, 4\).*unsqueeze"),
        (lambda: fit_linear_baseline(ONES[..., None], ONES, ONES, 0.0), "positive, got 0"),
        (
            lambda: linear_baseline(ONES[..., None], torch.ones(1, 6)),
            r"weights \(1, 6\).*\(2, 3, 4, 1\)",
        ),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
