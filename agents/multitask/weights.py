"""What each task's loss is multiplied by in training, from the returns of the tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from mtrl.agents.objectives import Saddle, TaskObjective
from mtrl.errors import UsageError

__all__ = ["TaskWeights"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


class TaskWeights:
    """Weights of tasks: of mean 1 over the healthy ones, and 0 for those that failed.

    Without an objective all healthy tasks weigh the same. A task without a return yet keeps its share
    while the objective moves those of the others.

    Args:
        names: of the tasks.
        objective: what moves the weights.

    Raises:
        UsageError: the objective is of other tasks.
    """

    def __init__(self, names: Sequence[str], objective: TaskObjective | None = None) -> None:
        if objective is not None and objective.tasks != tuple(names):
            raise UsageError(
                f"objective weighs tasks {', '.join(objective.tasks)} and the environment has "
                f"{', '.join(names)}; give both the same names in the same order"
            )
        self.objective = objective
        self._healthy = np.ones(len(names), np.bool_)

    @property
    def values(self) -> Array:
        """Return the weights (tasks,)."""
        shares = np.ones(len(self._healthy))
        if self.objective is not None:
            shares = self.objective.return_weights
        shares = np.where(self._healthy, shares, 0.0)
        weights: Array = shares * (self._healthy.sum() / shares.sum())
        return weights

    def update(self, returns: Array, healthy: Flags | None = None) -> Saddle | None:
        """Move the weights; return how far from a saddle point the objective is.

        Nothing moves, and there is no saddle, without an objective or before any return is known.

        Args:
            returns: (tasks,), mean return of the present policy; NaN where there is none yet.
            healthy: (tasks,), which tasks are trained on; the returns of others do not matter.
        """
        if healthy is not None:
            self._healthy = healthy.copy()
        known = np.isfinite(returns) & self._healthy
        if self.objective is None or not known.any():
            return None
        return self.objective.update(_with_stand_ins(self.objective, returns, known))

    def state_dict(self) -> dict[str, Any]:
        """Return all that updates have changed, in JSON's types."""
        return {
            "healthy": self._healthy.tolist(),
            "objective": None if self.objective is None else self.objective.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            UsageError: only one of the two has an objective.
            CheckpointError: the objectives differ.
        """
        if (state["objective"] is None) != (self.objective is None):
            raise UsageError(
                "one of checkpoint and algorithm has an objective and the other has none; resume "
                "with the settings that it was made with"
            )
        if self.objective is not None:
            self.objective.load_state_dict(state["objective"])
        self._healthy = np.array(state["healthy"], np.bool_)


def _with_stand_ins(objective: TaskObjective, returns: Array, known: Flags) -> Array:
    """Return the returns, those that are not known replaced by what keeps their weights.

    Exponentiated gradient multiplies a weight by exp(step_size * loss) / Z. The loss that leaves it
    alone is log(Z) / step_size, where the known tasks alone decide Z.
    """
    if known.all():
        return returns
    filled = np.where(known, returns, 0.0)
    weights, step_size = objective.weights[known], objective.step_size
    losses = objective.losses(filled)[known]
    kept = logsumexp(step_size * losses, b=weights / weights.sum()) / step_size
    # A loss is affine in the return: two points tell which return has the loss wanted.
    at_zero, at_one = objective.losses(0 * filled), objective.losses(0 * filled + 1)
    return np.where(known, returns, (kept - at_zero) / (at_one - at_zero))
