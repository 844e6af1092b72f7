"""GradNorm: weights that are trained until tasks' gradients have the lengths they should have.

Source: Chen et al. 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
Networks" (arXiv:1711.02257), equation 2 and algorithm 1. With weights w, lengths n_t = w_t |g_t| and
their mean n, the weights descend sum_t |n_t - n r_t^asymmetry|, its targets taken for constants; r_t
is the relative inverse training rate (L_t / L_t at first) / (the mean of these over tasks).

Losses of reinforcement learning have no common scale, may be negative, and do not fall as a policy
improves. So the asymmetry is 0 unless asked for: the targets are then all n, which the paper names as
the case that pins all tasks' lengths equal (section 3.2), and no loss is read. A positive asymmetry
needs positive losses. Lengths are those of the whole trunk, not of its last layer, and steps are
divided by n, so that the step size does not depend on the scale of rewards.

Scale: weights sum to the number of tasks, as in the paper, and are 1 at the start: the plain sum.
Weights given to tasks' losses are undone in time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.agents.balancing.balancer import Array, Balancer, check_state
from mtrl.config import check_at_least, check_positive
from mtrl.errors import UsageError

__all__ = ["GradNorm"]

# Descent may carry a weight below zero, which would turn its task into one to be unlearned.
_LEAST_WEIGHT = 1e-3


class _GradNorm(Balancer):
    def __init__(self, config: "GradNorm", tasks: int) -> None:
        super().__init__(tasks)
        self._config = config
        self._weights = np.ones(tasks)
        # NaN until a task's first loss is known.
        self._first = np.full(tasks, np.nan)

    def weigh(self, gram: Array, present: NDArray[np.int64], losses: Array | None) -> Array:
        rates = self._rates(present, losses)
        used = self._weights[present]
        norms = np.sqrt(gram.diagonal())
        lengths = used * norms
        mean = lengths.mean()
        slopes = np.sign(lengths - mean * rates**self._config.asymmetry) * norms / mean
        self._weights[present] = np.maximum(used - self._config.step_size * slopes, _LEAST_WEIGHT)
        self._weights *= self.tasks / self._weights.sum()
        return used

    def _rates(self, present: NDArray[np.int64], losses: Array | None) -> Array:
        if self._config.asymmetry == 0:
            return np.ones(len(present))
        if losses is None or not (np.isfinite(losses) & (losses > 0)).all():
            raise UsageError(
                f"grad-norm has asymmetry {self._config.asymmetry}, which needs a positive loss for "
                f"each task present, got {losses}; give losses, or set asymmetry to 0"
            )
        first = self._first[present]
        self._first[present] = first = np.where(np.isnan(first), losses, first)
        ratios = losses / first
        rates: Array = ratios / ratios.mean()
        return rates

    def state_dict(self) -> dict[str, Any]:
        first = [None if np.isnan(value) else float(value) for value in self._first]
        return {"weights": self._weights.tolist(), "first_losses": first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state(state, self.state_dict())
        self._weights = np.array(state["weights"], dtype=np.float64)
        # float64 makes NaN of None.
        self._first = np.array(state["first_losses"], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class GradNorm:
    """Trains a weight for each task until all weighted gradients have their target lengths."""

    step_size: float = 0.025
    """Of a weight, where its task's gradient has the mean length."""
    asymmetry: float = 0.0
    """How much longer the gradients of tasks that lag are to be: the power of the relative inverse
    training rate. 0 makes all lengths equal and reads no loss."""

    def __post_init__(self) -> None:
        check_positive(self, "step_size")
        check_at_least(self, 0.0, "asymmetry")

    def build(self, tasks: int, generator: torch.Generator) -> Balancer:
        """Return the balancer; it draws nothing from `generator`."""
        return _GradNorm(self, tasks)
