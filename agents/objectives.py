"""What many tasks are trained for: their mean return, their worst return, or their worst regret.

An adversary holds a weight for each task and moves it to the tasks with the largest loss by
exponentiated gradient; the learner maximises the weighted sum of returns. Where the learner answers
with a best response, the averages of both approach the saddle point: the strategy with the smallest
maximum loss, and the least favourable prior. Of regrets that strategy is the minimax deviation
strategy; `mtrl.evaluation.minimax_deviation` solves finite problems exactly.

Sources: Freund and Schapire 1999 for the game; Cesa-Bianchi and Lugosi 2006, theorem 2.2, for the
bound; Schlesinger and Vodolazskiy 2017 (arXiv:1707.04849) for the objectives.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtrl.errors import CheckpointError, MtrlError, UsageError
from mtrl.hedge import exponentiated_gradient

__all__ = [
    "Objective",
    "Saddle",
    "TaskObjective",
    "exponentiated_gradient",
    "hedge_bound",
    "hedge_step_size",
]

Array = NDArray[np.float64]

Objective = Literal["mean-return", "worst-return", "worst-regret", "normalised-worst-regret"]


def hedge_bound(tasks: int, rounds: int, *, step_size: float, width: float) -> float:
    """Return what the average gap of uniform start and constant step size cannot exceed.

    Args:
        tasks: number of weights.
        rounds: number of steps.
        step_size: of every step.
        width: largest loss less the smallest, over all tasks and rounds.
    """
    return math.log(tasks) / (step_size * rounds) + step_size * width**2 / 8


def hedge_step_size(tasks: int, rounds: int, *, width: float) -> float:
    """Return the step size of the smallest `hedge_bound`: width * sqrt(log(tasks) / (2 * rounds))."""
    return math.sqrt(8 * math.log(tasks) / rounds) / width


@dataclass(frozen=True, kw_only=True)
class Saddle:
    """How far weights and learner are from a saddle point.

    Attributes:
        losses: (tasks,), of the last update.
        worst: the largest of them.
        gap: the largest loss less the weighted mean; 0 if the weights lie on the worst tasks only.
        average_gap: the largest of the losses' averages over all updates, less the average weighted
            mean. It is what the adversary regrets, and at most `hedge_bound`. The averages belong to
            the mixture of all learners so far, not to the last one.
    """

    losses: Array
    worst: float
    gap: float
    average_gap: float


class TaskObjective:
    """The weights of tasks under an objective, updated from their returns.

    A task's loss is minus its return for "worst-return", its regret best - return for "worst-regret",
    and regret / (best - random) for "normalised-worst-regret". "mean-return" has the loss of
    "worst-return" and never moves its weights.

    Args:
        objective: which.
        tasks: their names, for messages and checkpoints.
        step_size: of the adversary, in 1 / unit of the losses; see `hedge_step_size`.
        best: (tasks,), the best return of each task alone. One that no policy reaches is a regret
            that nothing lowers, and draws all weight.
        random: (tasks,), the return of each task without any learning.

    Raises:
        UsageError: there are no tasks, an argument is missing, not finite, or of another length, or a
            task's best return is not above its random one.
    """

    def __init__(
        self,
        objective: Objective,
        tasks: Sequence[str],
        *,
        step_size: float,
        best: ArrayLike | None = None,
        random: ArrayLike | None = None,
    ) -> None:
        if objective not in get_args(Objective):
            raise UsageError(
                f"objective must be one of {', '.join(get_args(Objective))}, got {objective!r}"
            )
        if not tasks:
            raise UsageError("tasks is empty: an objective weighs at least one task")
        if not (math.isfinite(step_size) and step_size > 0):
            raise UsageError(f"step_size must be positive, got {step_size}")
        self.objective = objective
        self.tasks = tuple(tasks)
        self.step_size = step_size
        self._offsets, self._scales = self._references(best, random)
        self._log_weights = np.full(len(tasks), -math.log(len(tasks)))
        self._rounds = 0
        self._loss_sums = np.zeros(len(tasks))
        self._weighted_sum = 0.0

    @property
    def weights(self) -> Array:
        """Return the adversary's weights of the losses (tasks,), of sum 1."""
        weights: Array = np.exp(self._log_weights)
        return weights

    @property
    def return_weights(self) -> Array:
        """Return what the learner multiplies returns by (tasks,), of sum 1.

        They differ from `weights` where losses are scaled: a task's return counts for less the wider
        the range between its random and its best return.
        """
        scaled = self.weights / self._scales
        shares: Array = scaled / scaled.sum()
        return shares

    def losses(self, returns: ArrayLike) -> Array:
        """Return each task's loss (tasks,) from its mean return (tasks,).

        Raises:
            MtrlError: a return is not finite; the message names its task.
            ValueError: there is not one return for each task.
        """
        values = np.asarray(returns, dtype=np.float64)
        if values.shape != (len(self.tasks),):
            raise ValueError(
                f"returns have shape {values.shape}, expected one for each of {len(self.tasks)} tasks"
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            named = ", ".join(f"{self.tasks[index]}: {values[index]}" for index in bad)
            raise MtrlError(
                f"returns that are not finite ({named}): weights made of them would be NaN for all "
                "tasks; leave the task out, or give it the worst return"
            )
        losses: Array = (self._offsets - values) / self._scales
        return losses

    def update(self, returns: ArrayLike) -> Saddle:
        """Take one step of the adversary; the saddle is that of the weights before it.

        Args:
            returns: (tasks,), mean return of the present learner on each task.

        Raises:
            MtrlError: a return is not finite; nothing is changed.
            ValueError: there is not one return for each task.
        """
        losses = self.losses(returns)
        weighted = float(self.weights @ losses)
        self._rounds += 1
        self._loss_sums += losses
        self._weighted_sum += weighted
        if self.objective != "mean-return":
            self._log_weights = exponentiated_gradient(self._log_weights, losses, self.step_size)
        worst = float(losses.max())
        return Saddle(
            losses=losses,
            worst=worst,
            gap=worst - weighted,
            average_gap=(float(self._loss_sums.max()) - self._weighted_sum) / self._rounds,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that updates have changed, in JSON's types."""
        return {
            "objective": self.objective,
            "tasks": list(self.tasks),
            "log_weights": self._log_weights.tolist(),
            "rounds": self._rounds,
            "loss_sums": self._loss_sums.tolist(),
            "weighted_sum": self._weighted_sum,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            CheckpointError: it is of another objective or of other tasks.
        """
        for name, ours in (("objective", self.objective), ("tasks", list(self.tasks))):
            if state[name] != ours:
                raise CheckpointError(
                    f"the objective's checkpoint has {name} {state[name]!r}, this run {ours!r}: "
                    "resume with the settings that it was made with"
                )
        self._log_weights = np.array(state["log_weights"], dtype=np.float64)
        self._rounds = int(state["rounds"])
        self._loss_sums = np.array(state["loss_sums"], dtype=np.float64)
        self._weighted_sum = float(state["weighted_sum"])

    def _references(self, best: ArrayLike | None, random: ArrayLike | None) -> tuple[Array, Array]:
        """Return (offset, scale), (tasks,) each: a loss is (offset - return) / scale."""
        count = len(self.tasks)
        if self.objective in ("mean-return", "worst-return"):
            return np.zeros(count), np.ones(count)
        offsets = self._reference("best", best)
        if self.objective == "worst-regret":
            return offsets, np.ones(count)
        scales = offsets - self._reference("random", random)
        for task, scale in zip(self.tasks, scales, strict=True):
            if scale <= 0:
                raise UsageError(
                    f"{task}: the best return is not above the random one (difference {scale}): its "
                    "regret cannot be normalised; train its specialist longer, or use worst-regret"
                )
        return offsets, scales

    def _reference(self, name: str, values: ArrayLike | None) -> Array:
        if values is None:
            raise UsageError(f"{self.objective} needs {name}: the {name} return of each task")
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (len(self.tasks),) or not np.isfinite(array).all():
            raise UsageError(
                f"{name} must hold one finite return for each of {len(self.tasks)} tasks, got {array}"
            )
        return array
