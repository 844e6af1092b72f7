"""Gittins indices of a Bernoulli arm, and the best reward there is, by dynamic programming.

An arm whose chance has the prior Beta(1, 1) has, after s payments and f failures, the mean
p = (s + 1) / (s + f + 2). Its index is the charge per pull at which pulling it on, for as long as one
likes, is worth no more than leaving it (Gittins 1979; Gittins, Glazebrook and Weber 2011, chapter 1): the
charge c at which

    Q(s, f; c) = p - c + gamma * (p V(s + 1, f; c) + (1 - p) V(s, f + 1; c)),    V = max(Q, 0)

is zero. With pulls discounted for ever, playing the arm of the highest index is optimal. With a fixed
number of pulls left and no discount the same rule with Q of that horizon is not, but near it (Lattimore
2016, arXiv:1511.06014); for few pulls `optimal_reward` says how near.

Q falls in c and is convex, made of straight pieces. It is computed on a grid of charges, and the zero
found by a line between neighbours: exact where no corner lies between them, and never off by more than
the grid's spacing.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mtrl.errors import UsageError

__all__ = ["CHARGES", "discounted_indices", "finite_horizon_indices", "optimal_reward"]

Array = NDArray[np.float64]

CHARGES = 1025
"""Points of the grid of charges from 0 to 1."""
_CHUNK = 128


def finite_horizon_indices(pulls: int) -> Array:
    """Return indices (remaining, payments, failures), each axis 0 to `pulls`, without a discount.

    An arm's index depends on how many pulls remain, the next included. What cannot occur in `pulls`
    pulls is NaN.

    Raises:
        UsageError: there is no pull.
    """
    _check_pulls(pulls)
    indices = np.full((pulls + 1, pulls + 1, pulls + 1), np.nan)
    for charges in _chunks():
        value = np.zeros((pulls + 1, pulls + 1, len(charges)))
        for remaining in range(1, pulls + 1):
            # An arm was pulled at most this often before.
            size = pulls - remaining + 1
            gain = _gain(size, value, charges, 1.0)
            _note_zeros(indices[remaining, :size, :size], gain, charges)
            value = np.maximum(gain, 0.0)
    return _only_possible(indices)


def discounted_indices(pulls: int, discount: float, beyond: int = 500) -> Array:
    """Return indices (payments, failures), each axis 0 to `pulls` - 1, for pulls discounted for ever.

    After `beyond` more pulls the chance is taken for known, which is wrong by about discount**beyond.

    Raises:
        UsageError: there is no pull, or the discount is not between 0 and 1.
    """
    _check_pulls(pulls)
    if not 0 < discount < 1:
        raise UsageError(f"discount is {discount}; it must lie between 0 and 1")
    indices = np.full((pulls, pulls), np.nan)
    total = pulls + beyond
    for charges in _chunks():
        # Along a row only the payments vary: the failures are what is missing to the total.
        paid = np.arange(total + 1)[:, None]
        value = np.maximum((paid + 1) / (total + 2) - charges, 0.0) / (1 - discount)
        for pulled in reversed(range(total)):
            mean = (np.arange(pulled + 1)[:, None] + 1) / (pulled + 2)
            later = mean * value[1 : pulled + 2] + (1 - mean) * value[: pulled + 1]
            gain = mean - charges + discount * later
            if pulled < pulls:
                payments = np.arange(pulled + 1)
                row = indices[payments, pulled - payments]
                _note_zeros(row, gain, charges)
                indices[payments, pulled - payments] = row
            value = np.maximum(gain, 0.0)
    return _only_possible(indices)


def optimal_reward(arms: int, pulls: int) -> float:
    """Return the mean total reward of the Bayes-optimal policy, for arms with uniform chances.

    Exact, by recursion over what can be known; arms with equal records are the same. There are 4,432
    such states for 10 pulls, and far too many for 100.

    Raises:
        UsageError: there is no pull.
    """
    _check_pulls(pulls)

    @cache
    def best(known: tuple[tuple[int, int], ...], remaining: int) -> float:
        """`known` are the sorted records of the arms that were pulled."""
        if remaining == 0:
            return 0.0
        options = set(known) | ({(0, 0)} if len(known) < arms else set())
        return max(worth(known, option, remaining) for option in options)

    def worth(known: tuple[tuple[int, int], ...], option: tuple[int, int], remaining: int) -> float:
        rest = list(known)
        if option in rest:
            rest.remove(option)
        paid, failed = option
        mean = (paid + 1) / (paid + failed + 2)
        success, failure = (
            best(tuple(sorted([*rest, then])), remaining - 1)
            for then in ((paid + 1, failed), (paid, failed + 1))
        )
        return mean * (1 + success) + (1 - mean) * failure

    return best((), pulls)


def _check_pulls(pulls: int) -> None:
    if pulls < 1:
        raise UsageError(f"pulls is {pulls}; there is at least 1")


def _chunks() -> list[Array]:
    """Return the grid in parts that share their ends, so that every zero lies within one."""
    grid = np.linspace(0.0, 1.0, CHARGES)
    return [grid[first : first + _CHUNK + 1] for first in range(0, CHARGES - 1, _CHUNK)]


def _gain(size: int, value: Array, charges: Array, discount: float) -> Array:
    """Return Q (payments, failures, charges) for counts below `size`, from the values after it."""
    paid, failed = np.ogrid[:size, :size]
    mean = ((paid + 1) / (paid + failed + 2))[..., None]
    later = mean * value[1 : size + 1, :size] + (1 - mean) * value[:size, 1 : size + 1]
    gain: Array = mean - charges + discount * later
    return gain


def _note_zeros(indices: Array, gain: Array, charges: Array) -> None:
    """Write into `indices` (...) where `gain` (..., charges) crosses zero, if it does here."""
    last = (gain >= 0).sum(-1) - 1
    here = (last >= 0) & (last < len(charges) - 1)
    at = np.clip(last, 0, len(charges) - 2)[..., None]
    above, below = (np.take_along_axis(gain, at + step, -1)[..., 0] for step in (0, 1))
    zero = charges[at[..., 0]] + above / (above - below) * (charges[1] - charges[0])
    indices[here] = zero[here]


def _only_possible(indices: Array) -> Array:
    """Blank what cannot occur: more pulls than there are."""
    paid, failed = np.ogrid[: indices.shape[-2], : indices.shape[-1]]
    possible = paid + failed < indices.shape[-1]
    if indices.ndim == 3:
        remaining = np.arange(len(indices))[:, None, None]
        possible = (paid + failed + remaining < len(indices)) & (remaining > 0)
    return np.where(possible, indices, np.nan)
