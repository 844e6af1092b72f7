"""Meta-SGD: exact derivatives for every way to share step sizes, and what each option does."""

import math
from typing import Any

import pytest
import torch
from tiny_regression import (
    EXACT,
    generator,
    initial_params,
    meta_params,
    normal,
    points,
    regressor,
    squared_error,
)
from torch import Tensor
from torch.testing import assert_close

from mtrl.errors import UsageError
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.inner import adapt, expand_to_tasks
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import AdamUpdate
from mtrl.meta.parameters import MetaParams

GRANULARITIES = ("parameter", "tensor", "layer", "scalar")
COUNTS = {"parameter": 17, "tensor": 4, "layer": 2, "scalar": 1}


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_gradcheck_through_three_inner_steps(
    granularity: Any, per_step: bool, positive: bool
) -> None:
    learner = MetaSGD(granularity=granularity, per_step=per_step, positive=positive, inner_steps=3)
    start = meta_params(learner)
    names, values = list(start.named()), list(start.named().values())

    def query_losses(*arguments: Tensor) -> Tensor:
        meta = MetaParams.from_named(dict(zip(names, arguments, strict=True)))
        adapted = adapt(
            expand_to_tasks(meta.params, 2),
            learner.step_sizes(meta.step_sizes, meta.params, 3),
            squared_error,
            [points(2)] * 3,
        )
        return squared_error(adapted, points(2, seed=1))

    leaves = [value.clone().requires_grad_() for value in values]
    assert torch.autograd.gradcheck(query_losses, leaves)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_granularity_says_how_many_step_sizes_are_learned(
    granularity: Any, per_step: bool
) -> None:
    learner = MetaSGD(granularity=granularity, per_step=per_step, inner_steps=3)
    learned = learner.initial_step_sizes(initial_params(), generator())
    count = sum(value.numel() for value in learned.values())
    assert count == COUNTS[granularity] * (3 if per_step else 1)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_parameters_of_a_group_share_a_step_size_and_groups_do_not(granularity: Any) -> None:
    learner = MetaSGD(granularity=granularity)
    meta = meta_params(learner)
    (alpha,) = learner.step_sizes(meta.step_sizes, meta.params, 1)
    for name, value in meta.params.items():
        group = {"layer": name.rpartition(".")[0], "scalar": "all"}.get(granularity, name)
        expected = meta.step_sizes[group].expand_as(value)
        assert_close(alpha[name].expand_as(value), expected, rtol=0, atol=0)
    distinct = torch.unique(
        torch.cat([alpha[name].expand_as(v).reshape(-1) for name, v in meta.params.items()])
    )
    assert len(distinct) == COUNTS[granularity]


def test_the_start_is_one_value_in_the_range_and_depends_on_the_generator() -> None:
    learner = MetaSGD(initial_step_size=(0.02, 0.03), per_step=True, inner_steps=2)

    def values(seed: int) -> Tensor:
        learned = learner.initial_step_sizes(initial_params(), generator(seed))
        return torch.cat([value.reshape(-1) for value in learned.values()])

    starts = torch.stack([values(seed) for seed in range(20)])
    assert_close(starts, starts[:, :1].expand_as(starts), rtol=0, atol=0)
    assert starts.min() >= 0.02
    assert starts.max() <= 0.03
    assert len(torch.unique(starts)) == 20
    assert_close(values(3), starts[3], rtol=0, atol=0)
    # Uniform: the mean of 20 is within four standard errors of the middle.
    error = 0.01 / math.sqrt(12 * 20)
    assert_close(starts.mean().item(), 0.025, rtol=0, atol=4 * error)


def test_positive_step_sizes_start_in_the_range_and_stay_positive_whatever_the_update() -> None:
    learner = MetaSGD(initial_step_size=(0.1, 0.1), positive=True)
    params = initial_params()
    learned = learner.initial_step_sizes(params, generator())
    (alpha,) = learner.step_sizes(learned, params, 1)
    assert_close(alpha, {name: torch.full_like(v, 0.1) for name, v in params.items()}, **EXACT)
    (alpha,) = learner.step_sizes({n: v - 50.0 for n, v in learned.items()}, params, 1)
    assert all(float(value.min()) > 0 for value in alpha.values())


@pytest.mark.parametrize("first_order", [False, True])
def test_step_sizes_move_by_the_sign_of_the_product_of_gradients(first_order: bool) -> None:
    # d loss'(theta - alpha g) / d alpha = -g g': where both gradients agree, alpha must grow.
    learner = MetaSGD(first_order=first_order, initial_step_size=(0.05, 0.05))
    meta = meta_params(learner)
    before = {name: value.clone() for name, value in meta.step_sizes.items()}
    support, query = points(1), points(1, seed=1)
    leaves = {name: v[None].clone().requires_grad_() for name, v in meta.params.items()}
    inner = torch.autograd.grad(squared_error(leaves, support).sum(), list(leaves.values()))
    (alpha,) = learner.step_sizes(meta.step_sizes, meta.params, 1)
    adapted = adapt(leaves, [alpha], squared_error, [support], first_order=True)
    outer = torch.autograd.grad(squared_error(adapted, query).sum(), list(adapted.values()))
    products = {name: (a * b)[0] for name, a, b in zip(meta.params, inner, outer, strict=True)}
    gradient = MetaGradient(learner, squared_error)(meta, (*support, *query)).gradient
    AdamUpdate(meta).step(gradient, 1e-3)
    signs = set()
    for name, value in meta.step_sizes.items():
        assert_close(torch.sign(value - before[name]), torch.sign(products[name]), **EXACT)
        signs |= set(torch.sign(products[name]).flatten().tolist())
    assert signs == {-1.0, 1.0}


