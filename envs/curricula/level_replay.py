"""Prioritised level replay, and its robust variant.

Sources: Jiang et al. 2021 (arXiv:2010.03934), equations 1 to 4 and algorithms 1 and 2; the robust
variant, Jiang et al. 2021 (arXiv:2110.02439), algorithm 1. Kept as published for a finite set of
levels. Ranks are among the seen ones only: the authors' code ranks the unseen as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mtrl.envs.curricula.finite import FiniteCurriculum
from mtrl.envs.curricula.protocol import Array, OutcomeKind, Proposal, check_share
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["LevelReplay", "ReplaySettings", "rank_weights", "replay_distribution"]

Transform = Literal["rank", "power"]
_FRESH, _REPLAY = 0, 1


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """How levels are replayed; the defaults are the paper's for Procgen.

    Args:
        transform: h(S) = 1 / rank, or S itself.
        temperature: beta; the smaller, the more the largest scores count.
        staleness: rho, the share of the staleness distribution.
        staleness_temperature: beta_C.
        score_rate: alpha in S = (1 - alpha) S + alpha s.
        replay: probability of a replay while some levels are unseen; None for the fraction seen.
        replay_from: fraction of levels that must have been seen before the first replay.
        robust: whether results of levels that are not replayed are only scored, without a gradient
            (`LevelReplay.trains`).

    Raises:
        UsageError: a parameter out of range.
    """

    transform: Transform = "rank"
    temperature: float = 0.1
    staleness: float = 0.1
    staleness_temperature: float = 1.0
    score_rate: float = 1.0
    replay: float | None = None
    replay_from: float = 0.0
    robust: bool = False

    def __post_init__(self) -> None:
        if self.transform not in get_args(Transform):
            known = ", ".join(map(repr, get_args(Transform)))
            raise UsageError(f"transform is {self.transform!r}; it must be one of {known}")
        for name in ("staleness", "score_rate", "replay_from", "replay"):
            if getattr(self, name) is not None:
                check_share(name, getattr(self, name))
        for name in ("temperature", "staleness_temperature"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be positive")


def rank_weights(scores: Array) -> Array:
    """Return 1 / rank: 1 for the largest score; of equal ones the first comes first."""
    weights = np.empty(len(scores))
    weights[np.argsort(-scores, kind="stable")] = 1 / np.arange(1, len(scores) + 1)
    return weights


def _sharpened(weights: Array, temperature: float) -> Array:
    """Return shares in proportion to weights ** (1 / temperature); all 0 if the weights are."""
    largest = weights.max(initial=0.0)
    if largest <= 0:
        return np.zeros(len(weights))
    # Relative to the largest, or large powers would overflow.
    raised: Array = (weights / largest) ** (1 / temperature)
    raised /= raised.sum()
    return raised


def replay_distribution(scores: Array, ages: Array, settings: ReplaySettings) -> Array:
    """Return P = (1 - rho) P_S + rho P_C over seen levels.

    Args:
        scores: (seen,).
        ages: (seen,), draws since a level's own last one.
        settings: transform, temperatures and rho. Scores without any weight count as equal, and
            without any age there is no staleness part.
    """
    if settings.transform == "rank":
        weights = rank_weights(scores)
    else:
        # Without a staleness part this keeps levels of score 0 from vanishing.
        weights = np.maximum(scores, 0) + (0.0 if settings.staleness else 1e-3)
    by_score = _sharpened(weights, settings.temperature)
    if not by_score.any():
        by_score = np.full(len(scores), 1 / len(scores))
    by_age = _sharpened(ages, settings.staleness_temperature)
    if not by_age.any():
        return by_score
    return (1 - settings.staleness) * by_score + settings.staleness * by_age


class LevelReplay(FiniteCurriculum):
    """Levels of large score, and levels not drawn for long, again; unseen ones in between.

    A level is seen once it has a score. `update` takes scores of `mtrl.envs.curricula.scores`; an
    episode that several rollouts share is scored through `EpisodeScore`. A proposal's label says
    whether it is a replay.

    Args:
        tasks: the levels.
        rng: the curriculum's own generator.
        settings: see `ReplaySettings`.
    """

    kind = "level-replay"
    outcome: OutcomeKind = "score"

    def __init__(
        self,
        tasks: Sequence[Task],
        rng: np.random.Generator,
        settings: ReplaySettings | None = None,
    ) -> None:
        super().__init__(tasks, rng)
        self.settings = settings or ReplaySettings()
        self._scores = np.zeros(len(tasks))
        self._seen = np.zeros(len(tasks), np.bool_)
        self._ages = np.zeros(len(tasks))

    @property
    def scores(self) -> Array:
        """The score of each level (tasks,); 0 of one not seen yet."""
        return self._scores.copy()

    @property
    def ages(self) -> Array:
        """How many draws ago each level's last one was (tasks,)."""
        return self._ages.copy()

    @property
    def replay_probability(self) -> float:
        """The probability that the next proposal is a replay."""
        seen = float(self._seen.mean())
        if seen in (0.0, 1.0) or seen < self.settings.replay_from:
            return float(seen == 1.0)
        return seen if self.settings.replay is None else self.settings.replay

    def replay_probabilities(self) -> Array:
        """Return the probability of each level given a replay (tasks,); all 0 before any is seen."""
        shares, seen = np.zeros(len(self.tasks)), self._seen
        if seen.any():
            shares[seen] = replay_distribution(self._scores[seen], self._ages[seen], self.settings)
        return shares

    def _fresh_probabilities(self) -> Array:
        shares: Array = ~self._seen / max(int((~self._seen).sum()), 1)
        return shares

    def probabilities(self) -> Array:
        """Return the mixture of replays and unseen levels, which are equally likely."""
        replay = self.replay_probability
        return replay * self.replay_probabilities() + (1 - replay) * self._fresh_probabilities()

    def propose(self, n: int) -> list[Proposal]:
        """Draw `n` levels one after the other: each draw makes all others staler."""
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        replayed = self.rng.random() < self.replay_probability
        shares = self.replay_probabilities() if replayed else self._fresh_probabilities()
        place = int(self.rng.choice(len(self.tasks), p=shares))
        self._ages += 1
        self._ages[place] = 0
        return Proposal(task=self.tasks[place], label=_REPLAY if replayed else _FRESH)

    def trains(self, proposal: Proposal) -> bool:
        """Return whether the policy may learn from this episode; all may unless `robust`."""
        return not self.settings.robust or proposal.label == _REPLAY

    def _learn(self, place: int, outcome: float, label: int | None) -> None:
        # The first score is the whole score: there is nothing yet to average it with.
        rate = self.settings.score_rate if self._seen[place] else 1.0
        self._scores[place] = (1 - rate) * self._scores[place] + rate * outcome
        self._seen[place] = True

    def _state(self) -> dict[str, Any]:
        return {
            "scores": self._scores.tolist(),
            "seen": self._seen.tolist(),
            "ages": self._ages.tolist(),
        }

    def _set_state(self, values: dict[str, Any]) -> None:
        self._scores = np.array(values["scores"], np.float64)
        self._seen = np.array(values["seen"], np.bool_)
        self._ages = np.array(values["ages"], np.float64)
