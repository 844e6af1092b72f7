"""What a stretch of an episode is worth to prioritised level replay: its learning potential.

Scores are means over steps, so that a task does not score higher because its episodes are longer.
Sources: Jiang et al. 2021 (arXiv:2010.03934), table 1 and section 3.1; Jiang et al. 2021
(arXiv:2110.02439), section 5 for the positive value loss and MaxMC.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtrl.errors import UsageError

__all__ = ["EpisodeScore", "gae_score", "max_monte_carlo", "one_step_error", "positive_value_loss"]


def _series(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size == 0:
        raise UsageError(
            f"{name} has shape {array.shape}; give the steps of one task, at least one"
        )
    return array


def gae_score(advantages: ArrayLike) -> float:
    """Return (1/T) sum |A_t|, the L1 value loss: the score of the paper's experiments.

    Args:
        advantages: (steps,), generalised advantage estimates, not normalised.
    """
    return float(np.abs(_series("advantages", advantages)).mean())


def positive_value_loss(advantages: ArrayLike) -> float:
    """Return (1/T) sum max(A_t, 0); arguments as of `gae_score`."""
    return float(np.maximum(_series("advantages", advantages), 0).mean())


def max_monte_carlo(values: ArrayLike, best_return: float) -> float:
    """Return (1/T) sum (R_max - V_t), an estimate of regret.

    Args:
        values: (steps,), the critic's values.
        best_return: the highest return ever seen on the task, of whole episodes and discounted as
            the values are.
    """
    return float((best_return - _series("values", values)).mean())


def one_step_error(rewards: ArrayLike, values: ArrayLike, discount: float) -> float:
    """Return (1/T) sum |r_t + discount * V_{t+1} - V_t|.

    Args:
        rewards: (steps,).
        values: (steps + 1,), the last one 0 if the episode terminated there.
        discount: per step.

    Raises:
        UsageError: there is not one value more than rewards.
    """
    reward, value = _series("rewards", rewards), _series("values", values)
    if len(value) != len(reward) + 1:
        raise UsageError(f"{len(reward)} rewards need {len(reward) + 1} values, got {len(value)}")
    return float(np.abs(reward + discount * value[1:] - value[:-1]).mean())


@dataclass
class EpisodeScore:
    """The score of an episode that rollouts cut into parts: their mean, weighted by steps.

    Pass on `mean` and begin anew when the episode ends, and after every change of the policy.
    """

    mean: float = 0.0
    steps: int = 0

    def add(self, score: float, steps: int) -> None:
        """Merge a part: m = m + (s - m) n / (N + n), N = N + n.

        Raises:
            UsageError: `steps` is not positive.
        """
        if steps < 1:
            raise UsageError(f"steps is {steps}; a part of an episode has at least one")
        self.steps += steps
        self.mean += (score - self.mean) * steps / self.steps
