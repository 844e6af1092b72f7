"""Where an agent's environments are: wrappers' statistics, and episodes where the environment can tell.

An environment or wrapper with methods `state_dict` and `load_state_dict` of its own, such as
`mtrl.envs.sb3_env.BatchedVecEnv`, goes on with its episodes to the last bit. Stable-Baselines3's
wrappers are known here. Other environments cannot say where they are: their episodes begin anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from mtrl.agents.saving.torch_parts import check_names
from mtrl.agents.saving.tree import check_alike
from mtrl.errors import CheckpointError

__all__ = ["environment_state", "has_state", "load_environment", "load_own_state"]

_STATELESS = (VecCheckNan, VecExtractDictObs, VecTransposeImage)


def has_state(thing: Any) -> bool:
    """Return whether its class says where it is by `state_dict` and goes on by `load_state_dict`.

    Looked up in the class: a wrapper would forward the name to what it wraps.
    """
    names = ("state_dict", "load_state_dict")
    return all(callable(getattr(type(thing), name, None)) for name in names)


def load_own_state(thing: Any, saved: Any) -> None:
    """Give `thing` what its `state_dict` returned: one value, or tensors and values."""
    if isinstance(saved, tuple):
        thing.load_state_dict(*saved)
    else:
        thing.load_state_dict(saved)


def environment_state(env: VecEnv) -> list[dict[str, Any]]:
    """Return the state of each wrapper from the outermost on, and last of the environment itself.

    The state of one that cannot tell is None.
    """
    return [{"class": type(layer).__name__, "state": _state(layer)} for layer in _layers(env)]


def load_environment(env: VecEnv, saved: Sequence[Mapping[str, Any]]) -> bool:
    """Bring `env` to where it was; return whether its episodes go on.

    Raises:
        CheckpointError: it is wrapped otherwise, or the state is that of another environment.
    """
    layers = list(_layers(env))
    then, now = [layer["class"] for layer in saved], [type(layer).__name__ for layer in layers]
    if then != now:
        raise CheckpointError(
            f"the environment was {' of '.join(then)} in the checkpoint and is {' of '.join(now)} "
            "here; make it as it was, or load without continuing to train"
        )
    for number, (layer, old) in enumerate(zip(layers, saved, strict=True)):
        if old["state"] is not None:
            _load(layer, f"environment/{number}/state", old["state"])
    return all(layer["state"] is not None for layer in saved)


def load_normalization(env: VecEnv, saved: Sequence[Mapping[str, Any]]) -> None:
    """Give the `VecNormalize` around `env` the saved moments, without which networks see another world.

    Raises:
        CheckpointError: there was one and here is none, or its moments are of another shape.
    """
    here = [layer for layer in _layers(env) if isinstance(layer, VecNormalize)]
    kept = [layer["state"]["moments"] for layer in saved if layer["class"] == "VecNormalize"]
    if len(here) != len(kept):
        raise CheckpointError(
            f"the agent was trained in {len(kept)} VecNormalize and the environment has {len(here)}; "
            "wrap it as it was"
        )
    for layer, moments in zip(here, kept, strict=True):
        _load_moments(layer, "environment/moments", moments)


def _layers(env: VecEnv) -> Iterator[VecEnv]:
    layer = env
    while isinstance(layer, VecEnvWrapper):
        yield layer
        layer = layer.venv
    yield layer


def _state(layer: VecEnv) -> Any:
    if has_state(layer):
        stateful: Any = layer
        return stateful.state_dict()
    if isinstance(layer, VecNormalize):
        moments = {name: _moments(kept) for name, kept in _all_moments(layer).items()}
        kept = ("returns", "old_obs", "old_reward")
        return {"moments": moments} | {name: getattr(layer, name, None) for name in kept}
    if isinstance(layer, VecMonitor):
        kept = ("episode_count", "episode_returns", "episode_lengths")
        return {name: getattr(layer, name) for name in kept}
    if isinstance(layer, VecFrameStack):
        return dict(_frames(layer))
    return {} if isinstance(layer, _STATELESS) else None


def _load(layer: VecEnv, place: str, saved: Any) -> None:
    if has_state(layer):
        load_own_state(layer, saved)
    elif isinstance(layer, VecNormalize):
        _load_normalize(layer, place, saved)
    elif isinstance(layer, VecMonitor):
        for name in ("episode_returns", "episode_lengths"):
            _write(f"{place}/{name}", saved[name], getattr(layer, name))
        layer.episode_count = int(saved["episode_count"])
    elif isinstance(layer, VecFrameStack):
        here = dict(_frames(layer))
        check_names(place, saved, here)
        for name, array in here.items():
            _write(f"{place}/{name}", saved[name], array)


def _load_normalize(layer: VecNormalize, place: str, saved: Mapping[str, Any]) -> None:
    _load_moments(layer, f"{place}/moments", saved["moments"])
    _write(f"{place}/returns", saved["returns"], layer.returns)
    layer.old_reward = saved["old_reward"]
    if saved["old_obs"] is not None:
        layer.old_obs = saved["old_obs"]


def _load_moments(layer: VecNormalize, place: str, saved: Mapping[str, Any]) -> None:
    here = _all_moments(layer)
    check_names(place, saved, here)
    for name, moments in here.items():
        kept = saved[name]
        for part in ("mean", "var"):
            check_alike(f"{place}/{name}/{part}", kept[part], np.asarray(getattr(moments, part)))
        moments.mean, moments.var, moments.count = kept["mean"], kept["var"], kept["count"]


def _all_moments(layer: VecNormalize) -> dict[str, RunningMeanStd]:
    moments = {"rewards": layer.ret_rms}
    observations: Any = layer.obs_rms if layer.norm_obs else {}
    if isinstance(observations, RunningMeanStd):
        return moments | {"observations": observations}
    return moments | {f"observations.{key}": kept for key, kept in observations.items()}


def _moments(kept: RunningMeanStd) -> dict[str, Any]:
    # Zero-dimensional arrays become NumPy's numbers as they are updated.
    return {"mean": np.asarray(kept.mean), "var": np.asarray(kept.var), "count": kept.count}


def _frames(layer: VecFrameStack) -> Iterator[tuple[str, Any]]:
    stacked: Any = layer.stacked_obs
    parts = getattr(stacked, "sub_stacked_observations", {"observations": stacked})
    for name, part in parts.items():
        yield name, part.stacked_obs


def _write(place: str, saved: Any, here: Any) -> None:
    check_alike(place, saved, here)
    here[...] = saved
