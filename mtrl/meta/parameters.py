"""What meta-training learns, as named tensors or as one vector."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.nets import Params

__all__ = ["MetaParams", "flatten", "unflatten"]


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """Concatenate all values, in the mapping's order, to one vector."""
    return torch.cat([value.reshape(-1) for value in tensors.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut `vector` into views named and shaped as `like`."""
    pieces = torch.split(vector, [value.numel() for value in like.values()])
    return {
        name: piece.view(value.shape)
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }


@dataclass(frozen=True)
class MetaParams:
    """What meta-training learns: shared parameters and step sizes, without a graph."""

    params: Params
    step_sizes: Params

    def flat(self) -> Tensor:
        """Concatenate parameters, then step sizes, to one vector."""
        return flatten(self.named())

    def like(self, vector: Tensor) -> "MetaParams":
        """Cut `vector` into parameters and step sizes shaped as these."""
        pieces = unflatten(vector, self.named())
        return MetaParams(
            {name: pieces[f"params.{name}"] for name in self.params},
            {name: pieces[f"step_sizes.{name}"] for name in self.step_sizes},
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.params.values())).device

    def named(self) -> dict[str, Tensor]:
        """Return all tensors under `params.<name>` and `step_sizes.<name>`, as checkpoints hold them."""
        params = {f"params.{name}": value for name, value in self.params.items()}
        return params | {f"step_sizes.{name}": value for name, value in self.step_sizes.items()}

    @classmethod
    def from_named(cls, tensors: Mapping[str, Tensor]) -> "MetaParams":
        """Undo `named`; other names are ignored."""
        groups: dict[str, Params] = {"params": {}, "step_sizes": {}}
        for key, value in tensors.items():
            group, _, name = key.partition(".")
            if group in groups:
                groups[group][name] = value
        return cls(groups["params"], groups["step_sizes"])
