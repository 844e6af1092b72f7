"""A learner of another kind in the same life: a table of action values for every local goal.

Q(s, a) += step_size * (target - Q(s, a)), where the target is the value heard if the goal expired in
this step, and otherwise discount * max Q(s', .) of the same goal's table (Watkins 1989). Goals have
tables of their own, and nothing is bootstrapped from one goal to the next: local goals only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtrl.agents.lifelong.hooks import UNDECIDED, Bias, Chances
from mtrl.agents.lifelong.messages import Message
from mtrl.errors import UsageError

__all__ = ["QMemory", "QSettings"]

_ACTIONS = 4


@dataclass(frozen=True, kw_only=True)
class QSettings:
    """How values are learnt.

    Args:
        step_size: of an update.
        discount: per step.
        exploration: chance that a cell's action in a goal's run is drawn by the bias.

    Raises:
        UsageError: a setting is outside of [0, 1].
    """

    step_size: float = 0.5
    discount: float = 0.95
    exploration: float = 0.1

    def __post_init__(self) -> None:
        for name in ("step_size", "discount", "exploration"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")


class QMemory:
    """The learner. Memory: by goal, one row of action values per cell, 0 at first.

    Cells whose values are all equal, and a share of the others, take the bias's action.

    Args:
        cells: how many observations there are.
        bias: draws explored actions; what was done since the goal began is the policy that it sees.
        rng: the learner's own generator.
        settings: see `QSettings`.

    Attributes:
        tables: by goal, action values shaped (cells, actions) as lists.
    """

    def __init__(
        self, cells: int, bias: Bias, rng: np.random.Generator, settings: QSettings | None = None
    ) -> None:
        self.settings = settings or QSettings()
        self.tables: dict[str, list[list[float]]] = {}
        self._cells, self._bias, self._chances = cells, bias, Chances(rng)

    def begin(self, cell: int, message: Message) -> None:
        """Be born in `cell`."""
        self._take_up(message.goal)

    def act(self, cell: int) -> int:
        """Return the action of highest value, or one that the bias draws."""
        row = self._table[cell]
        best = max(row)
        if best == min(row) or self._chances() < self.settings.exploration:
            action = self._bias.draw(cell, self._done, self._chances)
        else:
            action = row.index(best)
        self._done[cell] = action
        self._cell, self._action = cell, action
        return action

    def hear(self, cell: int, message: Message) -> None:
        """Update the value of what was done; the message says whether the goal has expired."""
        row = self._table[self._cell]
        if message.value is None:
            target = self.settings.discount * max(self._table[cell])
        else:
            target = message.value
        row[self._action] += self.settings.step_size * (target - row[self._action])
        if message.value is not None:
            self._take_up(message.goal)

    def greedy(self, goal: str) -> Sequence[int]:
        """Return the actions of highest value; undecided where all are equal."""
        if goal not in self.tables:
            return [UNDECIDED] * self._cells
        return [
            UNDECIDED if max(row) == min(row) else row.index(max(row)) for row in self.tables[goal]
        ]

    def _take_up(self, goal: str) -> None:
        if goal not in self.tables:
            self.tables[goal] = [[0.0] * _ACTIONS for _ in range(self._cells)]
        self._table = self.tables[goal]
        self._done = [UNDECIDED] * self._cells
