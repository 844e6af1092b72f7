"""learn2learn 0.2.0's checkpoints: state dicts of its `MAML` and `MetaSGD`, in and out.

Both wrap a module and save its parameters as `module.<name>`. `MetaSGD` adds `lrs.0`, `lrs.1`, ..., the step
sizes in the order of the module's parameters. Neither saves `lr`, `first_order` or `allow_unused`, so that
the caller says with which learner a state dict is to be used.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtrl.errors import CheckpointError, UsageError
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.parameters import MetaParams
from mtrl.nets import Params

__all__ = ["from_learn2learn", "read_learn2learn", "to_learn2learn"]

# What learn2learn's learners always do, in terms of our options.
_ALWAYS: dict[str, Any] = {
    "step_size_by_prefix": {},
    "later_step_scale": 1.0,
    "later_step_decay": 1.0,
    "adapted": (),
    "per_step": False,
}
_LEARNS = {"granularity": "parameter", "positive": False}


def read_learn2learn(path: Path | str) -> dict[str, Tensor]:
    """Read a state dict that `torch.save` wrote, with torch's reader for tensors only.

    Raises:
        CheckpointError: the file cannot be read, or holds anything but named tensors. No code in it is run.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors, so it is not loaded; "
            "save `learner.state_dict()`, not the learner"
        ) from error
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise CheckpointError(f"{path} is not a state dict: it holds more than named tensors")
    return dict(state)


def from_learn2learn(
    state: Mapping[str, Tensor], learner: MAML | MetaSGD, names: Mapping[str, str] | None = None
) -> MetaParams:
    """Return copies of the meta-parameters in a state dict of learn2learn's `MAML` or `MetaSGD`.

    Args:
        state: the state dict, in its own order.
        learner: what learn2learn does not save: `MAML(step_size=lr, first_order=...)` or
            `MetaSGD(first_order=...)`.
        names: our name for each of learn2learn's parameters, such as `{"0.weight": "layers.0.weight"}`;
            without it they keep theirs, as `torch.func.functional_call` wants them.

    Raises:
        UsageError: the learner does what learn2learn's cannot, or an entry is unknown, missing, or not
            shaped like its parameter; the message names it.
    """
    _check_options(learner, _ALWAYS | _LEARNS)
    theirs = [key.removeprefix("module.") for key in state if key.startswith("module.")]
    names = {name: name for name in theirs} if names is None else names
    learned = [f"lrs.{i}" for i in range(len(names))] if isinstance(learner, MetaSGD) else []
    _check_keys(state, [*(f"module.{name}" for name in names), *learned], learner)
    params = {names[name]: state[f"module.{name}"].detach().clone() for name in theirs}
    step_sizes: Params = {}
    for key, (name, value) in zip(learned, params.items() if learned else (), strict=True):
        if state[key].shape != value.shape:
            raise UsageError(
                f"{key} is shaped {tuple(state[key].shape)} and its parameter {name} "
                f"{tuple(value.shape)}; give each value a step size of its own"
            )
        step_sizes[name] = state[key].detach().clone()
    return MetaParams(params, step_sizes)


def to_learn2learn(
    meta: MetaParams, learner: MAML | MetaSGD, names: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Return copies of the meta-parameters as the state dict of learn2learn's `MAML` or `MetaSGD`.

    Step sizes that several parameters share are written out; they then adapt as before, but learn2learn
    would train them separately.

    Args:
        meta: the meta-parameters, in the order of the module's parameters.
        learner: decides between `MAML`, whose `lr` is not part of the state dict, and `MetaSGD`.
        names: as for `from_learn2learn`.

    Raises:
        UsageError: the learner does what learn2learn's cannot, or `names` do not fit the parameters.
    """
    _check_options(learner, _ALWAYS)
    theirs = {ours: name for name, ours in (names or {name: name for name in meta.params}).items()}
    if theirs.keys() != meta.params.keys():
        wrong = ", ".join(sorted(theirs.keys() ^ meta.params.keys()))
        raise UsageError(f"names must hold each parameter once; unknown or missing: {wrong}")
    state = {f"module.{theirs[name]}": value.clone() for name, value in meta.params.items()}
    if isinstance(learner, MetaSGD):
        (alpha,) = learner.step_sizes(meta.step_sizes, meta.params, 1)
        for i, (name, value) in enumerate(meta.params.items()):
            state[f"lrs.{i}"] = alpha[name].expand_as(value).clone()
    return state


def _check_options(learner: MAML | MetaSGD, required: Mapping[str, Any]) -> None:
    for option, value in required.items():
        actual = getattr(learner, option, value)
        if actual != value:
            raise UsageError(
                f"{option} is {actual!r}, which learn2learn has no equivalent for; use {value!r}"
            )


def _check_keys(
    state: Mapping[str, Tensor], expected: Sequence[str], learner: MAML | MetaSGD
) -> None:
    kind = type(learner).__name__
    for key in expected:
        if key not in state:
            raise UsageError(f"{key} is missing: not the state dict of this module in a {kind}")
    for key, value in state.items():
        if key not in expected:
            raise UsageError(
                f"{key} is unknown: a {kind} of this module holds {', '.join(expected)}"
            )
        if not value.is_floating_point():
            raise UsageError(f"{key} is of {value.dtype}: a buffer, which does not adapt")
