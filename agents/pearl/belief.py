"""What is believed about a task: a diagonal Gaussian over the latent numbers that stand for it.

Each transition gives one Gaussian factor, and a belief is their normalised product (Rakelly et al. 2019, section
4.2). A product does not depend on the order of its factors, and may be taken part by part. As in the authors' code
the prior is no factor: it is what is believed of a task before its first transition, and where beliefs are drawn to.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Belief", "prior_belief", "product_of_gaussians"]


class Belief(NamedTuple):
    """Independent Gaussians: `mean` and `variance`, each (..., latent)."""

    mean: Tensor
    variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal `noise` (..., latent) into latents, differentiably."""
        return self.mean + self.variance.sqrt() * noise

    def divergence(self) -> Tensor:
        """Return the KL divergence from the prior N(0, 1) to this, in nats, (...)."""
        return 0.5 * (self.variance + self.mean.square() - 1 - self.variance.log()).sum(-1)


def prior_belief(tasks: int, latent: int, device: torch.device | str = "cpu") -> Belief:
    """Return what is believed of tasks that nothing is known of: N(0, 1), each (tasks, latent)."""
    shape = (tasks, latent)
    return Belief(torch.zeros(shape, device=device), torch.ones(shape, device=device))


def product_of_gaussians(factors: Belief, weights: Tensor | None = None) -> Belief:
    """Return the normalised product over the second to last axis: precisions add up.

    Args:
        factors: each (..., factors, latent).
        weights: (..., factors), 1 for those that count and 0 for the rest; at least one counts.
    """
    precision = 1 / factors.variance
    if weights is not None:
        precision = precision * weights.unsqueeze(-1)
    total = precision.sum(-2)
    return Belief((precision * factors.mean).sum(-2) / total, 1 / total)
