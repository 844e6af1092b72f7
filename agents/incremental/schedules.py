"""Schedules of an algorithm that run over one task or over the whole sequence, as a `TaskSwitch` says.

Stable-Baselines3 gives its schedules how much of the present call of `learn` is left, counted from the
first step ever: in a second call they begin half way, and DQN's exploration is over. Here they are
asked for the share that is meant.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mtrl.agents.incremental.switch import TaskSwitch

__all__ = ["Span", "schedules"]

Schedule = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where a stage lies, in environment steps.

    Attributes:
        start: steps done when it began.
        length: its own steps.
        total: steps of all stages.
        first: whether it is the first stage.
    """

    start: int
    length: int
    total: int
    first: bool

    def remaining(self, steps: int, *, whole: bool) -> float:
        """Return the share of the stage, or of the whole sequence, that is left after `steps`."""
        done = steps / self.total if whole else (steps - self.start) / self.length
        return max(0.0, 1.0 - done)


@contextmanager
def schedules(agent: Any, how: TaskSwitch, span: Span) -> Iterator[None]:
    """Within the context, `agent` learns by the schedules that `how` says, for this stage."""
    made: dict[str, Any] = {}
    for name in ("lr_schedule", "clip_range", "clip_range_vf", "exploration_schedule"):
        schedule = getattr(agent, name, None)
        if callable(schedule):
            exploring = name == "exploration_schedule"
            choice = how.exploration if exploring else how.learning_rate
            made[name] = _over(agent, schedule, span, whole=choice == "keep")
    if how.learning_rate == "warm" and not span.first:
        made["lr_schedule"] = _rising(agent, made["lr_schedule"], span, how.warm_share)
    if how.exploration == "warm" and not span.first and "exploration_schedule" in made:
        made["exploration_schedule"] = _capped(made["exploration_schedule"], how.warm_exploration)
    if how.exploration == "reset" and hasattr(agent, "learning_starts"):
        made["learning_starts"] = span.start + agent.learning_starts
    before = {name: getattr(agent, name) for name in made}
    try:
        vars(agent).update(made)
        yield
    finally:
        vars(agent).update(before)


def _over(agent: Any, schedule: Schedule, span: Span, *, whole: bool) -> Schedule:
    return lambda _: schedule(span.remaining(agent.num_timesteps, whole=whole))


def _rising(agent: Any, schedule: Schedule, span: Span, share: float) -> Schedule:
    def risen(remaining: float) -> float:
        done = 1.0 - span.remaining(agent.num_timesteps, whole=False)
        return schedule(remaining) * min(1.0, done / share)

    return risen


def _capped(schedule: Schedule, most: float) -> Schedule:
    return lambda remaining: min(schedule(remaining), most)
