"""Teacher-student curriculum learning: bandits whose reward is the slope of a task's scores.

Source: Matiisen et al. 2017 (arXiv:1707.00183), algorithms Online, Naive, Window and Sampling.
Choices follow the absolute value, so that tasks which are being forgotten come back.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import softmax

from mtrl.envs.curricula.finite import FiniteCurriculum
from mtrl.envs.curricula.protocol import Array, Proposal, check_share
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["TeacherSettings", "TeacherStudent", "TeacherVariant", "largest_sample", "slope"]

TeacherVariant = Literal["online", "naive", "window", "sampling"]


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """Which of the paper's algorithms, and its constants.

    Args:
        variant: which algorithm.
        rate: alpha of the moving average.
        exploration: epsilon; of tasks with the largest |Q| each is as likely.
        temperature: of a Boltzmann choice on |Q| in place of the epsilon-greedy one; the paper's
            is 4e-4.
        window: K.

    Raises:
        UsageError: a parameter out of range.
    """

    variant: TeacherVariant = "online"
    rate: float = 0.1
    exploration: float = 0.1
    temperature: float | None = None
    window: int = 10

    def __post_init__(self) -> None:
        if self.variant not in get_args(TeacherVariant):
            known = ", ".join(map(repr, get_args(TeacherVariant)))
            raise UsageError(f"variant is {self.variant!r}; it must be one of {known}")
        if self.window < 2 or (self.temperature is not None and not self.temperature > 0):
            raise UsageError(
                f"window is {self.window} and temperature {self.temperature}; a slope needs 2 "
                "outcomes, and a temperature must be positive"
            )
        check_share("rate", self.rate)
        check_share("exploration", self.exploration)


def slope(times: Sequence[float], scores: Sequence[float]) -> float:
    """Return the least-squares slope of scores over times; 0 if the times are all the same."""
    centred = np.asarray(times, np.float64) - np.mean(times)
    spread = float(centred @ centred)
    return float(centred @ np.asarray(scores, np.float64)) / spread if spread else 0.0


def largest_sample(samples: Sequence[Sequence[float]]) -> Array:
    """Return the probability of each row to hold the largest of one value drawn from every row.

    Values of a row are equally likely; equal largest values share the win equally.
    """
    rows = [np.sort(np.asarray(row, np.float64)) for row in samples]
    # Ties of k rows win 1/(k + 1), which is the integral over t of t**k: a polynomial whose degree
    # is below the number of rows, so that this quadrature is exact.
    nodes, weights = np.polynomial.legendre.leggauss(len(rows) // 2 + 1)
    times, weights = (nodes + 1) / 2, weights / 2
    wins = np.zeros(len(rows))
    for value in np.unique(np.concatenate(rows)):
        below = np.array([np.searchsorted(row, value, "left") / len(row) for row in rows])
        tied = np.array([np.mean(row == value) for row in rows])
        passed = below[:, None] + tied[:, None] * times
        for row in tied.nonzero()[0]:
            others = np.delete(passed, row, axis=0).prod(axis=0)
            wins[row] += tied[row] * float(weights @ others)
    shares: Array = wins / wins.sum()
    return shares


@dataclass(kw_only=True)
class _Record:
    """What is kept of one task: its estimate, its last score, and a window that the variant uses.

    The window holds rewards (sampling), or pairs of time and score (window).
    """

    window: deque[Any]
    estimate: float = 0.0
    last: float = 0.0


class TeacherStudent(FiniteCurriculum):
    """Tasks on which the score changes most, up or down.

    Online: r = score - the task's score before (0 before the first). Naive: one task for `window`
    outcomes, r = slope of their scores; a result of another task comes too late and is dropped.
    Window: r = slope of the task's last `window` scores over the time of all outcomes. Each time
    Q = rate * r + (1 - rate) * Q, and tasks are chosen by |Q|. Sampling: one of each task's last
    `window` rewards, which begin as a single 1, is drawn, and the largest |r| is chosen; it has
    neither rate nor exploration.

    Args:
        tasks: what it chooses from.
        rng: the curriculum's own generator.
        settings: see `TeacherSettings`.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        rng: np.random.Generator,
        settings: TeacherSettings | None = None,
    ) -> None:
        super().__init__(tasks, rng)
        self.settings = settings or TeacherSettings()
        self.variant, self.window = self.settings.variant, self.settings.window
        self.kind = f"teacher-student-{self.variant}"
        self.lag = self.window - 1 if self.variant == "naive" else 0
        first = [1.0] if self.variant == "sampling" else []
        self._records = [_Record(window=deque(first, maxlen=self.window)) for _ in tasks]
        self._time = 0
        self._held: int | None = None
        self._held_scores: list[float] = []

    @property
    def estimates(self) -> Array:
        """Q of each task (tasks,); of no meaning to Sampling."""
        return np.array([record.estimate for record in self._records])

    def probabilities(self) -> Array:
        """Return each task's probability to be chosen next; Naive's is 1 for the task it holds."""
        if self._held is not None:
            held: Array = np.eye(len(self.tasks))[self._held]
            return held
        if self.variant == "sampling":
            return largest_sample([np.abs(record.window).tolist() for record in self._records])
        sizes = np.abs(self.estimates)
        if self.settings.temperature is not None:
            chosen: Array = softmax(sizes / self.settings.temperature)
            return chosen
        best = sizes == sizes.max()
        greedy: Array = (1 - self.settings.exploration) * best / best.sum()
        greedy += self.settings.exploration / len(self.tasks)
        return greedy

    def propose(self, n: int) -> list[Proposal]:
        """Draw `n` tasks; Naive draws one and holds it."""
        if self.variant == "naive" and self._held is None and n > 0:
            self._held = self._place(super().propose(1)[0].task)
        if self._held is not None:
            return [Proposal(task=self.tasks[self._held])] * n
        return super().propose(n)

    def _learn(self, place: int, outcome: float, label: int | None) -> None:
        record = self._records[place]
        self._time += 1
        change, record.last = outcome - record.last, outcome
        if self.variant == "sampling":
            record.window.append(change)
        elif self.variant == "online":
            self._average(record, change)
        elif self.variant == "window":
            record.window.append((self._time, outcome))
            self._average(record, slope(*zip(*record.window, strict=True)))
        elif place == self._held:
            self._held_scores.append(outcome)
            self._release(record)

    def _release(self, record: _Record) -> None:
        """Reward the task that Naive holds and let it go, once its outcomes are complete."""
        if len(self._held_scores) == self.window:
            self._average(record, slope(range(self.window), self._held_scores))
            self._held, self._held_scores = None, []

    def _average(self, record: _Record, reward: float) -> None:
        record.estimate = self.settings.rate * reward + (1 - self.settings.rate) * record.estimate

    def _state(self) -> dict[str, Any]:
        records = [{**vars(record), "window": list(record.window)} for record in self._records]
        return {
            "records": records,
            "time": self._time,
            "held": self._held,
            "held_scores": list(self._held_scores),
        }

    def _set_state(self, values: dict[str, Any]) -> None:
        self._time, self._held = int(values["time"]), values["held"]
        self._held_scores = list(values["held_scores"])
        self._records = [
            _Record(**{**record, "window": deque(record["window"], maxlen=self.window)})
            for record in values["records"]
        ]
