"""Where an agent of two phases is: everything that it needs to go on, as JSON values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mtrl.agents.q_learning.budget import Budget
from mtrl.agents.q_learning.carry_over import CarryOver

__all__ = ["Phase", "Progress"]


@dataclass(kw_only=True)
class Phase:
    """A phase under way.

    Attributes:
        kind: what is learnt from.
        budget: when it ends.
        first_step: environment steps taken before it.
        episodes: finished in it, of those that count.
        begun: begun in it.
        numbers: of the episode that each environment plays, in the order in which they began.
        updates: made in it, counted where the budget is in updates or updates follow episodes.
    """

    kind: Literal["imitation", "reinforcement"]
    budget: Budget
    first_step: int = 0
    episodes: int = 0
    begun: int = 0
    numbers: list[int] = field(default_factory=list)
    updates: int = 0

    def begin_episodes(self, environments: int) -> None:
        """Number the first episode of each environment."""
        self.numbers, self.begun = list(range(environments)), environments

    def end_episodes(self, environments: Sequence[int]) -> None:
        """Count the episodes that ended in these environments, and number those that follow.

        Of a budget in episodes the first to begin count: the first to end would be the short ones.
        """
        for environment in environments:
            self.episodes += self.counts(environment)
            self.numbers[environment] = self.begun
            self.begun += 1

    def counts(self, environment: int) -> bool:
        """Return whether the episode that an environment plays is part of the budget."""
        limit = self.budget.episodes
        return limit is None or self.numbers[environment] < limit

    def past(self, steps: int) -> float:
        """Return which share of the budget is used up after `steps` environment steps in all."""
        used = {
            "steps": steps - self.first_step,
            "episodes": self.episodes,
            "updates": self.updates,
        }[self.budget.unit]
        return min(used / self.budget.amount, 1.0)


@dataclass(kw_only=True)
class Progress:
    """What has been done and what is under way.

    Attributes:
        exploration: first and last exploration rate of the phase, and the share of it between them.
        phase: the one under way; None outside of one.
        pretrained: whether imitation has begun and no switch has followed.
        carry_over: what the last switch followed; None before one.
        switch: what happened at it, by name.
        value_updates_due: updates of the pretrained policy's values that are still to be made.
        updates_from: the environment step from which on updates are made.
    """

    exploration: tuple[float, float, float]
    phase: Phase | None = None
    pretrained: bool = False
    carry_over: CarryOver | None = None
    switch: dict[str, float | str] = field(default_factory=dict)
    value_updates_due: int = 0
    updates_from: int = 0

    def anneals(self) -> bool:
        """Return whether the reward passes slowly from imitation to true."""
        return self.carry_over is not None and self.carry_over.imitation_anneal > 0

    def state_dict(self) -> dict[str, Any]:
        """Return everything."""
        return asdict(self)

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        phase, carried = values["phase"], values["carry_over"]
        self.__dict__.update(values)
        self.exploration = tuple(values["exploration"])
        self.switch = dict(values["switch"])
        self.phase = Phase(**phase | {"budget": Budget(**phase["budget"])}) if phase else None
        self.carry_over = CarryOver(**carried) if carried else None
