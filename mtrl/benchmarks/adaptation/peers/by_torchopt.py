"""TorchOpt's differentiable optimisers: one `MetaOptimizer` step per inner step, the module put back after each task.

What TorchOpt calls `MetaSGD` is differentiable SGD. Meta-SGD's step size per parameter is a transformation of the
gradients that its `MetaOptimizer` takes as it takes its own.
"""

import importlib
from typing import Any

import numpy as np

__all__ = ["build"]


class _TorchOpt:
    def __init__(self, problem: Any, step_size: float) -> None:
        self._library = importlib.import_module("torchopt")
        self.version = str(self._library.__version__)
        self._problem, self._step_size = problem, step_size
        self.synchronize = problem.synchronize
        self._order = self._order_of_parameters()

    def _order_of_parameters(self) -> list[int]:
        """Return where among the network's parameters those stand that an optimiser meets, in its order."""
        network, pytree = self._problem.network, importlib.import_module("torchopt.pytree")
        (containers,) = self._library.MetaSGD(network, lr=1.0).param_containers_groups
        places = {id(value): i for i, value in enumerate(network.parameters())}
        return [places[id(value)] for value in pytree.tree_leaves(containers)]

    def _optimizer(self) -> Any:
        network, library = self._problem.network, self._library
        if not self._problem.learns_step_sizes:
            return library.MetaSGD(network, lr=self._step_size)

        sizes = [self._problem.step_sizes[i] for i in self._order]

        def update(grads: Any, state: Any, *, params: Any = None, inplace: bool = True) -> Any:
            return tuple(-a * g for a, g in zip(sizes, grads, strict=True)), state

        transformation = importlib.import_module("torchopt.base").GradientTransformation
        return library.MetaOptimizer(network, transformation(lambda params: (), update))

    def _predicted(self, x: Any, y: Any, query_x: Any) -> Any:
        problem, optimizer = self._problem, self._optimizer()
        for _ in range(problem.steps):
            optimizer.step(problem.loss(problem.network(x), y))
        return problem.network(query_x)

    def _backward(self) -> None:
        problem, library = self._problem, self._library
        start = library.extract_state_dict(problem.network, by="reference")
        for x, y, query_x, query_y in problem.tasks():
            loss = problem.loss(self._predicted(x, y, query_x), query_y) / problem.count
            library.recover_state_dict(problem.network, start)
            loss.backward()

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
        """Adapt and predict; TorchOpt builds the graph of derivatives all the same."""
        problem, library = self._problem, self._library
        start = library.extract_state_dict(problem.network, by="reference")
        for x, y, query_x, _ in problem.tasks(tasks):
            self._predicted(x, y, query_x)
            library.recover_state_dict(problem.network, start)


def build(problem: dict[str, Any], arrays: dict[str, np.ndarray]) -> _TorchOpt:
    """Return TorchOpt's meta-step."""
    parts = importlib.import_module("torch_parts")
    return _TorchOpt(parts.TorchProblem(problem, arrays), problem["step_size"])
