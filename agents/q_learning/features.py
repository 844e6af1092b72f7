"""Observations on one scale, as a part of the network: everything else sees them as they are."""

from collections.abc import Sequence

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from mtrl.errors import UsageError

__all__ = ["ScaledFeatures"]


class ScaledFeatures(BaseFeaturesExtractor):
    """Multiplies each number of a flat observation by a fixed factor.

    A mountain car's velocity is at most 0.07 and its position 1.2: a network hardly sees the one beside the
    other. Unlike a wrapper it leaves replay, experts and evaluation alone. It is given as
    `policy_kwargs={"features_extractor_class": ScaledFeatures, "features_extractor_kwargs": {"factors": ...}}`.

    Args:
        observation_space: a flat Box.
        factors: one for each of its numbers, not 0.

    Raises:
        UsageError: another number of factors, or a factor that is 0.
    """

    factors: Tensor

    def __init__(self, observation_space: gym.Space[object], factors: Sequence[float]) -> None:
        shape = observation_space.shape
        if shape != (len(factors),) or 0 in factors:
            raise UsageError(
                f"factors are {list(factors)} for observations of shape {shape}; give one for each number, "
                "none of them 0"
            )
        super().__init__(observation_space, features_dim=len(factors))
        self.register_buffer("factors", torch.tensor(list(factors), dtype=torch.float32))

    def forward(self, observations: Tensor) -> Tensor:
        """Return observations (batch, numbers), scaled."""
        return observations * self.factors
