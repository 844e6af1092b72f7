"""RL only, imitation only, or imitation and then RL, at equal total budgets."""

from dataclasses import dataclass
from typing import Literal

from stable_baselines3.common.type_aliases import MaybeCallback

from mtrl.agents.experts import Expert
from mtrl.agents.q_learning.budget import Budget
from mtrl.agents.q_learning.carry_over import CarryOver
from mtrl.agents.q_learning.imitation import QImitation
from mtrl.agents.q_learning.transitions import Transitions
from mtrl.errors import UsageError

__all__ = ["Mode", "Plan"]

Mode = Literal["rl", "imitation", "imitation-then-rl"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an agent does with its budget.

    Raises:
        UsageError: a share that leaves a phase empty, or a total in updates.
    """

    mode: Mode
    """Which phases there are."""
    total: Budget
    """Environment steps or episodes of both phases together."""
    imitation_share: float = 0.5
    """Of the total, where both phases take steps."""
    offline_updates: int = 10_000
    """Imitation of a method that takes no steps; all of the total is then left for RL."""
    carry_over: CarryOver | None = None
    """What passes over; without it, the defaults."""

    def __post_init__(self) -> None:
        if self.total.updates is not None:
            raise UsageError(f"the total is {self.total}; give it in steps or episodes")
        self.total.split(self.imitation_share)

    def phases(self, *, takes_steps: bool) -> tuple[Budget | None, Budget | None]:
        """Return the budgets of imitation and of RL; None leaves a phase out.

        Args:
            takes_steps: whether imitation does; see `Method`.
        """
        if self.mode == "rl":
            return None, self.total
        if not takes_steps:
            offline = Budget(updates=self.offline_updates)
            return offline, self.total if self.mode == "imitation-then-rl" else None
        if self.mode == "imitation":
            return self.total, None
        return self.total.split(self.imitation_share)

    def run(
        self,
        agent: QImitation,
        *,
        expert: Expert | None = None,
        demonstrations: Transitions | None = None,
        callback: MaybeCallback = None,
    ) -> QImitation:
        """Run the phases on `agent`; see `QImitation.pretrain` for who teaches."""
        first, second = self.phases(takes_steps=agent.method.takes_steps)
        if first is not None:
            agent.pretrain(first, expert=expert, demonstrations=demonstrations, callback=callback)
        if second is not None:
            agent.finetune(second, carry_over=self.carry_over if first else None, callback=callback)
        return agent