def test_later_test_steps_use_the_last_of_separate_step_sizes() -> None:
    learner = MetaSGD(per_step=True, inner_steps=2)
    meta = meta_params(learner)
    steps = learner.step_sizes(meta.step_sizes, meta.params, 4)
    for name in meta.params:
        first, last = meta.step_sizes[name]
        for step, expected in zip(steps, (first, last, last, last), strict=True):
            assert_close(step[name], expected, rtol=0, atol=0)


def test_the_later_step_scale_applies_from_the_second_step_on() -> None:
    learner = MetaSGD(later_step_scale=0.5)
    meta = meta_params(learner)
    steps = learner.step_sizes(meta.step_sizes, meta.params, 3)
    for step, scale in zip(steps, (1.0, 0.5, 0.5), strict=True):
        expected = {name: scale * value for name, value in meta.step_sizes.items()}
        assert_close(step, expected, rtol=0, atol=0)


def test_frozen_parameters_have_no_step_size() -> None:
    learner = MetaSGD(adapted=("layers.1",))
    meta = meta_params(learner)
    assert set(meta.step_sizes) == {"layers.1.weight", "layers.1.bias"}
    trail = regressor(learner).adapted(meta, points(3), 2)
    for name in ("layers.0.weight", "layers.0.bias"):
        expected = expand_to_tasks(meta.params, 3)[name]
        assert_close(trail[-1][name], expected, rtol=0, atol=0)


def test_a_parameter_that_no_loss_uses_gets_a_step_size_and_gradient_zero() -> None:
    learner = MetaSGD()
    params = initial_params() | {"other_head": normal(3)}
    meta = MetaParams(params, learner.initial_step_sizes(params, generator()))
    data = (*points(2), *points(2, seed=1))
    gradient = MetaGradient(learner, squared_error)(meta, data).gradient
    zeros = torch.zeros(3, dtype=torch.float64)
    for name in ("params.other_head", "step_sizes.other_head"):
        assert_close(meta.like(gradient).named()[name], zeros, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_step_size": (0.1, 0.01)}, "low <= high, got 0.1, 0.01"),
        ({"initial_step_size": (0.0, 0.1), "positive": True}, "must be positive"),
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"per_step": True, "later_step_scale": 0.5}, "later_step_scale is 0.5, which per_step"),
    ],
)
def test_contradictions_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MetaSGD(**options)


def test_a_prefix_that_matches_nothing_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match="'head'; there are layers.0.weight, "):
        MetaSGD(adapted=("head",)).initial_step_sizes(initial_params(), generator())


# Ranges and units by prefix


def test_a_prefix_has_a_range_of_its_own_and_the_rest_keeps_theirs() -> None:
    learner = MetaSGD(
        initial_step_size=(0.1, 0.2),
        initial_by_prefix={"layers.1": (2.0, 2.0), "layers.1.bias": (5.0, 7.0)},
    )
    learned = learner.initial_step_sizes(initial_params(), generator(3))
    share = (learned["layers.0.weight"].flatten()[0] - 0.1) / 0.1
    assert_close(learned["layers.1.weight"], torch.full_like(learned["layers.1.weight"], 2.0))
    # The longest prefix decides, and one draw places every range.
    assert_close(learned["layers.1.bias"], torch.full_like(learned["layers.1.bias"], 5 + 2 * share))
    assert_close(
        learned["layers.0.bias"], torch.full_like(learned["layers.0.bias"], 0.1 + 0.1 * share)
    )


def test_a_unit_changes_what_an_update_does_and_not_what_step_sizes_do() -> None:
    plain = MetaSGD(initial_step_size=(0.3, 0.3))
    scaled = MetaSGD(initial_step_size=(0.3, 0.3), unit=10.0, unit_by_prefix={"layers.1": 100.0})
    start, params = initial_params(), initial_params()
    stored = scaled.initial_step_sizes(start, generator(0))
    acting = scaled.step_sizes(stored, params, 1)[0]
    expected = plain.step_sizes(plain.initial_step_sizes(start, generator(0)), params, 1)[0]
    for name, value in expected.items():
        assert_close(acting[name], value)
        unit = 100.0 if name.startswith("layers.1") else 10.0
        assert_close(stored[name] * unit, value)
        # Moving what is stored by one moves the step size by its unit.
        moved = scaled.step_sizes({**stored, name: stored[name] + 1}, params, 1)[0]
        assert_close(moved[name] - acting[name], torch.full_like(value, unit))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_by_prefix": {"layers": (2.0, 1.0)}}, "initial_by_prefix of layers must be"),
        ({"unit": 0.0}, "the unit of step sizes must be positive, got 0.0"),
        ({"unit_by_prefix": {"layers": -1.0}}, "must be positive, got -1.0 for layers"),
        ({"unit": 2.0, "positive": True}, "positive learns logarithms, which have no unit"),
        (
            {"granularity": "scalar", "unit_by_prefix": {"layers": 2.0}},
            "granularity is scalar, so all parameters share one step size",
        ),
    ],
)
def test_senseless_ranges_and_units_are_refused_by_name(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        MetaSGD(**options)


def test_a_range_for_no_parameter_is_refused_with_the_names_there_are() -> None:
    learner = MetaSGD(initial_by_prefix={"log_stdd": (1.0, 1.0)})
    with pytest.raises(UsageError, match="starts with 'log_stdd': layers.0.weight"):
        learner.initial_step_sizes(initial_params(), generator(0))
