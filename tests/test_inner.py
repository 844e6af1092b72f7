"""The inner loop against closed forms, and against a loop over tasks with plain autograd."""

import pytest
import torch
from tiny_regression import (
    EXACT,
    adapt_in_a_loop,
    initial_params,
    normal,
    one_task_error,
    points,
    random_step_sizes,
    squared_error,
    with_grad,
)
from torch import Tensor
from torch.testing import assert_close

from mtrl.meta.inner import adapt, expand_to_tasks, per_task
from mtrl.nets import Params

TASKS = 3


def half_squared_distance(params: Params, target: Tensor) -> Tensor:
    return 0.5 * (params["theta"] - target).square().sum(1)


@pytest.mark.parametrize("first_order", [False, True])
def test_one_meta_sgd_step_on_a_quadratic_is_the_closed_form(first_order: bool) -> None:
    # Inner loss |theta - a|^2 / 2, outer loss |theta' - b|^2 / 2, theta' = theta - alpha (theta - a).
    theta, alpha = normal(4, seed=1).requires_grad_(), normal(4, seed=2).requires_grad_()
    a, b = normal(TASKS, 4, seed=3), normal(TASKS, 4, seed=4)
    adapted = adapt(
        expand_to_tasks({"theta": theta}, TASKS),
        [{"theta": alpha}],
        half_squared_distance,
        [a],
        first_order=first_order,
    )
    half_squared_distance(adapted, b).sum().backward()
    with torch.no_grad():
        stepped = theta - alpha * (theta - a)
        direct = 1.0 if first_order else 1 - alpha
        assert_close(adapted["theta"], stepped, **EXACT)
        assert_close(theta.grad, (direct * (stepped - b)).sum(0), **EXACT)
        assert_close(alpha.grad, (-(theta - a) * (stepped - b)).sum(0), **EXACT)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_adapting_a_batch_equals_a_loop_over_tasks(steps: int, first_order: bool) -> None:
    params, data, query = initial_params(), points(TASKS), points(TASKS, seed=1)
    results = []
    for batched in (True, False):
        leaves = with_grad(params)
        alphas = [with_grad(alpha) for alpha in random_step_sizes(params, steps)]
        if batched:
            adapted = adapt(
                expand_to_tasks(leaves, TASKS),
                alphas,
                squared_error,
                [data] * steps,
                first_order=first_order,
            )
        else:
            each = adapt_in_a_loop(leaves, alphas, one_task_error, data, first_order=first_order)
            adapted = {name: torch.stack([task[name] for task in each]) for name in params}
        inputs = [*leaves.values(), *(value for alpha in alphas for value in alpha.values())]
        gradients = torch.autograd.grad(squared_error(adapted, query).sum(), inputs)
        results.append((adapted, gradients))
    assert_close(*results, **EXACT)


def adapt_first_task(tasks: int, loss: object = squared_error) -> Params:
    params = initial_params()
    adapted = adapt(
        expand_to_tasks(params, tasks),
        random_step_sizes(params, 2),
        loss,  # type: ignore[arg-type]
        [points(tasks)] * 2,
    )
    return {name: value[0] for name, value in adapted.items()}


@pytest.mark.parametrize("tasks", [3, 20])
def test_a_step_does_not_depend_on_the_tasks_beside_it(tasks: int) -> None:
    assert_close(adapt_first_task(tasks), adapt_first_task(1), **EXACT)


