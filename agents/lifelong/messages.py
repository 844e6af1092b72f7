"""Reward as messages in a formal language, and the machine that speaks it.

A message is the present local goal (the reward state) and a value, which is there only when the goal
before has expired in this step (Li 2020, section 4). Goals, and the events at which they expire, are
the states and the letters of a finite automaton (compare reward machines, Toro Icarte et al. 2018);
every message sequence that it can say is a word of its language.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from mtrl.errors import UsageError

__all__ = ["Event", "Message", "RewardMachine", "Transition"]


class Event(StrEnum):
    """What ends a local goal."""

    REACHED = "reached"
    TIMED_OUT = "timed out"
    PASSED_LEFT = "passed left"


class Message(NamedTuple):
    """What the learner hears after a step.

    Attributes:
        goal: the local goal from now on.
        value: of the goal that has expired in this step; None if none has.
    """

    goal: str
    value: float | None = None


class Transition(NamedTuple):
    """The goal that follows an expired one, and the value of the expired one."""

    goal: str
    value: float


@dataclass(frozen=True, kw_only=True)
class RewardMachine:
    """Local goals that follow each other for ever.

    Args:
        start: the goal at birth.
        time_limit: steps after which a goal expires, counted from its beginning.
        transitions: by goal, what follows at every event that may end it.

    Raises:
        UsageError: a goal that no transition leaves, that cannot time out, or that the start does
            not lead to.
    """

    start: str
    time_limit: int
    transitions: Mapping[str, Mapping[Event, Transition]]

    def __post_init__(self) -> None:
        if self.time_limit < 1:
            raise UsageError(f"time_limit is {self.time_limit}; it must be at least 1")
        reached, pending = {self.start}, [self.start]
        while pending:
            goal = pending.pop()
            if Event.TIMED_OUT not in self.transitions.get(goal, {}):
                raise UsageError(f"goal {goal!r} never times out; add that transition")
            for following, _ in self.transitions[goal].values():
                if following not in reached:
                    reached.add(following)
                    pending.append(following)
        if lost := sorted(self.transitions.keys() - reached):
            raise UsageError(f"goals {lost} cannot be reached from {self.start!r}; leave them out")

    @property
    def goals(self) -> tuple[str, ...]:
        """All goals: the reward states."""
        return tuple(self.transitions)

    @cached_property
    def silence(self) -> Mapping[str, Message]:
        """The message of a step in which nothing expires, by goal."""
        return {goal: Message(goal) for goal in self.transitions}

    def speaks(self, messages: Iterable[Message], *, values: bool = True) -> bool:
        """Return whether the messages are a word of the language, from the start on.

        A silent message repeats the present goal, one with a value names a goal that follows it.

        Args:
            messages: in the order in which they were heard.
            values: whether the values must be the machine's own; guidance changes them.
        """
        goal = self.start
        for message in messages:
            if message.value is None:
                following = message.goal == goal
            else:
                following = any(
                    message.goal == after and (not values or message.value == value)
                    for after, value in self.transitions[goal].values()
                )
            if not following:
                return False
            goal = message.goal
        return True
