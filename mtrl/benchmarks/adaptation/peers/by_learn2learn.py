"""learn2learn 0.2.0's `MAML` and `MetaSGD`, used as its examples do: clone, adapt and backward for each task."""

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

__all__ = ["build", "load"]


def load(package: Path) -> SimpleNamespace:
    """Return learn2learn's `MAML`, `MetaSGD`, `maml_update` and `meta_sgd_update` from its folder `package`.

    Its package __init__ would need gym and torchvision, so the two modules are imported below empty packages, which
    are taken out of `sys.modules` again: a complete learn2learn is not disturbed.
    """
    places = {"learn2learn": package, "learn2learn.algorithms": package / "algorithms"}
    with _empty_packages(places):
        maml = importlib.import_module("learn2learn.algorithms.maml")
        meta_sgd = importlib.import_module("learn2learn.algorithms.meta_sgd")
    return SimpleNamespace(
        MAML=maml.MAML,
        MetaSGD=meta_sgd.MetaSGD,
        maml_update=maml.maml_update,
        meta_sgd_update=meta_sgd.meta_sgd_update,
    )


@contextmanager
def _empty_packages(places: dict[str, Path]) -> Iterator[None]:
    before = _pop_learn2learn()
    for name, place in places.items():
        package = types.ModuleType(name)
        package.__path__ = [str(place)]
        sys.modules[name] = package
    try:
        yield
    finally:
        _pop_learn2learn()
        sys.modules.update(before)


def _pop_learn2learn() -> dict[str, types.ModuleType]:
    names = [n for n in sys.modules if n == "learn2learn" or n.startswith("learn2learn.")]
    return {name: sys.modules.pop(name) for name in names}


class _Learn2Learn:
    version = "0.2.0"

    def __init__(self, problem: Any, library: SimpleNamespace, step_size: float) -> None:
        self._problem = problem
        self.synchronize = problem.synchronize
        self._step_size = step_size
        if problem.learns_step_sizes:
            self._learner = library.MetaSGD(problem.network, lr=step_size)
            # Its own step sizes, so that its Adam moves the tensors that it adapts with.
            with torch.no_grad():
                for theirs, ours in zip(self._learner.lrs, problem.step_sizes, strict=True):
                    theirs.copy_(ours)
            problem.adopt_step_sizes(list(self._learner.lrs))
        else:
            self._learner = library.MAML(
                problem.network, lr=step_size, first_order=problem.first_order
            )

    def _adapted(self, x: Any, y: Any, **options: bool) -> Any:
        clone = self._learner.clone(**options)
        for _ in range(self._problem.steps):
            clone.adapt(self._problem.loss(clone(x), y))
        return clone

    def _backward(self) -> None:
        for x, y, query_x, query_y in self._problem.tasks():
            clone = self._adapted(x, y)
            (self._problem.loss(clone(query_x), query_y) / self._problem.count).backward()

    def gradient(self) -> list[np.ndarray]:
        """Return the meta-gradient."""
        self._backward()
        gradient: list[np.ndarray] = self._problem.take_gradient()
        return gradient

    def step(self) -> None:
        """Take a meta-step."""
        self._backward()
        self._problem.update()

    def adapt(self, tasks: int) -> None:
        """Adapt, in its first-order mode, which builds no graph of gradients, and predict."""
        for x, y, query_x, _ in self._problem.tasks(tasks):
            if self._problem.learns_step_sizes:
                clone = self._adapted(x, y)
            else:
                clone = self._adapted(x, y, first_order=True)
            with torch.no_grad():
                clone(query_x)


def build(problem: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Learn2Learn:
    """Return learn2learn's meta-step."""
    parts = importlib.import_module("torch_parts")
    library = load(Path(problem["folder"]) / "learn2learn")
    return _Learn2Learn(parts.TorchProblem(problem, arrays), library, problem["step_size"])
