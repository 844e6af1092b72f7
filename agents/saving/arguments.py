"""The arguments that an agent was constructed with, as JSON, and back: values only, never code.

Plain values, linear schedules, settings of networks and balancers, and classes from a fixed list can
be written down. Whatever else an agent was made with (a function, a class of the user's) must be given
again, by whoever loads it.
"""

import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from stable_baselines3.common import torch_layers
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn

from mtrl.agents import balancing, networks, policies, q_learning
from mtrl.agents.multitask.statistics import RewardScaling
from mtrl.config import from_dict, to_dict
from mtrl.errors import CheckpointError, UsageError

__all__ = ["arguments_state", "check_given", "construct"]

_KIND = "$"
_OTHERS = {"self", "policy", "env", "device", "verbose", "tensorboard_log", "_init_setup_model"}
"""Arguments that say nothing of what the agent is, and the policy, which has a rule of its own."""


class _NotWritable(Exception):
    """A value that is not to be had from JSON."""


def arguments_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Return under "given" the constructor's arguments as JSON, and under "missing" other names."""
    given: dict[str, Any] = {}
    missing: list[str] = []
    for name, parameter in _parameters(type(model)):
        value = getattr(model, name, getattr(model, f"_{name}", inspect.Parameter.empty))
        if value is inspect.Parameter.empty or _is_own_choice(parameter, value):
            continue
        try:
            given[name] = _written(value)
        except _NotWritable:
            missing.append(name)
    try:
        given["policy"] = _policy(model)
    except _NotWritable:
        missing.append("policy")
    return {"given": given, "missing": missing}


def check_given(state: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Check that `arguments` has those that could not be written down.

    Raises:
        UsageError: one is missing.
    """
    for name in state["missing"]:
        if name not in arguments:
            raise UsageError(
                f"{name} of the saved agent could not be written down; "
                f"give it again: load_agent(..., {name}=...)"
            )


def construct(
    algorithm: type[BaseAlgorithm], state: Mapping[str, Any], env: Any, arguments: Mapping[str, Any]
) -> BaseAlgorithm:
    """Return a new agent of `algorithm` from what `arguments_state` returned; `arguments` replace it.

    Raises:
        CheckpointError: the state is not one of this algorithm's arguments.
    """
    known = {name for name, _ in _parameters(algorithm)} | {"policy"}
    for name in state["given"]:
        if name not in known:
            raise CheckpointError(f"{algorithm.__name__} has no argument {name}")
    read = {name: _read(value) for name, value in state["given"].items() if name not in arguments}
    make: Any = algorithm
    made: BaseAlgorithm = make(env=env, **read, **arguments)
    return made


def _parameters(algorithm: type) -> Iterator[tuple[str, inspect.Parameter]]:
    """Yield the constructor's parameters; those behind **kwargs are those of the base class."""
    for cls in algorithm.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in parameters.items():
            if parameter.kind in named and name not in _OTHERS:
                yield name, parameter
        if all(each.kind is not each.VAR_KEYWORD for each in parameters.values()):
            return


def _is_own_choice(parameter: inspect.Parameter, value: Any) -> bool:
    """Return whether the algorithm chose the value itself, as it does for buffers' classes."""
    chosen = isinstance(value, type) and issubclass(value, BaseBuffer)
    ours = chosen and value.__module__.startswith(("stable_baselines3.common.", "mtrl."))
    return ours and parameter.default is None


def _policy(model: BaseAlgorithm) -> Any:
    for name, policy in model.policy_aliases.items():
        if policy is model.policy_class:
            return name
    return _written(model.policy_class)


@functools.cache
def _classes() -> Mapping[str, type]:
    """Return the classes that a checkpoint may name."""
    found = [torch_layers.FlattenExtractor, torch_layers.NatureCNN, torch_layers.CombinedExtractor]
    for module, base in ((nn, nn.Module), (torch.optim, torch.optim.Optimizer)):
        members = [getattr(module, name) for name in dir(module)]
        found += [part for part in members if isinstance(part, type) and issubclass(part, base)]
    for package in (policies, networks, balancing):
        members = [getattr(package, name) for name in package.__all__]
        found += [part for part in members if isinstance(part, type)]
    members = [getattr(q_learning, name) for name in q_learning.__all__]
    found += [part for part in members if isinstance(part, type) and dataclasses.is_dataclass(part)]
    return {cls.__qualname__: cls for cls in (*found, RMSpropTFLike, RewardScaling)}


def _written(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and _KIND not in value and all(type(key) is str for key in value):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, TrainFreq):
        return {_KIND: "tuple", "items": [value.frequency, value.unit.value]}
    if isinstance(value, list):
        return [_written(item) for item in value]
    if isinstance(value, tuple):
        return {_KIND: "tuple", "items": [_written(item) for item in value]}
    return _written_object(value)


def _written_object(value: Any) -> Any:
    if isinstance(value, FloatSchedule):
        return _written(value.value_schedule)
    if isinstance(value, ConstantSchedule):
        return value.val
    if isinstance(value, LinearSchedule):
        return {_KIND: "linear-schedule", "from": value.start, "to": value.end} | {
            "fraction": value.end_fraction
        }
    if isinstance(value, type) and _classes().get(value.__qualname__) is value:
        return {_KIND: "class", "name": value.__qualname__}
    if dataclasses.is_dataclass(value) and _classes().get(type(value).__qualname__) is type(value):
        return {_KIND: "settings", "class": type(value).__qualname__, "fields": to_dict(value)}
    raise _NotWritable


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {key: _read(item) for key, item in value.items()}
    if kind == "tuple":
        return tuple(_read(value["items"]))
    if kind == "linear-schedule":
        return LinearSchedule(*(float(value[name]) for name in ("from", "to", "fraction")))
    if kind == "class":
        return _classes()[value["name"]]
    if kind == "settings":
        return from_dict(_classes()[value["class"]], value["fields"])
    raise CheckpointError(f"an argument is a {kind!r}, which this mtrl does not know")
