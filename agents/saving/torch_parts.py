"""Networks and optimisers of an agent as values for a checkpoint, and back with every shape checked."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtrl.agents.saving.tree import check_alike
from mtrl.errors import CheckpointError

__all__ = [
    "check_names",
    "load_module",
    "load_optimizer",
    "load_tensor",
    "module_state",
    "optimizer_state",
]


def check_names(place: str, saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Check that both have the same names.

    Raises:
        CheckpointError: they have not; the message names the first that only one has.
    """
    for name in sorted(saved.keys() ^ here.keys()):
        where = "in the checkpoint and not here" if name in saved else "here and not in it"
        raise CheckpointError(f"{place}/{name} is {where}; the agent is of another architecture")


def module_state(module: nn.Module) -> dict[str, Any]:
    """Return parameters and buffers by name; what is no tensor is a module's own extra state."""
    # A compiled module has the names of the one that was compiled.
    return dict(getattr(module, "_orig_mod", module).state_dict())


def load_module(module: nn.Module, place: str, saved: Mapping[str, Any]) -> None:
    """Write parameters and buffers into `module`.

    Raises:
        CheckpointError: a name or a shape differs; nothing was written.
    """
    module = getattr(module, "_orig_mod", module)
    here = module_state(module)
    check_names(place, saved, here)
    for name, value in here.items():
        if isinstance(value, Tensor):
            check_alike(f"{place}/{name}", saved[name], value)
    module.load_state_dict(dict(saved))


def load_tensor(place: str, saved: Any, here: Tensor) -> None:
    """Write a saved tensor into the one that others refer to.

    Raises:
        CheckpointError: it is of another shape or dtype.
    """
    check_alike(place, saved, here)
    with torch.no_grad():
        here.copy_(saved)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return per parameter, by its number, what the optimiser remembers, and its hyperparameters."""
    state = optimizer.state_dict()
    return {
        "state": {str(index): dict(kept) for index, kept in state["state"].items()},
        "groups": state["param_groups"],
    }


def load_optimizer(optimizer: torch.optim.Optimizer, place: str, saved: Mapping[str, Any]) -> None:
    """Make `optimizer` what the saved one was.

    Raises:
        CheckpointError: it has other parameters or other hyperparameters' names, or remembers
            something of another shape than the parameter; nothing was written.
    """
    here = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["groups"]] != [group["params"] for group in here]:
        raise CheckpointError(f"{place} is an optimiser of other parameters in the checkpoint")
    for number, (old, new) in enumerate(zip(saved["groups"], here, strict=True)):
        check_names(f"{place}/groups/{number}", old, new)
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    for index, kept in saved["state"].items():
        _check_kept(f"{place}/state/{index}", kept, parameters[int(index)])
    state = {int(index): kept for index, kept in saved["state"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": saved["groups"]})


def _check_kept(place: str, kept: Mapping[str, Any], parameter: Tensor) -> None:
    for name, value in kept.items():
        # A count of steps is one number whatever the parameter's shape.
        if isinstance(value, Tensor) and value.ndim > 0 and value.shape != parameter.shape:
            raise CheckpointError(
                f"{place}/{name} has shape {tuple(value.shape)} in the checkpoint and its "
                f"parameter {tuple(parameter.shape)} here"
            )
