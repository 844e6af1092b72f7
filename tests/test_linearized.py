"""Products with the derivative of adaptation against autograd through the inner loop."""

from itertools import product

import pytest
import torch
from tiny_regression import (
    EXACT,
    initial_params,
    normal,
    points,
    random_step_sizes,
    squared_error,
    with_grad,
)
from torch import Tensor
from torch.testing import assert_close

from mtrl.meta.inner import adapt, expand_to_tasks
from mtrl.meta.linearized import LinearizedAdaptation, linearize_adaptation
from mtrl.nets import Params

TASKS = 3
ALL = ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias")
HEAD = ALL[2:]
# steps, first order, who moves, one step size per value or per tensor.
CASES = list(product((1, 2), (False, True), (ALL, HEAD, ALL[:1]), (False, True)))
each_case = pytest.mark.parametrize(("steps", "first_order", "moving", "shared"), CASES)


def problem(steps: int, moving: tuple[str, ...], shared: bool) -> tuple[Params, list[Params]]:
    params = initial_params()
    alphas = [
        {name: value.mean() if shared else value for name, value in alpha.items() if name in moving}
        for alpha in random_step_sizes(params, steps)
    ]
    return params, alphas


def supports(steps: int) -> list[tuple[Tensor, Tensor]]:
    return [points(TASKS, seed=seed) for seed in range(steps)]


def linearized(
    params: Params, alphas: list[Params], first_order: bool = False
) -> LinearizedAdaptation:
    return linearize_adaptation(
        expand_to_tasks(params, TASKS),
        alphas,
        squared_error,
        supports(len(alphas)),
        first_order=first_order,
    )


def adapted(params: Params, alphas: list[Params], first_order: bool = False) -> Params:
    start = expand_to_tasks(params, TASKS)
    data = supports(len(alphas))
    return adapt(start, alphas, squared_error, data, first_order=first_order)


def like(params: Params, seed: int) -> Params:
    return {
        name: normal(*value.shape, seed=seed + i) for i, (name, value) in enumerate(params.items())
    }


def dot(a: Params, b: Params) -> Tensor:
    return sum(((a[name] * b[name]).sum() for name in a), torch.zeros((), dtype=torch.float64))


@each_case
def test_the_linearised_point_is_the_adapted_one(
    steps: int, first_order: bool, moving: tuple[str, ...], shared: bool
) -> None:
    params, alphas = problem(steps, moving, shared)
    ours = linearized(params, alphas, first_order).adapted
    assert_close(ours, adapted(params, alphas, first_order), **EXACT)
    assert not any(value.requires_grad for value in ours.values())


@each_case
def test_pull_is_the_gradient_through_the_inner_loop(
    steps: int, first_order: bool, moving: tuple[str, ...], shared: bool
) -> None:
    params, alphas = problem(steps, moving, shared)
    leaves, sizes = with_grad(params), [with_grad(alpha) for alpha in alphas]
    end = adapted(leaves, sizes, first_order)
    cotangent = like(end, seed=3)
    inputs = [*leaves.values(), *(value for alpha in sizes for value in alpha.values())]
    expected = torch.autograd.grad(dot(cotangent, end), inputs)
    d_params, d_alphas = linearized(params, alphas, first_order).pull(cotangent)
    actual = [*d_params.values(), *(value for alpha in d_alphas for value in alpha.values())]
    assert_close(actual, list(expected), **EXACT)


@each_case
def test_push_and_pull_are_each_others_transposes(
    steps: int, first_order: bool, moving: tuple[str, ...], shared: bool
) -> None:
    params, alphas = problem(steps, moving, shared)
    at = linearized(params, alphas, first_order)
    cotangent, d_params = like(at.adapted, seed=3), like(params, seed=9)
    d_alphas = [like(alpha, seed=20 + step) for step, alpha in enumerate(alphas)]
    pulled, pulled_alphas = at.pull(cotangent)
    there = dot(cotangent, at.push(d_params, d_alphas))
    back = dot(pulled, d_params) + sum(map(dot, pulled_alphas, d_alphas))
    assert_close(there, back, **EXACT)


