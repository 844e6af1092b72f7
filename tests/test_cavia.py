"""CAVIA: only the context adapts, the network learns to use it, and no outer update moves it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_policy import CHOOSING, POLICY
from tiny_regression import EXACT, NETWORK, generator, points
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from mtrl.errors import UsageError
from mtrl.meta.cavia import CAVIA
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.parameters import MetaParams
from mtrl.meta.policy_adaptation import GradientAdaptation
from mtrl.nets import CONTEXT, MLP, Params

TASKS, SIZE = 3, 2


def regressor(learner: CAVIA, network: MLP = NETWORK) -> FewShotAdaptation:
    return FewShotAdaptation(replace(network, context=learner.context_size), learner)


def meta_of(how: FewShotAdaptation) -> MetaParams:
    start = how.initial(generator()).params
    return MetaParams({name: value.double() for name, value in start.items()}, {})


def hand_error(params: Params, context: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return one task's error, the context weights a term of their own."""
    weight = params["layers.0.weight"]
    hidden = x @ weight[:, :2].T + weight[:, 2:] @ context + params["layers.0.bias"]
    output = torch.tanh(hidden) @ params["layers.1.weight"].T + params["layers.1.bias"]
    return (output - y).square().mean()


def hand_gradient(meta: MetaParams, learner: CAVIA, data: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    leaves = {name: value.clone().requires_grad_() for name, value in meta.params.items()}
    losses = []
    for x, y, query_x, query_y in zip(*data, strict=True):
        context = torch.zeros(learner.context_size, dtype=torch.float64, requires_grad=True)
        for _ in range(learner.inner_steps):
            loss = hand_error(leaves, context, x, y)
            (slope,) = torch.autograd.grad(loss, context, create_graph=True)
            slope = slope.detach() if learner.first_order else slope
            context = context - learner.step_size * slope
        losses.append(hand_error(leaves, context, query_x, query_y))
    return torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values()))


def test_every_task_starts_with_a_context_of_zeros() -> None:
    params = regressor(CAVIA()).initial(generator()).params
    assert CONTEXT not in params
    start = CAVIA().start(params, TASKS)
    assert_close(start.pop(CONTEXT), torch.zeros(TASKS, 5), rtol=0, atol=0)
    assert_close(start, {name: v.expand(TASKS, *v.shape) for name, v in params.items()})


def test_adaptation_moves_the_context_of_each_task_and_nothing_else() -> None:
    how = regressor(CAVIA(context_size=SIZE))
    meta, (x, y) = meta_of(how), points(TASKS)
    start, once, twice = how.adapted(meta, (x, y), 2)
    for name in meta.params:
        assert_close(once[name], start[name], rtol=0, atol=0)
        assert_close(twice[name], start[name], rtol=0, atol=0)
    for before, after in ((start, once), (once, twice)):
        for task in range(TASKS):
            context = before[CONTEXT][task].clone().requires_grad_()
            loss = hand_error(meta.params, context, x[task], y[task])
            (slope,) = torch.autograd.grad(loss, context)
            assert_close(after[CONTEXT][task], context.detach() - slope, **EXACT)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_is_that_of_a_loop_over_tasks(steps: int, first_order: bool) -> None:
    learner = CAVIA(context_size=SIZE, inner_steps=steps, first_order=first_order)
    how = regressor(learner)
    meta, data = meta_of(how), (*points(TASKS), *points(TASKS, seed=1))
    gradient = MetaGradient(learner, how.loss, chunk=2)(meta, data).gradient
    found = meta.like(gradient)
    assert not found.step_sizes
    assert_close(tuple(found.params.values()), hand_gradient(meta, learner, data), **EXACT)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_weight_of_the_context_is_learned_through_the_inner_step(first_order: bool) -> None:
    # y = w x + v c + b. With m the mean residual on the support, c' = -2 alpha v m, so that the query loss
    # mean((r - 2 alpha v^2 m)^2) has the derivative -8 alpha v m mean(r - 2 alpha v^2 m) by v; of it half
    # is left where c' counts as a constant.
    learner = CAVIA(context_size=1, step_size=0.3, first_order=first_order)
    how = regressor(learner, MLP((1, 1)))
    meta = meta_of(how)
    x, y, query_x, query_y = (t[:1, :, :1] for t in (*points(1), *points(1, seed=1)))
    (w, v), b = meta.params["layers.0.weight"][0], meta.params["layers.0.bias"]
    mean, residual = (w * x + b - y).mean(), w * query_x + b - query_y
    expected = -8 * 0.3 * v * mean * (residual - 2 * 0.3 * v**2 * mean).mean()
    gradient = MetaGradient(learner, how.loss)(meta, (x, y, query_x, query_y)).gradient
    share = 0.5 if first_order else 1.0
    slope = meta.like(gradient).params["layers.0.weight"][0, 1]
    assert_close(slope, share * expected, **EXACT)


def test_traced_for_the_compiler_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mtrl.meta.compiled.compile_traced",
        lambda function, example: make_fx(function)(*example),
    )
    learner = CAVIA(context_size=SIZE)
    how = regressor(learner)
    meta = meta_of(how)
    traced = MetaGradient(learner, how.loss, compiled=True)
    for seed in (0, 2):
        data = (*points(TASKS, seed=seed), *points(TASKS, seed=seed + 1))
        expected = MetaGradient(learner, how.loss)(meta, data).gradient
        assert_close(traced(meta, data).gradient, expected, **EXACT)


@pytest.mark.parametrize(
    "changes",
    [
        {"context_size": 3},
        {"step_size": 0.5},
        {"later_step_scale": 0.5},
        {"inner_steps": 2},
        {"first_order": True},
    ],
)
def test_every_option_changes_something(changes: dict[str, Any]) -> None:
    def outcome(learner: CAVIA) -> Tensor:
        how = regressor(learner)
        meta, data = meta_of(how), (*points(TASKS), *points(TASKS, seed=1))
        gradient = MetaGradient(learner, how.loss)(meta, data).gradient
        slope = meta.like(gradient).params["layers.1.weight"]
        end = how.adapted(meta, points(TASKS), 2)[-1]
        return torch.cat([slope.flatten(), how.loss(end, points(TASKS, seed=1))])

    plain = CAVIA(context_size=SIZE)
    assert (outcome(plain) - outcome(replace(plain, **changes))).abs().max() > 1e-6


def test_a_network_that_does_not_read_the_context_is_refused() -> None:
    with pytest.raises(UsageError, match="CAVIA sets 5 context parameters and the network has 0"):
        FewShotAdaptation(NETWORK, CAVIA())
    with pytest.raises(UsageError, match="MAML sets 0 context parameters and the network has 2"):
        FewShotAdaptation(replace(NETWORK, context=2), MAML())
    for policy in (POLICY, CHOOSING):
        with pytest.raises(UsageError, match="give the network context=4"):
            GradientAdaptation(policy, CAVIA(context_size=4))
        with pytest.raises(UsageError, match="Meta-SGD sets 0"):
            GradientAdaptation(replace(policy, context=4), MetaSGD())


@pytest.mark.parametrize("name", ["context_size", "inner_steps", "step_size"])
def test_senseless_values_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be at least 1, got 0"):
        CAVIA(**{name: 0})  # type: ignore[arg-type]
