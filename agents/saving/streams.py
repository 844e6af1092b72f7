"""The global random streams, from which Stable-Baselines3 draws: torch's, NumPy's and Python's."""

import random
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

__all__ = ["load_streams", "streams_state"]


def streams_state(action_space: gym.Space[Any], device: torch.device) -> dict[str, Any]:
    """Return where the global streams, the device's and the action space's are."""
    # What Stable-Baselines3 draws from is what must be saved.
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "device": on_device,
        "numpy": (name, np.asarray(keys), *rest),
        "python": (version, np.array(words, np.uint32), gauss),
        "action_space": action_space.np_random.bit_generator.state,
    }


def load_streams(
    saved: Mapping[str, Any], action_space: gym.Space[Any], device: torch.device
) -> None:
    """Continue every stream where it was; the device's only if it is of the same type."""
    torch.set_rng_state(saved["torch"])
    if device.type == "cuda" and saved["device"] is not None:
        torch.cuda.set_rng_state(saved["device"], device)
    np.random.set_state(saved["numpy"])  # noqa: NPY002
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    action_space.np_random.bit_generator.state = saved["action_space"]
