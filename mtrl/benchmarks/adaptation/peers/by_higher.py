"""higher's `innerloop_ctx`: a patched copy of the module and a differentiable optimiser for each task.

Meta-SGD's step sizes go in as the learning rates of one parameter group per parameter, which higher lets be tensors.
"""

import importlib
from typing import Any

import numpy as np
import torch

__all__ = ["build"]


class _Higher:
    def __init__(self, problem: Any, step_size: float) -> None:
        self._library = importlib.import_module("higher")
        self.version = importlib.import_module("importlib.metadata").version("higher")
        self._problem = problem
        self.synchronize = problem.synchronize
        groups = [{"params": [value]} for value in problem.network.parameters()]
        self._sgd = torch.optim.SGD(groups, lr=step_size)

    def _inner_loop(self, *, track: bool) -> Any:
        override = {"lr": self._problem.step_sizes} if self._problem.learns_step_sizes else None
        return self._library.innerloop_ctx(
            self._problem.network,
            self._sgd,
            copy_initial_weights=False,
            track_higher_grads=track,
            override=override,
        )

    def _backward(self) -> None:
        problem = self._problem
        for x, y, query_x, query_y in problem.tasks():
            with self._inner_loop(track=True) as (network, optimizer):
                for _ in range(problem.steps):
                    optimizer.step(problem.loss(network(x), y))
                (problem.loss(network(query_x), query_y) / problem.count).backward()

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
        """Adapt and predict."""
        for x, y, query_x, _ in self._problem.tasks(tasks):
            with self._inner_loop(track=False) as (network, optimizer):
                for _ in range(self._problem.steps):
                    optimizer.step(self._problem.loss(network(x), y))
                with torch.no_grad():
                    network(query_x)


def build(problem: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Higher:
    """Return higher's meta-step."""
    parts = importlib.import_module("torch_parts")
    return _Higher(parts.TorchProblem(problem, arrays), problem["step_size"])
