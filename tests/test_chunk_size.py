"""Bytes that live at the same time are counted, and as many tasks worked on at once as their bound allows."""

from collections.abc import Callable

import pytest
import torch
from tiny_regression import EXACT, meta_params, points, squared_error
from torch import Tensor
from torch.testing import assert_close

from mtrl.meta.chunk_size import CACHE_BOUND, default_bound, peak_bytes, tasks_at_once
from mtrl.meta.gradient import MetaGradient
from mtrl.meta.meta_sgd import MetaSGD

FLOAT = 4
TASKS = 12


def test_what_lives_at_the_same_time_counts_once() -> None:
    given = torch.ones(500)

    def work() -> Tensor:
        first = given + 1  # 500 live
        second = torch.cat([first, first])  # 1500 live, the most
        view = second.view(10, 100)
        del first, second
        view.add_(1)
        third = given * 2  # 1500 again
        del view
        return third + given  # 1000

    assert peak_bytes(work) == 1500 * FLOAT


def test_what_the_derivative_keeps_counts() -> None:
    x = torch.ones(1000, requires_grad=True)
    kept = peak_bytes(lambda: [x.exp().sin()])
    dropped = peak_bytes(lambda: [x.detach().exp().sin()])
    # exp's result is its own derivative, and sin's argument.
    assert kept == dropped == 2000 * FLOAT
    chain = peak_bytes(lambda: [x.exp().exp().exp()])
    assert chain == 3000 * FLOAT > peak_bytes(lambda: [x.detach().exp().exp().exp()])


def holding(fixed: int, each: int) -> Callable[[int], Tensor]:
    def gradient(tasks: int) -> Tensor:
        return torch.empty(fixed + each * tasks, dtype=torch.uint8)

    return gradient


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        (0, 1),  # one task is worked on even if it takes more
        (1000 + 100, 1),
        (1000 + 399, 3),
        (1000 + 400, 4),
        (1000 + 700, 6),  # 7 would leave chunks of 7 and 5
        (1000 + 1100, 6),
        (1000 + 1200, 12),
        (10**9, 12),
    ],
)
def test_the_bound_decides_and_chunks_are_alike(bound: int, expected: int) -> None:
    assert tasks_at_once(holding(1000, 100), TASKS, bound) == expected


def test_one_task_alone_is_not_measured() -> None:
    assert tasks_at_once(lambda tasks: 1 / 0, 1, 100) == 1


def test_the_default_is_what_caches_hold() -> None:
    assert default_bound(torch.device("cpu")) == CACHE_BOUND


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_a_meta_gradient_keeps_to_its_bound(share: float) -> None:
    learner = MetaSGD(inner_steps=2)
    meta, data = meta_params(learner), (*points(TASKS), *points(TASKS, seed=1))
    whole = MetaGradient(learner, squared_error, chunk=TASKS)
    bound = int(share * peak_bytes(lambda: whole(meta, data)))
    ours = MetaGradient(learner, squared_error, memory=bound)
    found = ours(meta, data)
    assert ours.chunk is not None
    assert (ours.chunk == TASKS) == (share == 1.0)
    assert_close(found.gradient, whole(meta, data).gradient, **EXACT)
    assert peak_bytes(lambda: ours(meta, data)) <= 1.1 * bound
