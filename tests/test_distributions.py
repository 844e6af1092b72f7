"""Facts about the distributions of task parameters and the split rules that need them."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import stats

from mtrl.envs.distributions import Choice, Intervals, Range
from mtrl.envs.parameters import ParameterSpace
from mtrl.errors import UsageError


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_union_is_uniform_over_its_length() -> None:
    union = Intervals(((5.0, 8.0), (-2.0, -1.0)))
    values = union.draw(_rng().random((10_000, 1), dtype=np.float32))[:, 0]
    left = values < 0
    assert stats.binomtest(int(left.sum()), 10_000, 0.25).pvalue > 1e-3
    assert stats.kstest(values[left], "uniform", (-2, 1)).pvalue > 1e-3
    assert stats.kstest(values[~left], "uniform", (5, 3)).pvalue > 1e-3
    assert union.contains(values[:, None])
    assert not union.contains(np.float32([0.0]))
    assert union.support == (-2.0, 8.0)


def test_a_choice_is_even() -> None:
    choice = Choice([1.0, 2.5, 4.0])
    values = choice.draw(_rng().random((9000, 1), dtype=np.float32))
    found, counts = np.unique(values, return_counts=True)
    assert_array_equal(found, np.float32([1.0, 2.5, 4.0]))
    assert stats.chisquare(counts).pvalue > 1e-3
    # The greatest float32 below 1 must not fall off the end.
    assert choice.draw(np.float32([[1 - 2.0**-24]]))[0, 0] == 4.0


def test_shared_splits_are_the_same_tasks_and_say_so() -> None:
    space = ParameterSpace("f", {"direction": Choice([-1.0, 1.0])}, split_rule="shared")
    drawn = {split: space.sample(50, _rng(), split) for split in ("train", "test")}
    assert {task.params["direction"] for task in drawn["train"]} == {-1.0, 1.0}
    assert {t.id for t in drawn["train"]} == {t.id for t in drawn["test"]}
    assert {task.split for task in drawn["test"]} == {"test"}
    with pytest.raises(UsageError, match="belong to both splits"):
        space.split_of({"direction": 1.0})


def test_a_handful_of_tasks_is_not_split_at_random() -> None:
    with pytest.raises(UsageError, match="2 tasks are too few.*'shared'"):
        ParameterSpace("f", {"direction": Choice([-1.0, 1.0])})


def test_finite_spaces_that_are_large_enough_are_split() -> None:
    space = ParameterSpace("f", {"a": Choice([*range(100)])})
    train, test = (
        {task.params["a"] for task in space.sample(2000, _rng(), split)}
        for split in ("train", "test")
    )
    assert train.isdisjoint(test)
    assert len(train | test) == 100


def test_with_two_names_held_out_test_tasks_have_both_and_training_tasks_neither() -> None:
    ranges = {"a": Range(0.0, 1.0), "b": Range(0.0, 1.0)}
    held = {"a": ((0.8, 1.0),), "b": ((0.0, 0.1), (0.9, 1.0))}
    space = ParameterSpace("f", ranges, "extrapolation", held)
    train, test = (space.sample_params(2000, _rng(), split) for split in ("train", "test"))
    assert train["a"].max() < 0.8
    assert 0.1 < train["b"].min() < train["b"].max() < 0.9
    assert test["a"].min() >= np.float32(0.8)
    assert ((test["b"] <= np.float32(0.1)) | (test["b"] >= np.float32(0.9))).all()
    with pytest.raises(UsageError, match="belong to neither split"):
        space.split_of({"a": 0.9, "b": 0.5})


def test_the_border_belongs_to_the_test_tasks_only() -> None:
    # Three float32 values lie in the training interval, the last of which is held out.
    step = 2.0**-23
    space = ParameterSpace(
        "f",
        {"a": Range(1.0, 2.0)},
        "extrapolation",
        {"a": ((1.0 + 2 * step, 2.0),)},
    )
    drawn = set(space.sample_params(500, _rng(), "train")["a"].tolist())
    assert drawn == {1.0, 1.0 + step}


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Intervals(()), "no intervals"),
        (lambda: Intervals(((0.0, 2.0), (1.0, 3.0))), "overlap"),
        (lambda: Intervals(((1.0, 1.0),)), "low must be less than high"),
        (lambda: Choice([]), "no values"),
    ],
)
def test_empty_distributions_are_refused(make: object, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        make()  # type: ignore[operator]
