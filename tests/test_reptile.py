"""Reptile: its definition task by task, what one inner step makes of it, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from tiny_regression import EXACT, initial_params, normal, one_task_error, points, squared_error
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from mtrl.errors import UsageError
from mtrl.meta.gradient import FewShotTensors
from mtrl.meta.outer import DescentUpdate
from mtrl.meta.parameters import MetaParams
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.reptile import Reptile, ReptileGradient, minibatches
from mtrl.nets import Params

TASKS, SHOTS, POINTS = 5, 4, 10


def data(seed: int = 0) -> FewShotTensors:
    x, y = points(TASKS, POINTS, seed=seed)
    return x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:]


def trained(learner: Reptile, x: Tensor, y: Tensor) -> Params:
    """Return theta_k of one task with torch's own SGD, on its points in order and round again."""
    params = {name: value.clone().requires_grad_() for name, value in initial_params().items()}
    sgd = torch.optim.SGD(list(params.values()), lr=learner.step_size)
    order = list(range(POINTS)) * learner.inner_steps
    for step in range(learner.inner_steps):
        some = order[SHOTS * step : SHOTS * (step + 1)]
        sgd.zero_grad()
        one_task_error(params, (x[some], y[some])).backward()
        sgd.step()
    return {name: value.detach() for name, value in params.items()}


@pytest.mark.parametrize("chunk", [2, TASKS])
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_it_is_theta_minus_the_mean_of_what_tasks_train(steps: int, chunk: int) -> None:
    learner = Reptile(step_size=0.3, inner_steps=steps)
    support_x, support_y, query_x, query_y = data()
    x, y = torch.cat([support_x, query_x], 1), torch.cat([support_y, query_y], 1)
    ends = [trained(learner, *task) for task in zip(x, y, strict=True)]
    meta = MetaParams(initial_params(), {})
    outcome = ReptileGradient(learner, squared_error, chunk=chunk)(meta, data())
    gradient = meta.like(outcome.gradient).params
    for name, value in initial_params().items():
        mean = torch.stack([end[name] for end in ends]).mean(0)
        assert_close(gradient[name], value - mean, **EXACT)
    query = zip(ends, query_x, query_y, strict=True)
    losses = torch.stack([one_task_error(end, (x, y)) for end, x, y in query])
    assert_close(outcome.loss, losses.mean(), **EXACT)


def test_with_one_step_it_is_joint_training() -> None:
    # theta - theta_1 = alpha times the gradient of the mean loss, as if all tasks were one.
    learner = Reptile(step_size=0.3, inner_steps=1)
    leaves = {name: value.requires_grad_() for name, value in initial_params().items()}
    support = data()[:2]
    loss = torch.stack([one_task_error(leaves, task) for task in zip(*support, strict=True)]).mean()
    joint = torch.autograd.grad(loss, list(leaves.values()))
    meta = MetaParams(initial_params(), {})
    gradient = meta.like(ReptileGradient(learner, squared_error)(meta, data()).gradient)
    for ours, theirs in zip(gradient.params.values(), joint, strict=True):
        assert_close(ours, 0.3 * theirs, **EXACT)


def test_interpolation_goes_the_share_of_the_way_to_the_mean() -> None:
    meta, learner = MetaParams(initial_params(), {}), Reptile(step_size=0.3)
    gradient = ReptileGradient(learner, squared_error)(meta, data()).gradient
    update = DescentUpdate(meta)
    update.step(gradient, 0.25)
    for name, value in initial_params().items():
        mean = value - meta.like(gradient).params[name]
        assert_close(meta.params[name], 0.75 * value + 0.25 * mean, **EXACT)
    assert update.tensors() == {}


def test_traced_for_the_compiler_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mtrl.meta.compiled.compile_traced",
        lambda function, example: make_fx(function)(*example),
    )
    meta, learner = MetaParams(initial_params(), {}), Reptile(step_size=0.3)
    traced = ReptileGradient(learner, squared_error, compiled=True)
    for seed in (0, 2):
        expected = ReptileGradient(learner, squared_error)(meta, data(seed)).gradient
        assert_close(traced(meta, data(seed)).gradient, expected, **EXACT)


def test_minibatches_take_the_points_in_order_and_round_again() -> None:
    x = normal(2, 5, 3)
    batches = minibatches(x, x[..., :1], 2, 4)
    for (some, labels), chosen in zip(batches, ([0, 1], [2, 3], [4, 0], [1, 2]), strict=True):
        assert_close(some, x[:, chosen], rtol=0, atol=0)
        assert_close(labels, x[:, chosen, :1], rtol=0, atol=0)


def test_reinforcement_learning_is_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match="Reptile has no form for .*; use MAML with first_order"):
        replace(ReinforcementConfig(), learner=Reptile())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["step_size", "inner_steps"])
def test_senseless_values_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be at least 1, got 0"):
        Reptile(**{name: 0})  # type: ignore[arg-type]
