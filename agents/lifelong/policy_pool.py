"""The paper's learner: for every local goal a pool of policies, which are mutated and scored again.

A policy holds one action per cell, is the same from a goal's beginning to its expiry, and is scored by
the value heard then (Li 2020, section 4.2). Cells are decided when they are first met.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtrl.agents.lifelong.hooks import UNDECIDED, Bias, Chances
from mtrl.agents.lifelong.messages import Message
from mtrl.errors import UsageError

__all__ = ["PolicyPool", "PoolSettings"]

Policy = list[int]


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """How policies are generated and kept; the paper names these and gives no values.

    Args:
        size: most policies kept for a goal.
        mutate: chance of a mutation of a kept policy.
        rerun: chance of running a kept policy again, which is then scored anew; otherwise a fresh
            policy is tried.
        more_changes: a mutation forgets one action, and another with this chance, and so on.

    Raises:
        UsageError: a setting out of range.
    """

    size: int = 30
    mutate: float = 0.7
    rerun: float = 0.1
    more_changes: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"size is {self.size}; it must be at least 1")
        if min(self.mutate, self.rerun) < 0 or self.mutate + self.rerun > 1:
            raise UsageError(
                f"mutate is {self.mutate} and rerun {self.rerun}; they are chances, together at most 1"
            )
        if not 0 <= self.more_changes < 1:
            raise UsageError(f"more_changes is {self.more_changes}; it must be in [0, 1)")


class PolicyPool:
    """The learner. Memory: by goal, pairs of a score and a policy.

    Args:
        cells: how many observations there are.
        bias: draws the actions of cells that a policy is undecided about.
        rng: the learner's own generator.
        settings: see `PoolSettings`.

    Attributes:
        pools: by goal, what is kept.
    """

    def __init__(
        self,
        cells: int,
        bias: Bias,
        rng: np.random.Generator,
        settings: PoolSettings | None = None,
    ) -> None:
        self.settings = settings or PoolSettings()
        self.pools: dict[str, list[tuple[float, Policy]]] = {}
        self._cells, self._bias, self._chances = cells, bias, Chances(rng)
        self._goal = ""
        self._policy: Policy = []

    def begin(self, cell: int, message: Message) -> None:
        """Be born in `cell`."""
        self._take_up(message.goal)

    def act(self, cell: int) -> int:
        """Return the present policy's action, decided now if it was not."""
        action = self._policy[cell]
        if action == UNDECIDED:
            action = self._policy[cell] = self._bias.draw(cell, self._policy, self._chances)
        return action

    def hear(self, cell: int, message: Message) -> None:
        """At an expiry keep the policy if it deserves that, and choose one for the next goal."""
        if message.value is not None:
            self.keep(self._goal, message.value, self._policy)
            self._take_up(message.goal)

    def keep(self, goal: str, score: float, policy: Policy) -> None:
        """Insert a policy where there is room, or in place of the worst if it is as good at least."""
        pool = self.pools.setdefault(goal, [])
        if len(pool) < self.settings.size:
            pool.append((score, policy))
            return
        worst = min(range(len(pool)), key=lambda place: pool[place][0])
        if score >= pool[worst][0]:
            # The newest goes last: of equally bad ones the oldest is replaced.
            del pool[worst]
            pool.append((score, policy))

    def greedy(self, goal: str) -> Sequence[int]:
        """Return the kept policy of the best score, the newest of several; undecided if none is."""
        pool = self.pools.get(goal, [])
        if not pool:
            return [UNDECIDED] * self._cells
        return max(reversed(pool), key=lambda kept: kept[0])[1]

    def _take_up(self, goal: str) -> None:
        self._goal = goal
        self._policy = self._generate(self.pools.get(goal, []))

    def _generate(self, pool: list[tuple[float, Policy]]) -> Policy:
        kind = self._chances()
        if pool and kind < self.settings.mutate:
            return self._mutated(pool[self._chances.below(len(pool))][1])
        if pool and kind < self.settings.mutate + self.settings.rerun:
            return pool.pop(self._chances.below(len(pool)))[1]
        return [UNDECIDED] * self._cells

    def _mutated(self, policy: Policy) -> Policy:
        child = policy.copy()
        decided = [cell for cell, action in enumerate(child) if action != UNDECIDED]
        while True:
            child[decided[self._chances.below(len(decided))]] = UNDECIDED
            if self._chances() >= self.settings.more_changes:
                return child
