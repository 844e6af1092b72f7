"""Prioritised replay, proportional variant, with demonstrations that stay.

Sources: Schaul et al. 2016 (arXiv:1511.05952), equations 1 and 2 and algorithm 1; Hester et al. 2017
(arXiv:1704.03732) for the bonus of demonstrations.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.q_learning.replay import QReplayBuffer
from mtrl.agents.q_learning.sum_tree import SumTree
from mtrl.agents.q_learning.transitions import Transitions
from mtrl.errors import CheckpointError, MtrlError, UsageError

__all__ = ["PrioritizedReplayBuffer", "PrioritySettings", "importance_weights"]


@dataclass(frozen=True, kw_only=True)
class PrioritySettings:
    """How much a step's error decides how often it is replayed; the values are DQfD's."""

    alpha: float = 0.4
    """Exponent of the priorities; 0 draws all steps alike."""
    beta: float = 0.6
    """Exponent of the importance weights at the start; 1 corrects the draws in full."""
    beta_end: float = 1.0
    """The same at the end of learning, reached linearly."""
    epsilon: float = 0.001
    """Added to the absolute errors of one's own steps, so that none is forgotten."""
    demonstration_epsilon: float = 1.0
    """Added to those of demonstrations, so that they are replayed more."""

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "beta_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it lies between 0 and 1")
        for name in ("epsilon", "demonstration_epsilon"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be positive")


def importance_weights(
    probabilities: NDArray[np.float64], stored: int, beta: float
) -> NDArray[np.float64]:
    """Return (stored * probability)^-beta of each step, divided by the largest of the batch."""
    weights = (stored * probabilities) ** -beta
    scaled: NDArray[np.float64] = weights / weights.max()
    return scaled


class PrioritizedReplayBuffer(QReplayBuffer):
    """Draws a step in proportion to (abs(error) + epsilon)^alpha, stratified over the batch.

    A new step has the largest absolute error seen so far, at first 1, so that it is soon replayed. After
    an update, `update_priorities` tells the buffer the errors. Stable-Baselines3's DQN does not do
    that, nor does it read the weights of a batch; `mtrl.agents.q_learning.DeepQ` does both.

    Attributes:
        beta: exponent of the importance weights now.
    """

    def __init__(
        self, *args: Any, priorities: PrioritySettings | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.demonstration_share is not None:
            raise UsageError(
                f"demonstration_share is {self.demonstration_share}; with priorities the "
                "share follows from demonstration_epsilon, leave it out"
            )
        self.priorities = priorities or PrioritySettings()
        self.beta = self.priorities.beta
        self.largest_error = 1.0
        self._tree = SumTree(len(self._flat["actions"]))
        # Rows of the ring that were added since the tree was last brought up to date.
        self._new_rows: list[int] = []

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step of each environment; see `ReplayBuffer.add`."""
        self._new_rows.append(self.pos)
        super().add(*args, **kwargs)

    def reset(self) -> None:
        """Empty the ring; demonstrations stay."""
        super().reset()
        self._new_rows.clear()
        masses = self._tree.masses.copy()
        masses[self.demonstrations :] = 0
        self._tree.fill(masses)

    def add_demonstrations(self, transitions: Transitions, imitation_rewards: float = 1.0) -> None:
        """See `QReplayBuffer.add_demonstrations`; the new ones have the largest priority."""
        self._bring_up_to_date()
        before, masses = self.demonstrations, self._tree.masses
        super().add_demonstrations(transitions, imitation_rewards)
        new = np.arange(before, self.demonstrations)
        fresh = self._masses(new, np.full(len(new), self.largest_error))
        self._grow_tree(np.concatenate([masses[:before], fresh, masses[before:]]))

    def drop_demonstrations(self) -> None:
        """Forget all demonstrations."""
        self._bring_up_to_date()
        masses = self._tree.masses[self.demonstrations :]
        super().drop_demonstrations()
        self._grow_tree(masses)

    def _grow_tree(self, masses: NDArray[np.float64]) -> None:
        self._tree = SumTree(len(masses))
        self._tree.fill(masses)

    def update_priorities(
        self, indices: NDArray[np.int64], errors: NDArray[np.floating[Any]]
    ) -> None:
        """Set the priorities of the steps last drawn, at `indices`, (batch,), from errors, (batch,).

        Raises:
            MtrlError: an error that is not finite.
        """
        sizes = np.abs(errors, dtype=np.float64)
        largest = float(sizes.max())
        if not np.isfinite(largest):
            raise MtrlError(
                f"the error of a replayed step is {largest}; the Q-network has diverged, lower "
                "learning_rate or scale the rewards"
            )
        # Rows added since the draw get theirs at the next one, over the error of the step they replaced.
        self.largest_error = max(self.largest_error, largest)
        self._tree.update(indices, self._masses(indices, sizes))

    def probabilities(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how probable each of the steps at `indices`, (batch,), is in a draw."""
        self._bring_up_to_date()
        return self._tree.masses[indices] / self._tree.total

    def _masses(
        self, indices: NDArray[np.int64], errors: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        how = self.priorities
        is_expert = indices < self.demonstrations
        masses: NDArray[np.float64] = (
            errors + np.where(is_expert, how.demonstration_epsilon, how.epsilon)
        ) ** how.alpha
        return masses

    def _bring_up_to_date(self) -> None:
        # One update for all rows since the last draw costs as much as one for a single row.
        if not self._new_rows:
            return
        rows = np.asarray(self._new_rows[-self.buffer_size :])
        self._new_rows.clear()
        envs = np.arange(self.n_envs)
        indices = (self.demonstrations + rows[:, None] * self.n_envs + envs).reshape(-1)
        mass = (self.largest_error + self.priorities.epsilon) ** self.priorities.alpha
        self._tree.update(indices, mass)

    def _draw(self, batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        self._bring_up_to_date()
        # One point in each of batch_size equal stretches (Schaul et al., appendix B.2.1).
        strata = np.arange(batch_size) + self._rng.random(batch_size)
        total = self._tree.total
        indices = self._tree.find(strata * (total / batch_size))
        probabilities = self._tree.masses[indices] / total
        return indices, importance_weights(probabilities, self.stored, self.beta)

    def state_dict(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """See `QReplayBuffer.state_dict`; the masses of the tree are one more array."""
        self._bring_up_to_date()
        arrays, values = super().state_dict()
        arrays["masses"] = self._tree.masses[: self.stored].copy()
        return arrays, values | {"beta": self.beta, "largest_error": self.largest_error}

    def load_state_dict(self, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> None:
        """See `QReplayBuffer.load_state_dict`.

        Raises:
            CheckpointError: arrays that are missing or do not fit.
        """
        super().load_state_dict(arrays, values)
        found = arrays.get("masses")
        if found is None or found.shape != (self.stored,):
            raise CheckpointError(
                "the replay buffer's array masses is missing or of another length than its steps; "
                "it was saved by a buffer without priorities"
            )
        masses = np.zeros(len(self._flat["actions"]))
        masses[: self.stored] = found
        self._grow_tree(masses)
        self._new_rows.clear()
        self.beta, self.largest_error = float(values["beta"]), float(values["largest_error"])
