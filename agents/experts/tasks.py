"""One expert for many tasks, who hears from the observation which of them is played."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.experts.expert import Expert, restart
from mtrl.errors import UsageError

__all__ = ["TaskExperts"]


class TaskExperts:
    """Answers as the expert of each slot's task does.

    Observations end with the one-hot context of the task, as `MultiTaskVecEnv` appends it; the experts
    see them without it. Every expert is asked about all slots, so that one that remembers keeps them apart.

    Args:
        experts: one for each task, in the tasks' order.

    Raises:
        UsageError: none.
    """

    def __init__(self, experts: Sequence[Expert]) -> None:
        if not experts:
            raise UsageError("experts is empty; give one for each task")
        self._experts = list(experts)

    def actions(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return an action for each of `observations` (slots, features + tasks).

        Raises:
            UsageError: their last numbers are no one-hot context of as many tasks as there are experts.
        """
        contexts = np.asarray(observations)[:, -len(self._experts) :]
        if not (np.isin(contexts, (0, 1)).all() and (contexts.sum(1) == 1).all()):
            raise UsageError(
                f"the last {len(self._experts)} numbers of the observations are no one-hot contexts; give "
                "one expert for each task of the environment"
            )
        own = np.asarray(observations)[:, : -len(self._experts)]
        answers = np.stack([np.asarray(expert.actions(own)) for expert in self._experts])
        chosen: NDArray[Any] = answers[contexts.argmax(1), np.arange(len(own))]
        return chosen

    def restart(self, ended: NDArray[np.bool_]) -> None:
        """Tell every expert which slots' episodes have `ended` (slots,)."""
        for expert in self._experts:
            restart(expert, ended)