@pytest.mark.parametrize("moving", [ALL, HEAD])
@pytest.mark.parametrize("steps", [1, 2])
def test_push_is_the_finite_difference(steps: int, moving: tuple[str, ...]) -> None:
    params, alphas = problem(steps, moving, shared=False)
    d_params, d_alphas = like(params, 9), [like(alpha, 20 + i) for i, alpha in enumerate(alphas)]
    h = 1e-5

    def moved(sign: float) -> Params:
        there = {name: value + sign * h * d_params[name] for name, value in params.items()}
        sizes = [
            {name: value + sign * h * change[name] for name, value in alpha.items()}
            for alpha, change in zip(alphas, d_alphas, strict=True)
        ]
        return adapted(there, sizes)

    ahead, behind = moved(1.0), moved(-1.0)
    expected = {name: (ahead[name] - behind[name]) / (2 * h) for name in params}
    # Central differences: h^2 = 1e-10 times third derivatives, and rounding 1e-16 / h = 1e-11.
    assert_close(linearized(params, alphas).push(d_params, d_alphas), expected, rtol=0, atol=1e-7)


def test_the_products_can_be_taken_again_and_again() -> None:
    params, alphas = problem(2, ALL, shared=False)
    at = linearized(params, alphas)
    cotangent = like(at.adapted, seed=3)
    assert_close(at.pull(cotangent), at.pull(cotangent), rtol=0, atol=0)


def test_an_unused_head_and_a_linear_loss_have_no_curvature() -> None:
    # Neither gradient depends on any parameter: d theta' = d theta - d alpha * g.
    params = {"theta": normal(3, seed=1), "other_head": normal(2, seed=2)}
    slopes = normal(TASKS, 3, seed=4)

    def loss(params: Params, slopes: Tensor) -> Tensor:
        return (params["theta"] * slopes).sum(1)

    alpha, cotangent = like(params, seed=5), like(expand_to_tasks(params, TASKS), seed=7)
    at = linearize_adaptation(expand_to_tasks(params, TASKS), [alpha], loss, [slopes])
    d_params, (d_alpha,) = at.pull(cotangent)
    assert_close(d_params, {name: value.sum(0) for name, value in cotangent.items()}, **EXACT)
    assert_close(d_alpha["theta"], -(cotangent["theta"] * slopes).sum(0), **EXACT)
    assert_close(d_alpha["other_head"], torch.zeros(2, dtype=torch.float64), **EXACT)
    pushed = at.push(params, [alpha])
    assert_close(pushed["theta"], params["theta"] - alpha["theta"] * slopes, **EXACT)
    assert_close(pushed["other_head"], params["other_head"].expand(TASKS, 2), **EXACT)


def test_an_unused_head_beside_a_curved_loss_does_not_disturb_it() -> None:
    params, alphas = problem(2, ALL, shared=False)
    wider = params | {"other_head": normal(2)}
    wider_alphas = [alpha | {"other_head": normal(2, seed=3)} for alpha in alphas]
    at, plain = linearized(wider, wider_alphas), linearized(params, alphas)
    cotangent = like(at.adapted, seed=3)
    d_wider, _ = at.pull(cotangent)
    d_plain, _ = plain.pull({name: cotangent[name] for name in params})
    assert_close({name: d_wider[name] for name in params}, d_plain, **EXACT)


# Hessians from a part of the data


def test_smaller_supports_change_the_hessian_and_nothing_else() -> None:
    params, alphas = problem(1, ALL, False)
    start, whole = expand_to_tasks(params, TASKS), supports(1)
    part = [(x[:, :2], y[:, :2]) for x, y in whole]
    full = linearize_adaptation(start, alphas, squared_error, whole)
    thinned = full.with_curvature(squared_error, part)
    only_part = linearize_adaptation(start, alphas, squared_error, part)
    still = {name: torch.zeros_like(value) for name, value in params.items()}
    change = like(params, seed=50)
    fixed = [{name: torch.zeros_like(value) for name, value in alphas[0].items()}]
    for name in params:
        assert_close(thinned.adapted[name], full.adapted[name], **EXACT)
        by_step_sizes = full.push(still, [change])[name]
        assert_close(thinned.push(still, [change])[name], by_step_sizes, **EXACT)
        by_params = only_part.push(change, fixed)[name]
        assert_close(thinned.push(change, fixed)[name], by_params, **EXACT)
    assert dot(full.push(change, fixed), change) != dot(thinned.push(change, fixed), change)
