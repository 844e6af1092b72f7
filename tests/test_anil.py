"""ANIL: the inner loop moves the head, the outer loop everything."""

import pytest
import torch
from tiny_policy import POLICY, policy_params
from tiny_regression import (
    EXACT,
    adapt_in_a_loop,
    initial_params,
    one_task_error,
    points,
    regressor,
    squared_error,
    with_grad,
)
from torch.testing import assert_close

from mtrl.errors import UsageError
from mtrl.meta.anil import ANIL
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.maml import MAML
from mtrl.meta.parameters import MetaParams

TASKS = 3
HEAD = ["layers.1.weight", "layers.1.bias"]
BODY = ["layers.0.weight", "layers.0.bias"]


def test_the_head_is_the_last_layer_and_on_request_what_belongs_to_none() -> None:
    params = policy_params()
    assert ANIL().head(params) == [*HEAD, "log_std"]
    assert ANIL(adapt_log_std=False).head(params) == HEAD
    assert ANIL().head(initial_params()) == HEAD
    assert set(ANIL().step_sizes({}, params, 2)[1]) == {*HEAD, "log_std"}
    with pytest.raises(UsageError, match="there is no last layer"):
        ANIL().head({"log_std": torch.zeros(2)})


def test_adaptation_moves_the_head_and_leaves_the_body() -> None:
    start, once, twice = regressor(ANIL()).adapted(
        MetaParams(initial_params(), {}), points(TASKS), 2
    )
    for name in BODY:
        for later in (once, twice):
            assert_close(later[name], start[name], rtol=0, atol=0)
    for name in HEAD:
        assert (once[name] - start[name]).abs().min() > 0
        assert (twice[name] - once[name]).abs().min() > 0


def test_later_steps_are_scaled() -> None:
    first, later = ANIL(step_size=0.3, later_step_scale=0.5).step_sizes({}, initial_params(), 2)
    assert {name: pytest.approx(size.item()) for name, size in first.items()} == dict.fromkeys(
        HEAD, 0.3
    )
    assert_close(later, {name: 0.5 * size for name, size in first.items()}, **EXACT)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_meta_gradient_is_that_of_a_loop_over_tasks(steps: int, first_order: bool) -> None:
    learner = ANIL(step_size=0.3, inner_steps=steps, first_order=first_order)
    support, query = points(TASKS), points(TASKS, seed=1)
    leaves = with_grad(initial_params())
    sizes = [{name: torch.tensor(0.3, dtype=torch.float64) for name in HEAD}] * steps
    adapted = adapt_in_a_loop(leaves, sizes, one_task_error, support, first_order=first_order)
    losses = [
        one_task_error(params, (query[0][i], query[1][i])) for i, params in enumerate(adapted)
    ]
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values()))
    meta = MetaParams(initial_params(), {})
    vector = MetaGradient(learner, squared_error)(meta, (*support, *query)).gradient
    gradient = meta.like(vector).params
    assert_close(list(gradient.values()), list(expected), **EXACT)
    # The outer loop learns the body too, though no task moves it.
    assert min(float(gradient[name].abs().min()) for name in BODY) > 0


def test_it_is_maml_restricted_to_the_head_and_not_maml() -> None:
    meta, data = MetaParams(initial_params(), {}), (*points(TASKS), *points(TASKS, seed=1))
    ours, restricted, maml = (
        meta.like(MetaGradient(learner, squared_error)(meta, data).gradient).params
        for learner in (ANIL(), MAML(adapted=("layers.1",)), MAML())
    )
    assert_close(ours, restricted, rtol=0, atol=0)
    assert (ours["layers.1.weight"] - maml["layers.1.weight"]).abs().max() > 1e-3


def test_of_a_gaussian_policy_log_std_adapts_if_it_is_to() -> None:
    assert "log_std" in POLICY.initial(torch.Generator())
    params = policy_params()
    sizes = [set(ANIL(adapt_log_std=flag).step_sizes({}, params, 1)[0]) for flag in (True, False)]
    assert sizes[0] - sizes[1] == {"log_std"}


@pytest.mark.parametrize("options", [{"step_size": 0.0}, {"inner_steps": 0}])
def test_senseless_values_are_refused_by_name(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        ANIL(**options)  # type: ignore[arg-type]
