"""FAMO: weights that are trained until all tasks improve at the same relative rate.

Source: Liu et al. 2023, "FAMO: Fast Adaptive Multitask Optimization" (arXiv:2306.03792), algorithm 1.
Logits xi give z = softmax(xi); the direction is c sum_t (z_t / L_t) g_t with c = 1 / sum_t (z_t / L_t);
then xi <- xi - step_size * (J' delta + decay * xi), J the Jacobian of the softmax and delta_t the fall
of log L_t.

With losses, delta is measured from one batch to the next in which the task is present, not on the same
batch again, which saves the paper's second forward pass and adds the noise of batches. The losses of
reinforcement learning may be negative and have no logarithm. So without losses gradients are divided by
their lengths in place of L_t, which is as indifferent to a task's scale, and delta_t is what a unit step
along sum_t z_t g_t / |g_t| gains for g_t / |g_t| to first order. J' delta is then exactly the gradient of
|sum_t z_t g_t / |g_t||^2 / 2: the dual problem, whose gradient the paper's delta estimates.

Scale: the paper's weights sum to 1, here to the number of present tasks, so that equal gradients and
losses give the plain sum. Weights given to tasks' losses have no lasting effect on the direction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from mtrl.agents.balancing.balancer import Array, Balancer, check_state
from mtrl.config import check_at_least, check_positive
from mtrl.errors import UsageError

__all__ = ["FAMO"]


class _FAMO(Balancer):
    def __init__(self, config: "FAMO", tasks: int) -> None:
        super().__init__(tasks)
        self._config = config
        self._logits = np.zeros(tasks)
        # NaN until a task's loss was known.
        self._log_losses = np.full(tasks, np.nan)

    def weigh(self, gram: Array, present: NDArray[np.int64], losses: Array | None) -> Array:
        if losses is None:
            scales = np.sqrt(gram.diagonal())
            z = softmax(self._logits[present])
            falls = gram / np.outer(scales, scales) @ z
            self._descend(present, z, falls)
        else:
            scales = self._usable(losses)
            self._measure(present, np.log(scales))
            z = softmax(self._logits[present])
        shares = z / scales
        weights: Array = len(shares) * shares / shares.sum()
        return weights

    def _usable(self, losses: Array) -> Array:
        if not (np.isfinite(losses) & (losses > 0)).all():
            raise UsageError(
                f"famo needs a positive loss for each task present, got {losses}; give positive "
                "losses, or none to balance by gradients alone"
            )
        return losses

    def _measure(self, present: NDArray[np.int64], log_losses: Array) -> None:
        falls = self._log_losses[present] - log_losses
        known = np.isfinite(falls)
        self._log_losses[present] = log_losses
        if known.any():
            tasks = present[known]
            self._descend(tasks, softmax(self._logits[tasks]), falls[known])

    def _descend(self, tasks: NDArray[np.int64], z: Array, falls: Array) -> None:
        slopes = z * (falls - z @ falls) + self._config.decay * self._logits[tasks]
        self._logits[tasks] -= self._config.step_size * slopes

    def state_dict(self) -> dict[str, Any]:
        known = [None if np.isnan(value) else float(value) for value in self._log_losses]
        return {"logits": self._logits.tolist(), "log_losses": known}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state(state, self.state_dict())
        self._logits = np.array(state["logits"], dtype=np.float64)
        # float64 makes NaN of None.
        self._log_losses = np.array(state["log_losses"], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class FAMO:
    """Trains weights so that tasks' losses fall at equal rates, relative to their size."""

    step_size: float = 0.025
    """Of the weights' logits."""
    decay: float = 1e-3
    """Pull of the logits to 0, where all weights are equal."""

    def __post_init__(self) -> None:
        check_positive(self, "step_size")
        check_at_least(self, 0.0, "decay")

    def build(self, tasks: int, generator: torch.Generator) -> Balancer:
        """Return the balancer; it draws nothing from `generator`."""
        return _FAMO(self, tasks)
