"""JAX: one task as a pure function, `vmap` over tasks, `grad` through it, all under `jit`, and Adam written out."""

import importlib
import os
from typing import Any

import numpy as np

__all__ = ["build"]


class _Jax:
    def __init__(self, problem: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        if problem["threads"] == 1:
            os.environ["XLA_FLAGS"] = (
                "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
            )
        self._jax: Any = importlib.import_module("jax")
        self._np: Any = importlib.import_module("jax.numpy")
        self.version = str(self._jax.__version__)
        self._jax.config.update("jax_enable_x64", problem["dtype"] == "float64")
        platform = "cpu" if problem["device"] == "cpu" else "gpu"
        self._device = self._jax.devices(platform)[0]
        self._problem = problem
        count = len(problem["sizes"]) * 2 - 2
        self._learns = problem["learner"] == "meta-sgd"
        params, alphas = ([self._array(arrays[f"{k}{i}"]) for i in range(count)] for k in "pa")
        self._fixed = alphas
        self._learned = params + (alphas if self._learns else [])
        names = ("support_x", "support_y", "query_x", "query_y")
        self._points = [self._array(arrays[name]) for name in names]
        self._one = [part[:1] for part in self._points]
        # Copies, since a step gives away the buffers that it is given.
        start = [self._np.array(value) for value in self._learned]
        moments = ([self._np.zeros_like(value) for value in start] for _ in range(2))
        self._state = (start, *moments, self._array(np.zeros(())))
        self._gradient = self._jax.jit(self._jax.grad(self._loss))
        self._step = self._jax.jit(self._adam_step, donate_argnums=0)
        self._predict = self._jax.jit(self._predictions)

    def _array(self, values: np.ndarray) -> Any:
        return self._jax.device_put(
            self._np.asarray(values, getattr(self._np, self._problem["dtype"])), self._device
        )

    def _forward(self, params: Any, x: Any) -> Any:
        activate = {"relu": self._jax.nn.relu, "tanh": self._np.tanh}[self._problem["activation"]]
        for i in range(0, len(params), 2):
            x = x @ params[i].T + params[i + 1]
            x = activate(x) if i < len(params) - 2 else x
        return x

    def _error(self, params: Any, x: Any, y: Any) -> Any:
        return self._np.square(self._forward(params, x) - y).mean()

    def _adapted(self, learned: Any, x: Any, y: Any) -> Any:
        count = len(self._fixed)
        params, alphas = learned[:count], learned[count:] if self._learns else self._fixed
        for _ in range(self._problem["inner_steps"]):
            gradients = self._jax.grad(self._error)(params, x, y)
            if self._problem["learner"] == "fomaml":
                gradients = self._jax.lax.stop_gradient(gradients)
            params = [p - a * g for p, a, g in zip(params, alphas, gradients, strict=True)]
        return params

    def _loss(self, learned: Any, points: Any) -> Any:
        def one(x: Any, y: Any, query_x: Any, query_y: Any) -> Any:
            return self._error(self._adapted(learned, x, y), query_x, query_y)

        return self._jax.vmap(one)(*points).mean()

    def _predictions(self, learned: Any, points: Any) -> Any:
        def one(x: Any, y: Any, query_x: Any, _: Any) -> Any:
            return self._forward(self._adapted(learned, x, y), query_x)

        return self._jax.vmap(one)(*points)

    def _adam_step(self, state: Any, points: Any) -> Any:
        learned, first, second, count = state
        gradients = self._jax.grad(self._loss)(learned, points)
        count = count + 1
        first = [0.9 * m + 0.1 * g for m, g in zip(first, gradients, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(second, gradients, strict=True)]
        rate, tiny = self._problem["learning_rate"], 1e-8
        corrections = 1 - 0.9**count, 1 - 0.999**count
        learned = [
            p - rate * (m / corrections[0]) / (self._np.sqrt(v / corrections[1]) + tiny)
            for p, m, v in zip(learned, first, second, strict=True)
        ]
        return learned, first, second, count

    def gradient(self) -> list[np.ndarray]:
        """Return the meta-gradient."""
        return [np.asarray(value) for value in self._gradient(self._learned, self._points)]

    def step(self) -> None:
        """Take a meta-step; the result is waited for, as the next one needs it."""
        self._state = self._step(self._state, self._points)
        self._state[0][0].block_until_ready()

    def adapt(self, tasks: int) -> None:
        """Adapt and predict."""
        points = self._one if tasks == 1 else self._points
        self._predict(self._state[0], points).block_until_ready()

    def synchronize(self) -> None:
        """Nothing is left to wait for."""


def build(problem: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Jax:
    """Return JAX's meta-step."""
    return _Jax(problem, arrays)
