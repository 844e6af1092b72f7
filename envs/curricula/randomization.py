"""Automatic domain randomisation: ranges that widen where the policy does well at their ends.

Source: Akkaya et al. 2019 (arXiv:1910.07113), algorithm 1. Kept as published, except that a result
at a bound that has moved since is dropped, and that a task at a bound is known by its label.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mtrl.envs.curricula.box import BoxCurriculum, TaskBox
from mtrl.envs.curricula.protocol import Array, check_share
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["DomainRandomization", "RandomizationSettings"]


@dataclass(frozen=True, kw_only=True)
class RandomizationSettings:
    """When bounds move, and how far. The thresholds have no universal default.

    Args:
        widen_at: t_H, a bound moves outwards when its mean outcome is at least this.
        narrow_at: t_L, it moves inwards when the mean is at most this.
        boundary: p_b, share of the episodes that test a bound.
        queue: m, outcomes at a bound that decide.
        step: Delta, in units of the width of the family's range.

    Raises:
        UsageError: a parameter out of range.
    """

    widen_at: float
    narrow_at: float
    boundary: float = 0.5
    queue: int = 240
    step: float = 0.02

    def __post_init__(self) -> None:
        check_share("boundary", self.boundary)
        check_share("step", self.step)
        if not self.narrow_at < self.widen_at:
            raise UsageError(
                f"narrow_at is {self.narrow_at} and widen_at {self.widen_at}; it must be lower"
            )
        if self.queue < 1:
            raise UsageError(f"queue is {self.queue}; it must be at least 1")


class DomainRandomization(BoxCurriculum):
    """Tasks uniform within bounds that begin at one task, some of them with a number at a bound.

    `update` counts an episode at a bound by its proposal's label, so give it the proposal; a bare
    task counts as one inside. The lag is that of results at bounds.

    Args:
        box: the tasks.
        rng: the curriculum's own generator.
        settings: see `RandomizationSettings`.
        start: the calibrated task, where all bounds begin.
    """

    kind = "domain-randomization"

    def __init__(
        self, box: TaskBox, rng: np.random.Generator, settings: RandomizationSettings, start: Task
    ) -> None:
        super().__init__(box, rng)
        self.settings = settings
        point = box.point(start)
        self._bounds = np.stack([point, point])
        # By bound: two to a dimension, the lower one first.
        self._queues: list[list[float]] = [[] for _ in range(2 * box.dimensions)]
        self._moves = [0] * len(self._queues)
        self.lag = len(self._queues) * (settings.queue - 1)

    @property
    def bounds(self) -> Array:
        """The lower and the upper bounds (2, dimensions), in units of the family's ranges."""
        return self._bounds.copy()

    @property
    def entropy(self) -> float:
        """(1/d) sum log(upper - lower), in nats; NaN while a width is 0."""
        widths = self._bounds[1] - self._bounds[0]
        return float(np.log(widths).mean()) if (widths > 0).all() else float("nan")

    def _draw(self) -> tuple[Array, int | None]:
        low, high = self._bounds
        point = low + (high - low) * self.rng.random(len(low))
        if self.rng.random() >= self.settings.boundary:
            return point, None
        bound = int(self.rng.integers(len(self._queues)))
        point[bound // 2] = self._bounds[bound % 2, bound // 2]
        return point, self._moves[bound] * len(self._queues) + bound

    def _learn(self, point: Array, outcome: float, label: int | None) -> None:
        if label is None:
            return
        moves, bound = divmod(label, len(self._queues))
        if moves != self._moves[bound]:
            return
        queue = self._queues[bound]
        queue.append(outcome)
        if len(queue) == self.settings.queue:
            mean = sum(queue) / len(queue)
            queue.clear()
            if mean >= self.settings.widen_at:
                self._move(bound, self.settings.step)
            elif mean <= self.settings.narrow_at:
                self._move(bound, -self.settings.step)

    def _move(self, bound: int, outwards: float) -> None:
        dimension, side = divmod(bound, 2)
        low, high = self._bounds[:, dimension]
        if side:
            moved = min(max(high + outwards, low), 1.0)
        else:
            moved = max(min(low - outwards, high), 0.0)
        self._moves[bound] += int(moved != self._bounds[side, dimension])
        self._bounds[side, dimension] = moved

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {
            "bounds": self._bounds.tolist(),
            "queues": [list(queue) for queue in self._queues],
            "moves": list(self._moves),
        }

    def _set_state(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        self._bounds = np.array(values["bounds"], np.float64)
        self._queues = [list(queue) for queue in values["queues"]]
        self._moves = list(values["moves"])
