"""One life: a single agent in a world that is never reset, with one step counter from birth on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mtrl.agents.lifelong.hooks import UNDECIDED, Chances, Expiry, Guidance, unguided
from mtrl.agents.lifelong.messages import Event, Message, RewardMachine
from mtrl.agents.lifelong.worlds import HomeFood

__all__ = ["Learner", "Life", "Probe"]


class Learner(Protocol):
    """What lives: it acts on cells and hears messages; nothing else reaches it."""

    def begin(self, cell: int, message: Message) -> None:
        """Be born in `cell` with a first goal."""

    def act(self, cell: int) -> int:
        """Return an action."""

    def hear(self, cell: int, message: Message) -> None:
        """Take in the message that came with the step to `cell`."""

    def greedy(self, goal: str) -> Sequence[int]:
        """Return what it holds to be best for `goal`, an action or `UNDECIDED` per cell."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the memory is worth at one instant, tried out beside the life, without a trace in it.

    Attributes:
        steps: by errand, those that the policies held to be best need for it; None if a local goal
            of it times out.
        left: by errand, whether they went through the left tunnel.
    """

    steps: dict[str, int | None]
    left: dict[str, bool]

    @property
    def success(self) -> float:
        """The share of errands that are done in time."""
        return sum(steps is not None for steps in self.steps.values()) / len(self.steps)

    @property
    def by_the_short_way(self) -> bool:
        """Whether all errands are done in time and none by the left tunnel."""
        return self.success == 1 and not any(self.left.values())


class Life:
    """A learner in the home-food world.

    Args:
        world: where.
        machine: the language of the rewards.
        learner: who.
        rng: of the guidance.
        guidance: turns the machine's values into those that are heard.

    Attributes:
        steps: since birth.
        cell: where the agent is.
        goal: the present local goal.
        completed: errands so far.
        in_time: those of them in which no goal had timed out.
    """

    def __init__(
        self,
        world: HomeFood,
        machine: RewardMachine,
        learner: Learner,
        rng: np.random.Generator,
        guidance: Guidance = unguided,
    ) -> None:
        self.world, self.machine, self.learner = world, machine, learner
        self.steps, self.cell, self.goal = 0, world.cell("H"), machine.start
        self.completed, self.in_time = 0, 0
        self._guidance, self._chances = guidance, Chances(rng)
        self._events = {goal: world.events(goal, machine) for goal in machine.goals}
        self._clock, self._start = 0, self.cell
        learner.begin(self.cell, machine.silence[self.goal])

    def live(self, steps: int) -> list[Message]:
        """Go on for some steps; return the messages that had a value."""
        learner, moves, limit = self.learner, self.world.moves, self.machine.time_limit
        cell, events, silent = self.cell, self._events[self.goal], self.machine.silence[self.goal]
        heard = []
        for _ in range(steps):
            cell = moves[cell][learner.act(cell)]
            self._clock += 1
            if cell not in events and self._clock < limit:
                learner.hear(cell, silent)
                continue
            self.cell = cell
            message = self._expire(events.get(cell, Event.TIMED_OUT))
            learner.hear(cell, message)
            heard.append(message)
            events, silent = self._events[self.goal], self.machine.silence[self.goal]
        self.cell = cell
        self.steps += steps
        return heard

    def _expire(self, event: Event) -> Message:
        """End the goal and begin the next."""
        following, value = self.machine.transitions[self.goal][event]
        if event is Event.REACHED:
            self.completed += 1
            self.in_time += not self.goal.endswith("late")
        expiry = Expiry(self.goal, event, value, self._start, self.cell)
        heard = self._guidance(expiry, self._chances)
        self.goal, self._clock, self._start = following, 0, self.cell
        return Message(following, heard)

    def probe(self) -> Probe:
        """Try both errands from their beginning with the policies held to be best."""
        start = {"food": self.world.cell("H"), "home": self.world.cell("F")}
        steps, left = {}, {}
        for errand, cell in start.items():
            path, event = self._follow(errand, cell)
            steps[errand] = len(path) if event is Event.REACHED else None
            left[errand] = self.world.cell("L") in path
        return Probe(steps=steps, left=left)

    def _follow(self, goal: str, cell: int) -> tuple[list[int], Event]:
        """Return the cells entered until the errand is done or a goal of it times out, and which."""
        path: list[int] = []
        while True:
            policy, events = self.learner.greedy(goal), self._events[goal]
            event = Event.TIMED_OUT
            for _ in range(self.machine.time_limit):
                if policy[cell] == UNDECIDED:
                    return path, event
                cell = self.world.moves[cell][policy[cell]]
                path.append(cell)
                if cell in events:
                    event = events[cell]
                    break
            if event is not Event.PASSED_LEFT:
                return path, event
            goal = self.machine.transitions[goal][event].goal
