"""Stages of tasks, from easy to hard; the next begins when the present one succeeds."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrl.envs.curricula.finite import FiniteCurriculum
from mtrl.envs.curricula.protocol import Array, OutcomeKind, check_share
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["StageSettings", "Staged"]


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """When stages change.

    Args:
        promote_at: the next stage begins when the window's mean is at least this.
        demote_below: the stage before comes back when it is below this; None for never.
        window: outcomes that decide.
        min_episodes: of a visit before it may end.
        rehearsal: probability of a task of an earlier stage, against forgetting.

    Raises:
        UsageError: a parameter out of range; `demote_below` must be at least 0.2 below
            `promote_at`, or chance would move stages back and forth.
    """

    promote_at: float = 0.8
    demote_below: float | None = None
    window: int = 100
    min_episodes: int = 0
    rehearsal: float = 0.0

    def __post_init__(self) -> None:
        check_share("rehearsal", self.rehearsal)
        if self.window < 1:
            raise UsageError(f"window is {self.window}; it must be at least 1")
        if self.demote_below is not None and self.demote_below > self.promote_at - 0.2:
            raise UsageError(
                f"demote_below is {self.demote_below} and promote_at {self.promote_at}; it must be "
                "at least 0.2 lower, so that chance does not move stages back and forth"
            )


class Staged(FiniteCurriculum):
    """Uniform over the tasks of one stage, which changes with the mean of its last outcomes.

    Only episodes that were drawn in the present visit of the stage, on its own tasks, count: a
    proposal's label is the number of stage changes before it, and late results of an earlier visit
    are dropped. A window that is full decides; it begins empty after every change, so that no stage
    is left before `window` episodes of it.

    Args:
        stages: disjoint lists of tasks.
        rng: the curriculum's own generator.
        settings: see `StageSettings`.

    Attributes:
        stage: index of the present stage.
        changes: how often it has changed.

    Raises:
        UsageError: no stage, an empty stage, or a task in two stages.
    """

    kind = "staged"
    outcome: OutcomeKind = "success"

    def __init__(
        self,
        stages: Sequence[Sequence[Task]],
        rng: np.random.Generator,
        settings: StageSettings | None = None,
    ) -> None:
        super().__init__([task for stage in stages for task in stage], rng)
        if not all(stages):
            empty = [place for place, stage in enumerate(stages) if not stage]
            raise UsageError(f"stages {empty} are empty; leave them out")
        self.settings = settings or StageSettings()
        self.lag = self.settings.window - 1
        self.stage, self.changes = 0, 0
        self._stage_of = np.repeat(np.arange(len(stages)), [len(stage) for stage in stages])
        self._window: deque[float] = deque(maxlen=self.settings.window)
        self._episodes = 0

    def probabilities(self) -> Array:
        """Return 1 / size of the stage on its tasks, less `rehearsal`, which earlier ones share."""
        now, before = self._stage_of == self.stage, self._stage_of < self.stage
        rehearsal = self.settings.rehearsal if before.any() else 0.0
        shares: Array = (1 - rehearsal) * now / now.sum() + rehearsal * before / max(
            before.sum(), 1
        )
        return shares

    def _label(self, place: int) -> int:
        return self.changes

    def _learn(self, place: int, outcome: float, label: int | None) -> None:
        late = label is not None and label != self.changes
        if late or self._stage_of[place] != self.stage:
            return
        self._window.append(outcome)
        self._episodes += 1
        if (
            len(self._window) == self._window.maxlen
            and self._episodes >= self.settings.min_episodes
        ):
            self._decide(sum(self._window) / len(self._window))

    def _decide(self, mean: float) -> None:
        if mean >= self.settings.promote_at and self.stage < self._stage_of[-1]:
            self._move(self.stage + 1)
        elif (
            self.settings.demote_below is not None
            and mean < self.settings.demote_below
            and self.stage > 0
        ):
            self._move(self.stage - 1)

    def _move(self, stage: int) -> None:
        self.stage, self._episodes = stage, 0
        self.changes += 1
        self._window.clear()

    def _state(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "changes": self.changes,
            "episodes": self._episodes,
            "window": list(self._window),
        }

    def _set_state(self, values: dict[str, Any]) -> None:
        self.stage, self.changes = int(values["stage"]), int(values["changes"])
        self._episodes = int(values["episodes"])
        self._window = deque(values["window"], maxlen=self._window.maxlen)
