"""What is trained: an agent that takes hexagon levels one after another, a course of them.

All four rows come from three kinds of course. From scratch: one level, again and again until it
has had as many steps as it takes to get there by the chain. Pairs, which are the paper's: a level from
scratch and then the next. The chain: all levels, from easy to hard.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mtrl.agents.incremental import TaskSwitch
from mtrl.agents.incremental.switch import Choice
from mtrl.config import check_positive
from mtrl.envs.hexagon import LEVELS
from mtrl.errors import UsageError

__all__ = ["FULL", "QUICK_SETTINGS", "Course", "DexSettings", "Kind", "courses"]

Kind = Literal["scratch", "pair", "chain"]


@dataclass(frozen=True, kw_only=True)
class DexSettings:
    """Everything that decides a training; the defaults are those of the full page."""

    levels: tuple[str, ...] = tuple(LEVELS)
    """The chain, from easy to hard."""
    goals: tuple[str, ...] = tuple(LEVELS)[1:]
    """Levels that are also learnt from scratch for as many steps as the chain takes to there."""
    steps: int = 40_960
    """Environment steps of a level in every course; whole rollouts."""
    environments: int = 128
    """Side by side."""
    rollout: int = 32
    """Steps of each environment between two updates."""
    epochs: int = 8
    """Passes over a rollout."""
    batch_size: int = 512
    """Of a gradient step."""
    learning_rate: float = 2e-3
    """Of Adam."""
    gamma: float = 0.95
    """Discount."""
    gae_lambda: float = 0.9
    """Of advantages."""
    entropy: float = 0.01
    """Coefficient of the bonus."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the layers, of actor and critic each."""
    episodes: int = 100
    """Greedy ones of a level wherever a row is measured, the same for all agents."""
    curve_episodes: int = 40
    """The first of them, for a point of a learning curve."""
    curve_points: int = 5
    """Parts of a level's steps between which a learning curve has a point."""

    def __post_init__(self) -> None:
        check_positive(self, "steps", "environments", "rollout", "curve_points", "curve_episodes")
        part = self.environments * self.rollout * self.curve_points
        if self.steps % part:
            raise UsageError(
                f"steps is {self.steps}; give a multiple of {part}, so that every point of a learning "
                "curve lies between two rollouts"
            )

    @property
    def curve_steps(self) -> tuple[int, ...]:
        """Steps on a level at which a learning curve has its points, the first and the last included."""
        return tuple(
            self.steps * part // self.curve_points for part in range(self.curve_points + 1)
        )


FULL = DexSettings()
QUICK_SETTINGS = DexSettings(
    goals=("one gate",), steps=4_096, episodes=20, curve_episodes=10, curve_points=1
)


@dataclass(frozen=True)
class Course:
    """Levels that an agent is trained on one after another, each for equally many steps.

    Attributes:
        kind: which row it belongs to.
        stages: names of the levels; one may follow itself, and is then simply trained longer.
    """

    kind: Kind
    stages: tuple[str, ...]

    @property
    def name(self) -> str:
        """What progress and errors call it."""
        if self.kind == "chain":
            return "the chain"
        if self.kind == "pair":
            return " then ".join(self.stages)
        return f"{self.stages[0]} from scratch"

    @property
    def switch(self) -> TaskSwitch:
        """What a change of level does.

        The next level has the network and nothing else: as the paper has it, weights are handed on.
        Where a level follows itself nothing happens.
        """
        kept: Choice = "keep" if self.kind == "scratch" else "reset"
        return TaskSwitch(optimiser=kept, normalisers=kept)

    def curve_steps(self, stage: int, settings: DexSettings) -> tuple[int, ...]:
        """Return the steps of a stage at which its learning curve has points.

        Where a level follows itself these are the stage's ends alone.
        """
        goes_on = stage > 0 and self.stages[stage - 1] == self.stages[stage]
        return (0, settings.steps) if goes_on else settings.curve_steps


def courses(settings: DexSettings) -> list[Course]:
    """Return all courses of one seed, the long ones first, so that no process idles at the end."""
    levels = settings.levels
    made = [Course("chain", levels)]
    for place, level in enumerate(settings.levels):
        length = place + 1 if level in settings.goals else 1
        made.append(Course("scratch", (level,) * length))
    made += [Course("pair", pair) for pair in pairwise(levels)]
    return sorted(made, key=lambda course: -len(course.stages))