def test_negative_control_a_loss_averaged_over_tasks_would_shrink_the_step() -> None:
    tasks = 20

    def averaged(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        return squared_error(params, data) / tasks

    params = initial_params()
    step = adapt_first_task(1)["layers.1.bias"] - params["layers.1.bias"]
    shrunk = adapt_first_task(tasks, averaged)["layers.1.bias"] - params["layers.1.bias"]
    assert step.abs().item() > 5 * shrunk.abs().item()


FROZEN, HEAD = ("layers.0.weight", "layers.0.bias"), ("layers.1.weight", "layers.1.bias")


def head_step_sizes(steps: int) -> list[Params]:
    every = random_step_sizes(initial_params(), steps)
    return [{name: alpha[name] for name in HEAD} for alpha in every]


def test_frozen_parameters_keep_their_value_and_get_the_whole_meta_gradient() -> None:
    data, query = points(TASKS), points(TASKS, seed=1)
    leaves = with_grad(initial_params())
    adapted = adapt(expand_to_tasks(leaves, TASKS), head_step_sizes(2), squared_error, [data] * 2)
    for name in FROZEN:
        assert_close(adapted[name], expand_to_tasks(leaves, TASKS)[name], rtol=0, atol=0)
    each = adapt_in_a_loop(leaves, head_step_sizes(2), one_task_error, data)
    losses = [one_task_error(p, (x, y)) for p, x, y in zip(each, *query, strict=True)]
    expected = torch.autograd.grad(sum(losses), list(leaves.values()))
    actual = torch.autograd.grad(squared_error(adapted, query).sum(), list(leaves.values()))
    assert_close(actual, expected, **EXACT)


def test_a_frozen_parameter_alone_gets_its_gradient_through_the_inner_gradient() -> None:
    data, query = points(TASKS), points(TASKS, seed=1)

    def gradient(trained: Params, rest: Params) -> tuple[Tensor, ...]:
        params = expand_to_tasks({**rest, **trained}, TASKS)
        adapted = adapt(params, head_step_sizes(1), squared_error, [data])
        loss = squared_error(adapted, query).sum()
        return torch.autograd.grad(loss, [trained[name] for name in FROZEN])

    params = initial_params()
    frozen_only = with_grad({name: params[name] for name in FROZEN})
    assert_close(gradient(frozen_only, params), gradient(with_grad(params), {}), **EXACT)


def test_a_parameter_that_the_loss_does_not_use_stays_and_has_gradient_zero_inside() -> None:
    leaves = with_grad(initial_params() | {"other_head": normal(3)})
    alphas = random_step_sizes(leaves, 2)
    adapted = adapt(expand_to_tasks(leaves, TASKS), alphas, squared_error, [points(TASKS)] * 2)
    assert_close(adapted["other_head"], normal(3).expand(TASKS, 3), rtol=0, atol=0)
    gradients = torch.autograd.grad(
        squared_error(adapted, points(TASKS, seed=1)).sum() + adapted["other_head"].sum(),
        [leaves["other_head"], leaves["layers.0.weight"]],
    )
    assert_close(gradients[0], torch.full((3,), float(TASKS), dtype=torch.float64), **EXACT)
    assert gradients[1].abs().min() > 0


def test_each_inner_step_reads_its_own_support() -> None:
    params, first, second = initial_params(), points(TASKS), points(TASKS, seed=1)
    alphas = random_step_sizes(params, 2)
    start = expand_to_tasks(params, TASKS)
    together = adapt(start, alphas, squared_error, [first, second])
    middle = adapt(start, alphas[:1], squared_error, [first])
    one_by_one = adapt(middle, alphas[1:], squared_error, [second])
    repeated = adapt(start, alphas, squared_error, [first, first])
    assert_close(together, one_by_one, **EXACT)
    assert (together["layers.1.bias"] - repeated["layers.1.bias"]).abs().min() > 1e-3


def test_steps_and_supports_that_differ_in_number_are_refused() -> None:
    params = initial_params()
    with pytest.raises(ValueError, match="zip"):
        adapt(
            expand_to_tasks(params, TASKS),
            random_step_sizes(params, 2),
            squared_error,
            [points(TASKS)],
        )


@pytest.mark.parametrize("wrong", ["scalar", "column", "per point"])
def test_a_loss_of_the_wrong_shape_is_refused(wrong: str) -> None:
    def loss(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        values = squared_error(params, data)
        return {"scalar": values.mean(), "column": values[:, None], "per point": data[1][..., 0]}[
            wrong
        ]

    params = initial_params()
    with pytest.raises(ValueError, match=r"one value per task, shape \(3,\), but returned"):
        adapt(
            expand_to_tasks(params, TASKS),
            random_step_sizes(params, 1),
            loss,
            [points(TASKS)],
        )


def test_any_torch_module_adapts_as_the_batched_network_does() -> None:
    layers = torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
    module = torch.nn.Sequential(*layers).double()
    ours = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    theirs = [name for name, _ in module.named_parameters()]
    params = initial_params()

    def one_task(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        prediction = torch.func.functional_call(module, params, (data[0],))
        return torch.nn.functional.mse_loss(prediction, data[1])

    alphas, results = random_step_sizes(params, 2), []
    for loss, names in ((per_task(one_task), theirs), (squared_error, ours)):
        renamed = dict(zip(ours, names, strict=True))
        leaves = with_grad({renamed[name]: params[name] for name in ours})
        adapted = adapt(
            expand_to_tasks(leaves, TASKS),
            [{renamed[name]: alpha[name] for name in ours} for alpha in alphas],
            loss,
            [points(TASKS)] * 2,
        )
        outer = loss(adapted, points(TASKS, seed=1)).sum()
        gradients = torch.autograd.grad(outer, list(leaves.values()))
        results.append(([adapted[name] for name in names], gradients))
    assert_close(*results, **EXACT)


def test_adapting_without_gradients_outside_leaves_no_graph_behind() -> None:
    params = initial_params()
    adapted = adapt(
        expand_to_tasks(params, TASKS),
        random_step_sizes(params, 2),
        squared_error,
        [points(TASKS)] * 2,
    )
    assert not any(value.requires_grad for value in adapted.values())
    assert not any(value.requires_grad for value in params.values())
