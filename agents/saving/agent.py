"""All that an agent of Stable-Baselines3 is, as tensors and JSON, from which training goes on exactly.

Saved are parameters and optimisers, every counter and schedule's position, buffers, statistics of
episodes, environments that can say where they are, and the global random streams that
Stable-Baselines3 draws from. What is the constructor's to say (spaces, hyperparameters, networks) is
not loaded but compared, as far as a difference would change what a number means.

Safe points are between calls of `learn`, and a callback's `on_rollout_start`: a rollout half collected
by an on-policy algorithm is dropped by its next `learn`. Action noise begins anew in every `learn`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from mtrl.agents.saving.buffers import buffer_state, cut_episodes, load_buffer
from mtrl.agents.saving.environments import (
    environment_state,
    has_state,
    load_environment,
    load_normalization,
    load_own_state,
)
from mtrl.agents.saving.streams import load_streams, streams_state
from mtrl.agents.saving.torch_parts import (
    check_names,
    load_module,
    load_optimizer,
    load_tensor,
    module_state,
    optimizer_state,
)
from mtrl.agents.saving.tree import check_alike, pack, unpack
from mtrl.errors import CheckpointError, UsageError
from mtrl.seeding import numpy_generator

__all__ = ["agent_state", "load_agent_state", "refusals"]

State = dict[str, Any]

_COUNTERS = (
    "num_timesteps",
    "_total_timesteps",
    "_episode_num",
    "_n_updates",
    "_n_calls",
    "_current_progress_remaining",
    "exploration_rate",
)
_LAST = ("_last_obs", "_last_original_obs", "_last_episode_starts")
_EPISODES = ("ep_info_buffer", "ep_success_buffer")
_MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def agent_state(model: BaseAlgorithm) -> tuple[dict[str, Tensor], State]:
    """Return (tensors, JSON values) of an agent of any algorithm, for `CheckpointStore.save`.

    Beside what every algorithm of Stable-Baselines3 has, it saves attributes of the algorithm and its
    buffers that are tensors, arrays or generators, and those of a class with `state_dict` and
    `load_state_dict`.

    Raises:
        UsageError: the agent has no environment, or holds something that a checkpoint cannot.
    """
    env = _env_of(model)
    tree = {
        "modules": {name: module_state(part) for name, part in _modules(model)},
        "optimizers": {name: optimizer_state(part) for name, part in _optimizers(model)},
        "tensors": dict(_tensors(model)),
        "arrays": dict(_arrays(model)),
        "generators": {name: _generator_state(part) for name, part in _generators(model)},
        "own": {name: part.state_dict() for name, part in _stateful(model)},
        "buffers": {name: _buffer_state(part) for name, part in _buffers(model)},
        "counters": {name: getattr(model, name) for name in _COUNTERS if hasattr(model, name)},
        "last": {name: getattr(model, name) for name in _LAST},
        "episodes": {name: _episodes(getattr(model, name)) for name in _EPISODES},
        # Without a first observation the environment was never reset.
        "environment": None if model._last_obs is None else environment_state(env),
        "streams": streams_state(model.action_space, model.device),
    }
    tensors: dict[str, Tensor] = {}
    packed = {name: pack(part, name, tensors) for name, part in tree.items()}
    return tensors, {"identity": _identity(model), "parts": packed}


def load_agent_state(
    model: BaseAlgorithm,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    continue_training: bool = True,
) -> None:
    """Make a new `model` the agent that `agent_state` was taken of.

    `learn(..., reset_num_timesteps=False)` then goes on to the last bit as the saved agent would, if
    the environment can continue its episodes. If it cannot, episodes in flight are cut short, as if
    time were up, and new ones begin, with seeds other than those of the first.

    Args:
        model: made as the saved one was: the same class, networks, spaces and number of environments.
            If it refuses, it may be half loaded, and is to be made anew.
        tensors: as saved.
        state: as saved.
        continue_training: off, only networks are loaded, into an agent whose environments may be
            others: for prediction, or for training on something else.

    Raises:
        CheckpointError: the state is of another algorithm or architecture, or lacks something; the
            message names the tensor, and both shapes.
    """
    with refusals():
        _check_identity(model, state["identity"], everything=continue_training)
        left = dict(tensors)
        tree = {name: unpack(part, name, left) for name, part in state["parts"].items()}
        for name in left:
            raise CheckpointError(f"tensor {name} belongs to nothing in the checkpoint")
        check_names("modules", tree["modules"], dict(_modules(model)))
        for name, module in _modules(model):
            load_module(module, f"modules/{name}", tree["modules"][name])
        if continue_training:
            _load_training(model, tree)
        elif tree["environment"] is not None:
            load_normalization(_env_of(model), tree["environment"])


def _load_training(model: BaseAlgorithm, tree: Mapping[str, Any]) -> None:
    kinds: list[tuple[str, dict[str, Any], Callable[[Any, str, Any], None]]] = [
        ("optimizers", dict(_optimizers(model)), load_optimizer),
        ("tensors", dict(_tensors(model)), _load_named_tensor),
        ("arrays", dict(_arrays(model)), _load_array),
        ("generators", dict(_generators(model)), _load_generator),
        ("own", dict(_stateful(model)), _load_own),
        ("buffers", dict(_buffers(model)), _load_buffer),
    ]
    for kind, parts, load in kinds:
        check_names(kind, tree[kind], parts)
        for name, part in parts.items():
            load(part, f"{kind}/{name}", tree[kind][name])
    for name, value in tree["counters"].items():
        if name in _COUNTERS and hasattr(model, name):
            setattr(model, name, type(getattr(model, name))(value))
    for name in _EPISODES:
        kept = tree["episodes"][name]
        size = model._stats_window_size
        setattr(model, name, None if kept is None else deque(kept, maxlen=size))
    _load_environment(model, tree)
    if model.use_sde:
        model.policy.reset_noise()  # type: ignore[operator]  # every policy that uses it has it
    # Last, so that nothing drawn while loading counts.
    load_streams(tree["streams"], model.action_space, model.device)


def _load_environment(model: BaseAlgorithm, tree: Mapping[str, Any]) -> None:
    env, saved = _env_of(model), tree["environment"]
    goes_on = saved is not None and load_environment(env, saved)
    for name in _LAST:
        setattr(model, name, tree["last"][name] if goes_on else None)
    if goes_on or saved is None:
        return
    cut_episodes(getattr(model, "replay_buffer", None))
    if model.seed is not None:
        # With the first seeds again, the episodes seen at the start would come once more.
        stream = numpy_generator(model.seed, f"episodes after step {model.num_timesteps}")
        env.seed(int(stream.integers(2**31)))


# What an agent consists of


def _env_of(model: BaseAlgorithm) -> VecEnv:
    env = model.get_env()
    if env is None:
        raise UsageError("the agent has no environment; give it one with set_env")
    return env


def _modules(model: BaseAlgorithm) -> Iterator[tuple[str, nn.Module]]:
    for name in model._get_torch_save_params()[0]:
        part = recursive_getattr(model, name)
        if isinstance(part, nn.Module):
            yield name, part


def _optimizers(model: BaseAlgorithm) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    for name in model._get_torch_save_params()[0]:
        part = recursive_getattr(model, name)
        if isinstance(part, torch.optim.Optimizer):
            yield name, part


def _tensors(model: BaseAlgorithm) -> Iterator[tuple[str, Tensor]]:
    named = {name: recursive_getattr(model, name) for name in model._get_torch_save_params()[1]}
    yield from ((n, part) for n, part in (vars(model) | named).items() if isinstance(part, Tensor))


def _arrays(model: BaseAlgorithm) -> Iterator[tuple[str, Any]]:
    for name, part in vars(model).items():
        if isinstance(part, np.ndarray) and name not in _LAST:
            yield name, part


def _generators(thing: Any) -> Iterator[tuple[str, Any]]:
    for name, part in vars(thing).items():
        if isinstance(part, np.random.Generator | torch.Generator):
            yield name, part


def _stateful(model: BaseAlgorithm) -> Iterator[tuple[str, Any]]:
    """Yield what an algorithm adds to Stable-Baselines3's, and a network to torch's, by name."""
    known = nn.Module | torch.optim.Optimizer | VecEnv | BaseBuffer
    places: list[tuple[str, Any]] = [("", model)]
    places += [(f"policy.{path}.", module) for path, module in model.policy.named_modules()]
    for prefix, place in places:
        for name, part in vars(place).items():
            if has_state(part) and not isinstance(part, known):
                yield prefix + name, part


def _buffers(model: BaseAlgorithm) -> Iterator[tuple[str, BaseBuffer]]:
    for name, part in vars(model).items():
        if isinstance(part, BaseBuffer):
            yield name, part


# How single parts are saved and loaded


def _buffer_state(buffer: BaseBuffer) -> State:
    generators = {name: _generator_state(part) for name, part in _generators(buffer)}
    stateful: Any = buffer
    content = stateful.state_dict() if has_state(buffer) else buffer_state(buffer)
    return {"content": content, "generators": generators}


def _load_buffer(buffer: BaseBuffer, place: str, saved: Mapping[str, Any]) -> None:
    if has_state(buffer):
        load_own_state(buffer, saved["content"])
    else:
        load_buffer(buffer, place, saved["content"])
    parts = dict(_generators(buffer))
    check_names(f"{place}/generators", saved["generators"], parts)
    for name, part in parts.items():
        _load_generator(part, f"{place}/generators/{name}", saved["generators"][name])


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.bit_generator.state


def _load_generator(generator: Any, place: str, saved: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(saved)
    else:
        generator.bit_generator.state = saved


def _load_named_tensor(tensor: Tensor, place: str, saved: Any) -> None:
    load_tensor(place, saved, tensor)


def _load_array(array: Any, place: str, saved: Any) -> None:
    check_alike(place, saved, array)
    array[...] = saved


def _load_own(part: Any, place: str, saved: Any) -> None:
    load_own_state(part, saved)


def _episodes(kept: Any) -> list[Any] | None:
    if kept is None:
        return None
    # The time at which an episode ended is no part of what training is.
    return [
        {key: item for key, item in entry.items() if key != "t"}
        if isinstance(entry, Mapping)
        else entry
        for entry in kept
    ]


# Refusals


def _identity(model: BaseAlgorithm) -> State:
    return {
        "algorithm": type(model).__name__,
        "observation_space": str(model.observation_space),
        "action_space": str(model.action_space),
        "environments": model.n_envs,
    }


def _check_identity(model: BaseAlgorithm, saved: Mapping[str, Any], *, everything: bool) -> None:
    here = _identity(model)
    if not everything:
        del here["environments"]
    for name, value in here.items():
        if saved[name] != value:
            raise CheckpointError(
                f"the agent's {name.replace('_', ' ')} is {saved[name]} in the checkpoint and {value} "
                "here; make the agent as the saved one was"
            )


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what a state of another form leads to into a `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except _MISFITS as error:
        raise CheckpointError(f"the checkpoint does not fit this agent: {error}") from error
