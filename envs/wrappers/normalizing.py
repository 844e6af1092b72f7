"""What the normalising wrappers share: moments that can be frozen, saved and kept unpoisoned."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from mtrl.envs.wrappers.moments import TaskMoments
from mtrl.errors import MtrlError, UsageError

__all__ = ["EPSILON", "Normalizing", "check_clip", "check_finite", "nondeterministic"]

EPSILON = 1e-8
"""Added to the variance, so that a constant can be divided by its deviation."""


class Normalizing:
    """Mixin: running statistics in `moments`, which only change while not `frozen`.

    Attributes:
        moments: what was seen so far.
        frozen: whether the statistics are used as they are, as for evaluation.
    """

    moments: TaskMoments
    frozen: bool

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the statistics as (tensors, JSON values) for a checkpoint.

        Those of the single and the vector wrapper are interchangeable. Episodes under way and
        `frozen` are no part of them.
        """
        return self.moments.state_dict()

    def load_state_dict(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Replace the statistics by those that `state_dict` returned.

        Raises:
            UsageError: they do not fit.
        """
        self.moments.load_state_dict(tensors, values)

    def _check_ids(self, task_ids: Sequence[Any]) -> None:
        if self.moments.per_task and any(task_id is None for task_id in task_ids):
            raise UsageError(
                "per_task statistics need info['task_id'], which this environment does not report; "
                "wrap the environment of a task family, or use per_task=False"
            )


def check_clip(clip: float) -> float:
    """Return `clip` if it is a bound.

    Raises:
        UsageError: it is not positive.
    """
    if not clip > 0:
        raise UsageError(f"clip is {clip}; it must be positive (math.inf for no bound)")
    return clip


def check_finite(what: str, values: NDArray[Any], task_ids: Sequence[Any]) -> None:
    """Check `values`, one row per task id, before any of them enters a statistic.

    Raises:
        MtrlError: one is NaN or infinite; the message names its row and its task.
    """
    good = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not good.all():
        row = int(good.argmin())
        raise MtrlError(
            f"environment {row}, task {task_ids[row]}: the {what} is not finite ({values[row]}); "
            "the running statistics are unchanged, repair the environment"
        )


def nondeterministic(spec: EnvSpec | None) -> EnvSpec | None:
    """Say in a wrapper's own `spec` that the seed and the actions do not decide what is returned.

    Running statistics also depend on all that was seen before.
    """
    if spec is not None:
        spec.nondeterministic = True
    return spec
