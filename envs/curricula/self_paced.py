"""Self-paced learning: a Gaussian over tasks that moves to a target as fast as performance lets it.

Source: Klink et al. 2021 (arXiv:2102.13176), section 5: the form with a bound on performance, which
replaces the schedule of alpha of Klink et al. 2020 (arXiv:2004.11812). With p the new distribution,
p' the one before, mu the target and E_w[V] = mean_i p(c_i) / p'(c_i) V_i:

- performance at least `performance`: minimise KL(p || mu), subject to E_w[V] >= `performance` and
  KL(p' || p) <= `kl_bound`;
- never yet at least `performance`: maximise E_w[V], subject to KL(p' || p) <= `kl_bound`;
- else leave it.

As in the authors' code, V_i is given from outside, and c_i are the tasks as clipped to the box,
which biases the weights of tasks at its border.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import Bounds, NonlinearConstraint, minimize
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from mtrl.envs.curricula.box import BoxCurriculum, TaskBox
from mtrl.envs.curricula.protocol import Array
from mtrl.errors import UsageError

__all__ = ["Gaussian", "SelfPaced", "SelfPacedSettings"]

_SLACK = 1e-6
"""By how much a solution may violate a constraint."""

_INSIDE = 1e-4
"""How far above the bound of a logarithm of a deviation a search begins, at least."""


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """A normal distribution in the unit cube: its mean (d,) and Cholesky factor (d, d)."""

    mean: Array
    factor: Array

    @classmethod
    def diagonal(cls, mean: Any, std: Any) -> "Gaussian":
        """Return independent coordinates of these means and deviations, (d,) each.

        Raises:
            UsageError: a mean is not finite, a deviation not positive, or their numbers differ.
        """
        means, stds = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        fit = means.ndim == 1 and means.shape == stds.shape
        if not fit or not np.isfinite(means).all() or not (stds > 0).all():
            raise UsageError(
                f"mean is {means} and std {stds}; give one finite mean and one positive deviation "
                "per coordinate"
            )
        return cls(mean=means, factor=np.diag(stds))


@dataclass(frozen=True, kw_only=True)
class SelfPacedSettings:
    """How fast the distribution moves.

    Args:
        performance: the mean outcome that it must keep.
        episodes: results from one update to the next.
        kl_bound: epsilon, of each update.
        least_std: lower bound of the diagonal of the Cholesky factor, in units of the family's
            ranges, while KL(p' || mu) is above `kl_threshold`; 0 for none.
        kl_threshold: see `least_std`.

    Raises:
        UsageError: a parameter out of range.
    """

    performance: float
    episodes: int = 100
    kl_bound: float = 0.05
    least_std: float = 0.0
    kl_threshold: float = 8000.0

    def __post_init__(self) -> None:
        if self.episodes < 2 or not self.kl_bound > 0 or not self.least_std >= 0:
            raise UsageError(
                f"episodes is {self.episodes}, kl_bound {self.kl_bound} and least_std "
                f"{self.least_std}; at least 2, positive, and not negative are needed"
            )


@dataclass(frozen=True, kw_only=True)
class _Limit:
    """A constraint low <= value(parameters) <= high."""

    value: Callable[[Tensor], Tensor]
    low: float = -math.inf
    high: float = math.inf

    def _relaxed(self) -> tuple[float, float]:
        # The solver is an interior-point one: it cannot begin at a bound.
        return self.low - _SLACK * max(1.0, abs(self.low)), self.high + _SLACK

    def holds(self, parameters: Array) -> bool:
        low, high = self._relaxed()
        return low <= _evaluated(self.value, parameters)[0] <= high

    def for_scipy(self) -> Any:
        return NonlinearConstraint(
            lambda parameters: _evaluated(self.value, parameters)[0],
            *self._relaxed(),
            jac=lambda parameters: _evaluated(self.value, parameters)[1][None],
            keep_feasible=True,
        )


def _evaluated(function: Callable[[Tensor], Tensor], parameters: Array) -> tuple[float, Array]:
    """Return the value of `function` and its gradient."""
    given = torch.tensor(parameters, dtype=torch.float64, requires_grad=True)
    value = function(given)
    (gradient,) = torch.autograd.grad(value, given)
    return float(value.detach()), gradient.numpy()


@cache
def _below_diagonal(width: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.tril_indices(width, width, -1)
    return rows, columns


def _parameters(gaussian: Gaussian) -> Array:
    """Return the mean, the logarithms of the factor's diagonal, and what is below it."""
    below = gaussian.factor[np.tril_indices(len(gaussian.mean), -1)]
    return np.concatenate([gaussian.mean, np.log(np.diag(gaussian.factor)), below])


def _factor(parameters: Tensor, width: int) -> tuple[Tensor, Tensor]:
    mean, logs, below = parameters[:width], parameters[width : 2 * width], parameters[2 * width :]
    return mean, torch.diag(logs.exp()).index_put(_below_diagonal(width), below)


def _normal(parameters: Tensor, width: int) -> MultivariateNormal:
    mean, factor = _factor(parameters, width)
    return MultivariateNormal(mean, scale_tril=factor, validate_args=False)


def _log_density(normal: Any, points: Tensor) -> Tensor:
    density: Tensor = normal.log_prob(points)  # which torch leaves without types
    return density


def _minimized(
    objective: Callable[[Tensor], Tensor], limits: list[_Limit], start: Array, lowest: Array
) -> Array | None:
    """Return better parameters than `start` within the limits, or None if none were found."""
    if not all(limit.holds(start) for limit in limits):
        return None
    with warnings.catch_warnings():
        # Its quasi-Newton updates warn of steps along which a gradient did not change.
        warnings.simplefilter("ignore", UserWarning)
        result = minimize(
            lambda parameters: _evaluated(objective, parameters),
            start,
            jac=True,
            method="trust-constr",
            bounds=Bounds(lowest, np.inf, keep_feasible=True),
            constraints=[limit.for_scipy() for limit in limits],
            options={"gtol": 1e-4, "xtol": 1e-6},
        )
    found: Array = np.maximum(result.x, lowest)
    holds = np.isfinite(found).all() and all(limit.holds(found) for limit in limits)
    better = _evaluated(objective, found)[0] < _evaluated(objective, start)[0]
    return found if holds and better else None


class SelfPaced(BoxCurriculum):
    """Tasks from a Gaussian that begins at `start` and moves to `target`.

    A proposal's label counts the changes of the distribution before it; results of tasks that were
    drawn before the last change are dropped, for their weights are not known.

    Args:
        box: the tasks; draws outside it are clipped.
        rng: the curriculum's own generator.
        settings: see `SelfPacedSettings`.
        start: in the coordinates of the unit cube, as `target`.
        target: mu.

    Attributes:
        gaussian: the present distribution.
        reached: whether the mean outcome has ever been at least `performance`.

    Raises:
        UsageError: a distribution of other dimensions than the box.
    """

    kind = "self-paced"

    def __init__(
        self,
        box: TaskBox,
        rng: np.random.Generator,
        settings: SelfPacedSettings,
        *,
        start: Gaussian,
        target: Gaussian,
    ) -> None:
        super().__init__(box, rng)
        for name, one in (("start", start), ("target", target)):
            if len(one.mean) != box.dimensions:
                raise UsageError(
                    f"{name} has {len(one.mean)} coordinates; the box has {box.dimensions}"
                )
        self.settings, self.gaussian, self.lag = settings, start, settings.episodes - 1
        self.reached = False
        self._target = torch.from_numpy(_parameters(target))
        self._changes = 0
        self._points: list[list[float]] = []
        self._outcomes: list[float] = []

    def _draw(self) -> tuple[Array, int | None]:
        noise = self.rng.standard_normal(self.box.dimensions)
        return self.gaussian.mean + self.gaussian.factor @ noise, self._changes

    def _learn(self, point: Array, outcome: float, label: int | None) -> None:
        if label is not None and label != self._changes:
            return
        self._points.append(point.tolist())
        self._outcomes.append(outcome)
        if len(self._outcomes) == self.settings.episodes:
            self._update()
            self._points, self._outcomes = [], []

    def divergence(self) -> float:
        """Return KL(p || mu) of the present distribution, in nats."""
        return float(self._to_target(torch.from_numpy(_parameters(self.gaussian))))

    def _to_target(self, parameters: Tensor) -> Tensor:
        width = self.box.dimensions
        return kl_divergence(_normal(parameters, width), _normal(self._target, width))

    def _update(self) -> None:
        width, bound = self.box.dimensions, self.settings.performance
        before = _parameters(self.gaussian)
        old = _normal(torch.from_numpy(before), width)
        points = torch.tensor(self._points, dtype=torch.float64)
        outcomes = torch.tensor(self._outcomes, dtype=torch.float64)
        densities = _log_density(old, points)

        def performance(parameters: Tensor) -> Tensor:
            weights = (_log_density(_normal(parameters, width), points) - densities).exp()
            weighted: Tensor = weights * outcomes
            return weighted.mean()

        def moved(parameters: Tensor) -> Tensor:
            return kl_divergence(old, _normal(parameters, width))

        lowest = self._lowest()
        start = np.maximum(before, lowest + _INSIDE)
        limits = [_Limit(value=moved, high=self.settings.kl_bound)]
        if outcomes.mean() >= bound:
            self.reached = True
            limits.append(_Limit(value=performance, low=bound))
            found = _minimized(self._to_target, limits, start, lowest)
        elif not self.reached:
            found = _minimized(lambda at: -performance(at), limits, start, lowest)
        else:
            return
        if found is not None:
            self._change(found)

    def _lowest(self) -> Array:
        """Return the lower bounds of the parameters."""
        width, least = self.box.dimensions, self.settings.least_std
        lowest = np.full(2 * width + width * (width - 1) // 2, -np.inf)
        if least > 0 and self.divergence() > self.settings.kl_threshold:
            lowest[width : 2 * width] = math.log(least)
        return lowest

    def _change(self, parameters: Array) -> None:
        mean, factor = _factor(torch.from_numpy(parameters), self.box.dimensions)
        self.gaussian = Gaussian(mean=mean.numpy().copy(), factor=factor.numpy().copy())
        self._changes += 1

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        arrays = vars(self.gaussian).items()
        return {name: torch.from_numpy(array.copy()) for name, array in arrays}, {
            "reached": self.reached,
            "changes": self._changes,
            "points": list(self._points),
            "outcomes": list(self._outcomes),
        }

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        mean, factor = tensors["mean"].numpy().copy(), tensors["factor"].numpy().copy()
        self.gaussian = Gaussian(mean=mean, factor=factor)
        self.reached, self._changes = bool(values["reached"]), int(values["changes"])
        self._points = [list(point) for point in values["points"]]
        self._outcomes = list(values["outcomes"])
