"""ALP-GMM: tasks near those whose returns were changing, over a box of tasks.

Source: Portelas et al. 2019 (arXiv:1910.07224), section 3 and algorithm 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mtrl.envs.curricula.box import BoxCurriculum, TaskBox
from mtrl.envs.curricula.mixtures import Mixture, akaike, fit_mixture
from mtrl.envs.curricula.protocol import Array, check_share
from mtrl.errors import UsageError

__all__ = ["AlpGmm", "AlpSettings", "absolute_progress"]

_FEWEST = 5
"""Absolute learning progress is 0 until more episodes than this are there to compare with."""


@dataclass(frozen=True, kw_only=True)
class AlpSettings:
    """The constants; the defaults are the paper's.

    Args:
        lowest, highest: returns that are scaled to 0 and 1: learning progress is a coordinate of
            the mixture, and would outweigh the task's if it were larger.
        fit_every: episodes from one fit to the next, and that each is of.
        random: share of tasks that are drawn uniformly.
        most_components: the mixture has 2 to this many, by Akaike's criterion.

    Raises:
        UsageError: a parameter out of range.
    """

    lowest: float
    highest: float
    fit_every: int = 250
    random: float = 0.2
    most_components: int = 10

    def __post_init__(self) -> None:
        check_share("random", self.random)
        if not self.lowest < self.highest:
            raise UsageError(
                f"lowest is {self.lowest} and highest {self.highest}; it must be lower"
            )
        if not 2 <= self.most_components <= self.fit_every:
            raise UsageError(
                f"most_components is {self.most_components}; it must be in [2, {self.fit_every}], "
                "the episodes of a fit"
            )


def absolute_progress(points: Array, returns: Array, point: Array, value: float) -> float:
    """Return |value - return of the nearest earlier task|; 0 unless more than 5 are known.

    Args:
        points: (episodes, dimensions), each dimension in [0, 1].
        returns: (episodes,).
        point: (dimensions,), of the new episode.
        value: its return.
    """
    if len(points) <= _FEWEST:
        return 0.0
    nearest = ((points - point) ** 2).sum(axis=1).argmin()
    return float(abs(value - returns[nearest]))


class AlpGmm(BoxCurriculum):
    """Tasks from a Gaussian mixture over tasks and their absolute learning progress.

    A component is chosen in proportion to its mean progress. All is uniform until the first fit.
    Tasks outside the box are clipped to it.

    Args:
        box: the tasks.
        rng: the curriculum's own generator.
        settings: see `AlpSettings`.

    Attributes:
        mixture: of (task in the unit cube, progress); None before the first fit.
    """

    kind = "alp-gmm"

    def __init__(self, box: TaskBox, rng: np.random.Generator, settings: AlpSettings) -> None:
        super().__init__(box, rng)
        self.settings, self.lag = settings, settings.fit_every - 1
        self.mixture: Mixture | None = None
        # One row per episode: its task, its scaled return, its progress.
        self._episodes = np.empty((0, box.dimensions + 2))

    @property
    def progress(self) -> float:
        """Mean absolute learning progress of the last `fit_every` episodes; 0 before the first."""
        recent = self._episodes[-self.settings.fit_every :, -1]
        return float(recent.mean()) if len(recent) else 0.0

    def _draw(self) -> tuple[Array, int | None]:
        if self.mixture is None or self.rng.random() < self.settings.random:
            return self.rng.random(self.box.dimensions), None
        progress = np.maximum(self.mixture.means[:, -1], 0)
        shares = progress / progress.sum() if progress.sum() > 0 else None
        chosen = self.rng.choice(len(progress), p=shares)
        mean, covariance = self.mixture.means[chosen], self.mixture.covariances[chosen]
        drawn = self.rng.multivariate_normal(mean, covariance, method="cholesky")
        return drawn[:-1].clip(0, 1), None

    def _learn(self, point: Array, outcome: float, label: int | None) -> None:
        low, high = self.settings.lowest, self.settings.highest
        value = (outcome - low) / (high - low)
        known = self._episodes
        progress = absolute_progress(known[:, :-2], known[:, -2], point, value)
        self._episodes = np.vstack([known, [*point, value, progress]])
        if len(self._episodes) % self.settings.fit_every == 0:
            self._fit()

    def _fit(self) -> None:
        rows = np.delete(self._episodes[-self.settings.fit_every :], -2, axis=1)
        counts = range(2, self.settings.most_components + 1)
        fitted = [fit_mixture(rows, count, self.rng) for count in counts]
        self.mixture = min(fitted, key=lambda mixture: akaike(mixture, rows))

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {"episodes": torch.from_numpy(self._episodes.copy())}
        if self.mixture is not None:
            arrays = vars(self.mixture).items()
            tensors |= {name: torch.from_numpy(array.copy()) for name, array in arrays}
        return tensors, {}

    def _set_state(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
        self._episodes = arrays.pop("episodes")
        self.mixture = Mixture(**arrays) if arrays else None
