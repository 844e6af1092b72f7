"""What meta-training learns, as named tensors or as one vector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.nets import Params

__all__ = ["MetaParams", "as_one", "flatten", "unflatten"]


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


@torch.no_grad()
def as_one(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return one vector of which all values are views in the mapping's order; they are moved there if they are not yet.

    What is done to the vector is done to them, and the other way round.
    """
    values = list(tensors.values())
    first, size = values[0], sum(value.numel() for value in values)
    if _one_after_another(values):
        return first.as_strided((size,), (1,))
    vector = flatten(tensors)
    for value, piece in zip(values, unflatten(vector, tensors).values(), strict=True):
        value.set_(piece.untyped_storage(), piece.storage_offset(), piece.shape, piece.stride())
    return vector


def _one_after_another(values: Sequence[Tensor]) -> bool:
    """Whether values are stored contiguously, each where the one before ends, in one storage."""
    place, storage = values[0].storage_offset(), values[0].untyped_storage().data_ptr()
    for value in values:
        if value.storage_offset() != place or value.untyped_storage().data_ptr() != storage:
            return False
        if not value.is_contiguous():
            return False
        place += value.numel()
    return True


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
