"""Importances of parameters against closed forms and against an explicit sum over actions."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.testing import assert_close

from mtrl.agents.incremental.acting import ActingNetwork, OutputKind, States
from mtrl.agents.incremental.importance import fisher, memory_aware, quadratic_gradient
from mtrl.agents.networks import MLP, OneHot, PerTask, Shared, TaskInput, TaskSpec, Trunk

SPEC = TaskSpec(tasks=2)
SIZE, ACTIONS, ROWS = 3, 4, 37


class Same(Trunk):
    """Features are the observation."""

    def encode(self, observations: Tensor, task: TaskInput) -> Tensor:
        return observations


def states() -> States:
    chance = torch.Generator().manual_seed(1)
    observations = torch.randn(ROWS, SIZE, generator=chance, dtype=torch.float64)
    index = torch.arange(ROWS) % 2
    return States(observations, index, torch.eye(2, dtype=torch.float64)[index])


def linear(kind: OutputKind, log_std: bool = False) -> ActingNetwork:
    chance = torch.Generator().manual_seed(0)
    head = Shared().build(SIZE, ACTIONS, SPEC, chance)
    deviation = nn.Parameter(torch.linspace(-1.0, 0.5, ACTIONS)) if log_std else None
    return ActingNetwork(kind, Same((SIZE,), SIZE), head, deviation).double()


def deep(kind: OutputKind, log_std: bool) -> ActingNetwork:
    chance = torch.Generator().manual_seed(3)
    config = MLP(hidden=(5, 4), activation="tanh")
    trunk = config.build((SIZE,), OneHot(), SPEC, chance)
    head = PerTask().build(4, 2, SPEC, chance)
    deviation = nn.Parameter(torch.tensor([-0.3, 0.4])) if log_std else None
    return ActingNetwork(kind, trunk, head, deviation).double()


def test_softmax_policy_has_the_closed_form() -> None:
    network, seen = linear("logits"), states()
    found = fisher(network, seen, rows=8)
    chances = network(*seen.columns()).softmax(1)
    spread = chances * (1 - chances)
    weight = torch.einsum("ba,bi->ai", spread, seen.observations.square()) / ROWS
    assert_close(found["head.affine.weight"][0], weight, rtol=0, atol=1e-14)
    assert_close(found["head.affine.bias"][0], spread.mean(0), rtol=0, atol=1e-14)


def test_gaussian_policy_has_the_closed_form() -> None:
    network, seen = linear("gaussian", log_std=True), states()
    found = fisher(network, seen)
    assert network.log_std is not None
    precision = (-2 * network.log_std.detach()).exp()
    weight = precision[:, None] * seen.observations.square().mean(0)
    assert_close(found["head.affine.weight"][0], weight, rtol=0, atol=1e-12)
    assert_close(found["head.affine.bias"][0], precision, rtol=0, atol=1e-12)
    # d log p / d log_std = (noise^2 - 1), of variance 2 whatever the state.
    assert_close(found["log_std"], torch.full((ACTIONS,), 2.0).double(), rtol=0, atol=1e-14)


def test_deviations_that_depend_on_the_state_count_twice() -> None:
    network, seen = linear("gaussian"), states()
    found = fisher(network, seen)["head.affine.weight"][0]
    log_std = network(*seen.columns())[:, ACTIONS // 2 :]
    squares = seen.observations.square()
    means = torch.einsum("bd,bi->di", (-2 * log_std).exp(), squares) / ROWS
    assert_close(found[: ACTIONS // 2], means, rtol=0, atol=1e-12)
    twice = (2 * squares.mean(0)).expand(ACTIONS // 2, -1)
    assert_close(found[ACTIONS // 2 :], twice, rtol=0, atol=1e-12)


def test_values_have_that_of_noise_of_variance_1() -> None:
    network, seen = linear("values"), states()
    squares = seen.observations.square().mean(0).expand(ACTIONS, -1)
    found = fisher(network, seen)["head.affine.weight"][0]
    assert_close(found, squares, rtol=0, atol=1e-13)


def per_sample(network: ActingNetwork, log_prob: Tensor) -> list[Tensor]:
    """Return the squared gradients of one log-probability."""
    parts = list(network.parameters())
    found = torch.autograd.grad(log_prob, parts, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g.square() for p, g in zip(parts, found, strict=True)
    ]


def test_a_deep_softmax_is_the_explicit_sum_over_states_and_actions() -> None:
    network, seen = deep("logits", False), states()
    outputs = network(*seen.columns())
    expected: Any = [torch.zeros_like(part) for part in network.parameters()]
    for row in outputs:
        log_probs = row.log_softmax(0)
        for log_prob in log_probs:
            squares = per_sample(network, log_prob)
            chance = log_prob.detach().exp() / ROWS
            expected = [e + chance * s for e, s in zip(expected, squares, strict=True)]
    found = fisher(network, seen, rows=5)
    for (name, _), value in zip(network.named_parameters(), expected, strict=True):
        assert_close(found[name], value, rtol=0, atol=1e-14, msg=name)


@pytest.mark.parametrize("kind", ["logits", "gaussian"])
def test_squared_gradients_of_sampled_actions_approach_it(kind: OutputKind) -> None:
    network = deep(kind, kind == "gaussian")
    all_states = states()
    seen = States(*(column[:3] for column in all_states.columns()))
    outputs = network(*seen.columns())
    torch.manual_seed(0)
    draws, totals = 400, [torch.zeros_like(part) for part in network.parameters()]
    for row in outputs:
        chosen: Any = Categorical(logits=row)
        if kind == "gaussian":
            mean, log_std = row.chunk(2)
            chosen = Normal(mean, log_std.exp())
        for _ in range(draws):
            log_prob = chosen.log_prob(chosen.sample()).sum()
            squares = per_sample(network, log_prob)
            totals = [t + s / (3 * draws) for t, s in zip(totals, squares, strict=True)]
    exact = torch.cat([each.flatten() for each in fisher(network, seen).values()])
    sampled = torch.cat([each.flatten() for each in totals])
    # 1200 draws leave less than a tenth of the length.
    assert (sampled - exact).norm() < 0.15 * exact.norm()


def test_the_squared_gradient_of_a_batch_is_another_quantity() -> None:
    network, seen = deep("logits", False), states()
    log_probs = network(*seen.columns()).log_softmax(1)
    loss = (log_probs.detach().exp() * log_probs).sum(1).mean() - log_probs.detach().mean()
    wrong = torch.cat([each.flatten() for each in per_sample(network, loss)])
    exact = torch.cat([each.flatten() for each in fisher(network, seen).values()])
    assert wrong.norm() < 0.2 * exact.norm()


def test_memory_aware_importance_has_the_closed_form() -> None:
    network, seen = linear("values"), states()
    outputs = network(*seen.columns())
    each = 2 * outputs[:, :, None] * seen.observations[:, None, :]
    found = memory_aware(network, seen, rows=10)
    assert_close(found["head.affine.weight"][0], each.abs().mean(0), rtol=0, atol=1e-13)
    assert_close(found["head.affine.bias"][0], 2 * outputs.abs().mean(0), rtol=0, atol=1e-13)
    # Not the size of the mean, which is smaller where signs differ.
    assert (each.mean(0).abs() < each.abs().mean(0) - 1e-3).any()


def test_the_penalty_gradient_has_hand_values() -> None:
    importance, at, anchor = torch.tensor([[1.0, 0.5, 4.0], [3.0, 2.0, 1.0], [1.0, 2.0, 0.0]])
    found = quadratic_gradient(10.0, importance, at, anchor)
    # 2 * 10 * importance * (at - anchor)
    assert_close(found, torch.tensor([40.0, 0.0, 80.0]), rtol=0, atol=0)
