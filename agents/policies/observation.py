"""The observation taken apart: what was seen, and which task it was seen in."""

import math
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from mtrl.agents.networks import TaskInput
from mtrl.errors import UsageError

__all__ = ["TaskObservation"]


class TaskObservation(BaseFeaturesExtractor):
    """Takes observation and context apart, in both layouts of `mtrl.envs.wrappers.TaskContext`.

    Features are the flattened observation and then the context.

    Args:
        observation_space: a Box with the context at its end, or a Dict of Boxes "observation" and
            "context".
        context: length of the context.
        one_hot: whether the context is the number of the task, or else parameters of it.

    Attributes:
        shape: of the observation without its context.

    Raises:
        UsageError: a space that is neither, or has no room for the context.
    """

    _numbers: Tensor
    _units: Tensor

    def __init__(
        self, observation_space: gym.Space[Any], *, context: int, one_hot: bool = True
    ) -> None:
        self.shape = _shape_without_context(observation_space, context)
        self.one_hot = one_hot
        super().__init__(observation_space, math.prod(self.shape) + context)
        # Not persistent: they say nothing that the sizes do not.
        self.register_buffer("_numbers", torch.arange(context, dtype=torch.float32), False)
        self.register_buffer("_units", torch.eye(context), False)

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Return (batch, observation + context)."""
        if isinstance(observations, Tensor):
            return observations
        parts = (observations["observation"].flatten(1), observations["context"])
        return torch.cat(parts, 1)

    def split(self, features: Tensor) -> tuple[Tensor, TaskInput]:
        """Return observations (batch, *shape) and their tasks from what `forward` returned.

        Where the context holds parameters, all tasks have the number 0.

        Raises:
            UsageError: a context is not one-hot, or not finite; the message names its place.
        """
        size = math.prod(self.shape)
        observations, context = features[:, :size], features[:, size:]
        task = TaskInput(self._number(context), context)
        return observations.reshape(-1, *self.shape), task

    def _number(self, context: Tensor) -> Tensor:
        if not self.one_hot:
            if not torch.isfinite(context).all():
                raise _fault(context, ~torch.isfinite(context).all(1), "is not finite")
            return torch.zeros(len(context), dtype=torch.int64, device=context.device)
        # A product finds the place of the 1 in a quarter of the time of `argmax`; what it finds in
        # any other context is refused.
        index = (context @ self._numbers).long().clamp_(0, len(self._numbers) - 1)
        units = self._units.index_select(0, index)
        if not torch.equal(context, units):
            raise _fault(context, (context != units).any(1), "is not one-hot")
        return index


def _fault(context: Tensor, bad: Tensor, fault: str) -> UsageError:
    place = int(bad.nonzero()[0, 0])
    return UsageError(
        f"the context of observation {place} is {context[place].tolist()}, which {fault}; "
        "the context must reach the policy as TaskContext gives it, normalise the "
        "observation inside that wrapper"
    )


def _shape_without_context(space: gym.Space[Any], context: int) -> tuple[int, ...]:
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        if 1 <= context < space.shape[0]:
            return (space.shape[0] - context,)
        raise UsageError(
            f"context is {context} and the observation space {space}; the context is a part of it, "
            "give the length that TaskContext appended"
        )
    parts = space.spaces if isinstance(space, gym.spaces.Dict) else {}
    boxes = {name: part.shape for name, part in parts.items() if isinstance(part, gym.spaces.Box)}
    if set(parts) != {"observation", "context"} or boxes.keys() != parts.keys():
        raise UsageError(
            f"the observation space is {space}; it must be a vector that ends in the context or a "
            'Dict of Boxes "observation" and "context", wrap the environment in TaskContext'
        )
    if boxes["context"] != (context,):
        raise UsageError(
            f"context is {context} and the space of the context has shape {boxes['context']}"
        )
    return boxes["observation"]
