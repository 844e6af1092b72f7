"""Bandit policies that know the prior, as agents that an evaluation can put before the same bandits as RL².

Every arm's record is counted from a success and a failure that never happened, which is the prior
Beta(1, 1), as in Duan et al. 2016 (arXiv:1611.02779, appendix), also for UCB1 (Auer, Cesa-Bianchi and
Fischer 2002) and for the greedy policy.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.agents.bandits.gittins import discounted_indices, finite_horizon_indices
from mtrl.meta.agent import Transition
from mtrl.seeding import numpy_generator

__all__ = [
    "UCB1",
    "BanditAgent",
    "BanditPolicy",
    "Greedy",
    "Random",
    "Thompson",
    "discounted_gittins",
    "finite_horizon_gittins",
]

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

# Below every difference between two scores that are not equal, and above what rounding makes.
_TIE = 1e-9


class BanditPolicy(Protocol):
    """Gives every arm a score; the highest is pulled, and among equals one at random."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def scores(
        self, payments: Counts, failures: Counts, pulled: int, rng: np.random.Generator
    ) -> Array:
        """Return scores (slots, arms) from counts (slots, arms) after `pulled` pulls of each slot."""


@dataclass(frozen=True)
class Random:
    """Any arm."""

    name: str = "random"

    def scores(
        self, payments: Counts, failures: Counts, pulled: int, rng: np.random.Generator
    ) -> Array:
        """Return the same score for all."""
        return np.zeros(payments.shape)


@dataclass(frozen=True)
class Greedy:
    """The arm of the highest mean."""

    name: str = "greedy"

    def scores(
        self, payments: Counts, failures: Counts, pulled: int, rng: np.random.Generator
    ) -> Array:
        """Return the posterior means."""
        return _means(payments, failures)


@dataclass(frozen=True)
class Thompson:
    """Each arm with the chance that it is the best (Thompson 1933)."""

    name: str = "Thompson"

    def scores(
        self, payments: Counts, failures: Counts, pulled: int, rng: np.random.Generator
    ) -> Array:
        """Draw a chance for every arm from its posterior."""
        return rng.beta(payments + 1.0, failures + 1.0)


@dataclass(frozen=True)
class UCB1:
    """The highest upper confidence bound: mean + width * sqrt(2 log t / n).

    Args:
        width: 1 in the paper; a smaller one is better for few pulls.
    """

    width: float = 1.0
    name: str = "UCB1"

    def scores(
        self, payments: Counts, failures: Counts, pulled: int, rng: np.random.Generator
    ) -> Array:
        """Return the bounds in pull `pulled` + 1."""
        times = payments + failures + 2
        bonus: Array = np.sqrt(2 * math.log(pulled + 1) / times)
        return _means(payments, failures) + self.width * bonus


@dataclass(frozen=True)
class IndexTable:
    """The highest index in a table; one of `finite_horizon_gittins` or `discounted_gittins`.

    Args:
        name: what tables call it.
        indices: (payments, failures), or (remaining, payments, failures).
    """

    name: str
    indices: Array

    def scores(
        self, payments: Counts, failures: Counts, pulled: int, rng: np.random.Generator
    ) -> Array:
        """Return the arms' indices."""
        indices = self.indices
        if indices.ndim == 3:
            indices = indices[len(indices) - 1 - pulled]
        found: Array = indices[payments, failures]
        return found


@cache
def finite_horizon_gittins(pulls: int) -> IndexTable:
    """Return the policy of the indices for the pulls that remain."""
    return IndexTable("Gittins", finite_horizon_indices(pulls))


@cache
def discounted_gittins(pulls: int, discount: float) -> IndexTable:
    """Return the policy of the indices for discounted pulls without end."""
    return IndexTable("Gittins, discounted", discounted_indices(pulls, discount))


class BanditAgent:
    """A bandit policy as a `MetaAgent`: an episode is a trial, and its pulls are all that it learns from.

    It forgets between rounds too: each is a new bandit to it.

    Args:
        policy: decides.
        arms: how many there are.
    """

    def __init__(self, policy: BanditPolicy, arms: int) -> None:
        self._policy = policy
        self._arms = arms
        self.begin(0)

    @property
    def name(self) -> str:
        """What tables call it."""
        return self._policy.name

    def begin(self, n_tasks: int) -> None:
        """Forget: the next bandits are new."""
        self._payments: Counts | None = None
        self._failures = np.zeros((0, self._arms), np.int64)
        self._pulled = 0

    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Choose arms (tasks, episodes)."""
        shape = observations.shape[:-1]
        if self._payments is None:
            self._payments = np.zeros((shape.numel(), self._arms), np.int64)
            self._failures = np.zeros_like(self._payments)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        rng = numpy_generator(seed, "bandit policy")
        scores = self._policy.scores(self._payments, self._failures, self._pulled, rng)
        chosen = (scores + _TIE * rng.random(scores.shape)).argmax(1)
        return torch.from_numpy(chosen).view(shape).to(observations.device)

    def observe(self, transition: Transition) -> None:
        """Count what the arms paid."""
        assert self._payments is not None, "an observation follows an action"
        chosen = transition.actions.flatten().cpu().numpy()
        paid = transition.rewards.flatten().cpu().numpy() > 0
        slots = np.arange(len(chosen))
        self._payments[slots, chosen] += paid
        self._failures[slots, chosen] += ~paid
        self._pulled += 1

    def adapt(self) -> None:
        """Forget: an episode is a trial."""
        self.begin(0)


def _means(payments: Counts, failures: Counts) -> Array:
    means: Array = (payments + 1) / (payments + failures + 2)
    return means
