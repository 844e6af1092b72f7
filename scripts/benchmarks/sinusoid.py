"""Meta-SGD's meta-step on the sinusoid: adapt to every task, differentiate through it, update with Adam.

The network is 1-40-40-1 with ReLU, the inner loop one second-order step on 10 points, the outer loss the
mean squared error on 10 others. The data is the same for all and already there.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.measure import Build
from torch import Tensor
from torch.nn.functional import mse_loss

from mtrl.envs.sinusoid import Sinusoid
from mtrl.errors import UsageError
from mtrl.meta.few_shot import FewShotAdaptation
from mtrl.meta.gradient import FewShotTensors, MetaGradient
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import AdamUpdate
from mtrl.meta.parameters import MetaParams
from mtrl.nets import MLP

__all__ = ["PEER", "builds", "disagreement"]

PEER = "learn2learn 0.2.0"
SHOTS, STEP_SIZE, LEARNING_RATE = 10, 0.01, 1e-3
TESTS = Path(__file__).resolve().parents[2] / "tests"


def builds(tasks: int, *, compiled: bool) -> dict[str, Build]:
    """Return the variants by name, the peer first."""
    found = {PEER: Build(_their_step, (tasks,)), "mtrl": Build(_our_step, (tasks, False))}
    return found | ({"mtrl, compiled": Build(_our_step, (tasks, True))} if compiled else {})


def data(tasks: int, dtype: torch.dtype = torch.float32) -> FewShotTensors:
    """Draw support x and y, query x and y of `tasks` tasks, each (tasks, 10, 1)."""
    family = Sinusoid()
    params = family.sample_params(tasks, np.random.default_rng(0), "train")
    support, query = family.draw(params, SHOTS, SHOTS, torch.Generator().manual_seed(1))
    return tuple(part.to(dtype) for part in (*support, *query))


def adaptation() -> FewShotAdaptation:
    """Return our network and learner."""
    return FewShotAdaptation(MLP((1, 40, 40, 1)), MetaSGD(initial_step_size=(STEP_SIZE, STEP_SIZE)))


def start(dtype: torch.dtype = torch.float32) -> MetaParams:
    """Return the meta-parameters that every variant starts from."""
    meta = adaptation().initial(torch.Generator().manual_seed(0))
    return MetaParams.from_named({name: value.to(dtype) for name, value in meta.named().items()})


def _our_step(tasks: int, compiled: bool) -> Callable[[], Any]:
    how, meta, points = adaptation(), start(), data(tasks)
    gradient = MetaGradient(how.learner, how.loss, compiled=compiled)
    update = AdamUpdate(meta, LEARNING_RATE)
    return lambda: update.step(gradient(meta, points).gradient, LEARNING_RATE)


def their_learner(meta: MetaParams) -> Any:
    """Return learn2learn's `MetaSGD` with the parameters and step sizes of `meta`.

    Raises:
        UsageError: learn2learn is not there.
    """
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    network = torch.nn.Sequential(linear(1, 40), relu(), linear(40, 40), relu(), linear(40, 1))
    learner = _learn2learn().MetaSGD(network.to(meta.flat().dtype), lr=STEP_SIZE)
    with torch.no_grad():
        for theirs, ours in zip(learner.parameters(), meta.named().values(), strict=True):
            theirs.copy_(ours)
    return learner


def _learn2learn() -> Any:
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    from peers import load_learn2learn

    try:
        return load_learn2learn()
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error


def _their_gradient(learner: Any, points: FewShotTensors) -> None:
    tasks = len(points[0])
    for support_x, support_y, query_x, query_y in zip(*points, strict=True):
        clone = learner.clone()
        clone.adapt(mse_loss(clone(support_x), support_y))
        (mse_loss(clone(query_x), query_y) / tasks).backward()


def _their_step(tasks: int) -> Callable[[], Any]:
    learner, points = their_learner(start()), data(tasks)
    optimizer = torch.optim.Adam(learner.parameters(), LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        _their_gradient(learner, points)
        optimizer.step()

    return step


def disagreement(tasks: int, dtype: torch.dtype, *, compiled: bool = False) -> float:
    """Return the largest difference of our meta-gradient from learn2learn's, over its largest entry."""
    meta, points, how = start(dtype), data(tasks, dtype), adaptation()
    ours = MetaGradient(how.learner, how.loss, compiled=compiled)(meta, points).gradient
    learner = their_learner(meta)
    _their_gradient(learner, points)
    theirs: list[Tensor] = [value.grad for value in learner.parameters()]
    largest = max(value.abs().max().item() for value in theirs)
    pairs = zip(ours.values(), theirs, strict=True)
    return max((own - other).abs().max().item() for own, other in pairs) / largest
