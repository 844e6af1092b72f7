"""MAML, and that every option of MAML and Meta-SGD changes what is learned or how it adapts."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from tiny_regression import (
    EXACT,
    generator,
    initial_params,
    normal,
    points,
    regressor,
    squared_error,
)
from torch import Tensor
from torch.testing import assert_close

from mtrl.errors import UsageError
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import AdamUpdate
from mtrl.meta.parameters import MetaParams, flatten, unflatten

TASKS = 3
# Every option, with a value that is not its default.
OPTIONS = {
    MAML: {
        "step_size": 0.2,
        "step_size_by_prefix": {"layers.1": 0.2},
        "later_step_scale": 0.5,
        "later_step_decay": 0.5,
        "inner_steps": 2,
        "first_order": True,
        "adapted": ("layers.1",),
    },
    MetaSGD: {
        "initial_step_size": (0.2, 0.3),
        "initial_by_prefix": {"layers.1": (0.2, 0.3)},
        "unit": 3.0,
        "unit_by_prefix": {"layers.1": 3.0},
        "granularity": "tensor",
        "per_step": True,
        "positive": True,
        "later_step_scale": 0.5,
        "inner_steps": 2,
        "first_order": True,
        "adapted": ("layers.1",),
    },
}
CASES = [(cls, name, value) for cls, changed in OPTIONS.items() for name, value in changed.items()]


def outcome(learner: MAML | MetaSGD) -> Tensor:
    """Meta-train for two iterations, then adapt in three steps: the adapted parameters, one vector."""
    params = initial_params()
    meta = MetaParams(params, learner.initial_step_sizes(params, generator()))
    gradient, update = MetaGradient(learner, squared_error), AdamUpdate(meta)
    for seed in (1, 2):
        data = (*points(TASKS, seed=seed), *points(TASKS, seed=seed + 5))
        update.step(gradient(meta, data).gradient, 0.01)
    return flatten(regressor(learner).adapted(meta, points(TASKS, seed=9), 3)[-1])


@pytest.mark.parametrize(("cls", "name", "value"), CASES)
def test_every_option_changes_something(cls: Any, name: str, value: Any) -> None:
    # Separate step sizes are a matter of several inner steps.
    common = {"inner_steps": 2} if name == "per_step" else {}
    before, after = outcome(cls(**common)), outcome(cls(**common, **{name: value}))
    assert (before - after).abs().max() > 1e-6
    assert_close(outcome(cls(**common)), before, rtol=0, atol=0)


@pytest.mark.parametrize("cls", [MAML, MetaSGD])
def test_no_option_is_left_out_of_the_test_above(cls: Any) -> None:
    assert {field.name for field in fields(cls)} == set(OPTIONS[cls])


def test_adapting_the_last_layer_only_moves_the_head_alone() -> None:
    learner = MAML(adapted=("layers.1",), step_size=0.1)
    meta = MetaParams(initial_params(), {})
    start, end = regressor(learner).adapted(meta, points(TASKS), 1)
    for name in ("layers.0.weight", "layers.0.bias"):
        assert_close(end[name], start[name], rtol=0, atol=0)
    for name in ("layers.1.weight", "layers.1.bias"):
        assert (end[name] - start[name]).abs().min() > 0


def test_a_step_is_the_step_size_times_the_gradient_and_later_ones_are_scaled() -> None:
    learner = MAML(step_size=0.3, later_step_scale=0.5)
    assert_steps(learner, (0.3, 0.15, 0.15))
    assert_steps(replace(learner, later_step_decay=0.1), (0.3, 0.15, 0.015))


def assert_steps(learner: MAML, sizes: tuple[float, float, float]) -> None:
    trail = regressor(learner).adapted(MetaParams(initial_params(), {}), points(TASKS), 3)
    for before, after, size in zip(trail[:-1], trail[1:], sizes, strict=True):
        leaves = {name: v.clone().requires_grad_() for name, v in before.items()}
        loss = squared_error(leaves, points(TASKS)).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        for (name, value), gradient in zip(before.items(), gradients, strict=True):
            assert_close(after[name], value - size * gradient, **EXACT)


def test_the_longest_prefix_decides_the_step_size() -> None:
    learner = MAML(
        step_size=0.1,
        step_size_by_prefix={"layers.1.bias": 0.5, "layers.1": 0.2},
        later_step_scale=0.5,
    )
    first, second, third = learner.step_sizes({}, initial_params(), 3)
    expected = {
        "layers.0.weight": 0.1,
        "layers.0.bias": 0.1,
        "layers.1.weight": 0.2,
        "layers.1.bias": 0.5,
    }
    assert {name: pytest.approx(size.item()) for name, size in first.items()} == expected
    for later in (second, third):
        assert_close(later, {name: size * 0.5 for name, size in first.items()}, **EXACT)


def test_a_prefix_of_nothing_that_adapts_is_refused() -> None:
    learner = MAML(adapted=("layers.1",), step_size_by_prefix={"layers.0": 0.2})
    with pytest.raises(UsageError, match=r"step_size_by_prefix: .* 'layers.0'; there are layers.1"):
        learner.step_sizes({}, initial_params(), 1)


def test_the_trail_starts_with_the_parameters_before_adaptation() -> None:
    meta = MetaParams(initial_params(), {})
    trail = regressor(MAML()).adapted(meta, points(TASKS), 2)
    assert len(trail) == 3
    assert_close(trail[0], expand_to_tasks(meta.params, TASKS), rtol=0, atol=0)


def test_tables_tell_first_order_apart() -> None:
    assert (MAML().name, MAML(first_order=True).name) == ("MAML", "FOMAML")


def test_nothing_is_learned_but_the_parameters() -> None:
    assert MAML().initial_step_sizes(initial_params(), generator()) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be positive, got 0.0"),
        ({"step_size": float("nan")}, "step_size must be positive, got nan"),
        (
            {"step_size_by_prefix": {"log_std": -1.0}},
            "step_size_by_prefix of log_std must be positive, got -1.0",
        ),
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
    ],
)
def test_senseless_values_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MAML(**options)


def test_meta_parameters_survive_the_vector_and_the_names() -> None:
    params = initial_params() | {"scale": normal()}
    meta = MetaParams(params, MetaSGD().initial_step_sizes(params, generator()))
    assert meta.flat().shape == (36,)
    again = meta.like(meta.flat())
    named = MetaParams.from_named(meta.named() | {"extra.thing": normal(2)})
    for copy in (again, named):
        assert_close((copy.params, copy.step_sizes), (meta.params, meta.step_sizes), **EXACT)
        assert list(copy.named()) == list(meta.named())
    vector = normal(36)
    assert_close(flatten(unflatten(vector, meta.named())), vector, rtol=0, atol=0)
