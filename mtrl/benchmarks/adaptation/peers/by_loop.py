"""A loop over tasks written by hand with `torch.func.functional_call`, as tutorials have it."""

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

__all__ = ["build"]


class _Loop:
    version = torch.__version__

    def __init__(self, problem: Any) -> None:
        self._problem = problem
        self.synchronize = problem.synchronize

    def _adapted(self, x: Tensor, y: Tensor, *, create_graph: bool) -> dict[str, Tensor]:
        problem = self._problem
        params = dict(problem.network.named_parameters())
        for _ in range(problem.steps):
            loss = problem.loss(functional_call(problem.network, params, (x,)), y)
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph)
            params = {
                name: value - alpha * gradient
                for (name, value), alpha, gradient in zip(
                    params.items(), problem.step_sizes, gradients, strict=True
                )
            }
        return params

    def _backward(self) -> None:
        problem = self._problem
        for x, y, query_x, query_y in problem.tasks():
            params = self._adapted(x, y, create_graph=not problem.first_order)
            predicted = functional_call(problem.network, params, (query_x,))
            (problem.loss(predicted, query_y) / problem.count).backward()

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
            params = self._adapted(x, y, create_graph=False)
            with torch.no_grad():
                functional_call(self._problem.network, params, (query_x,))


def build(problem: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Loop:
    """Return the loop."""
    parts = importlib.import_module("torch_parts")
    return _Loop(parts.TorchProblem(problem, arrays))
