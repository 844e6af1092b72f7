"""Counter-based random numbers: noise is a pure function of (slot seed, episode, step).

There is no generator state to save or lose, and a slot's noise does not depend on how many slots
run beside it, so that a single environment and a batch of thousands on a GPU see the same
numbers. The hash is splitmix64 (Steele, Lea and Flood 2014) in wrap-around int64 arithmetic,
which NumPy and every torch device have. Except for `gaussians`, the functions take either's arrays.
"""

import math

import numpy as np
import torch
from torch import Tensor

from mtrl.envs.arrays import Array, astype

__all__ = ["MAX_WIDTH", "episode_keys", "gaussians", "keys_of_episodes", "seed_keys", "uniforms"]

MAX_WIDTH = 1 << 16
"""Numbers available to one step of one slot."""


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FACTORS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shift(words: Array, bits: int) -> Array:
    if isinstance(words, np.ndarray):
        return (words.view(np.uint64) >> np.uint64(bits)).view(np.int64)
    # torch's int64 shifts copy the sign bit; the mask makes them logical.
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _mix(words: Array) -> Array:
    words = (words ^ _shift(words, 30)) * _FACTORS[0]
    words = (words ^ _shift(words, 27)) * _FACTORS[1]
    return words ^ _shift(words, 31)


def seed_keys(seeds: Array) -> Array:
    """Return the part of `episode_keys` that only the int64 seeds decide."""
    return _mix(seeds + _GAMMA)


def keys_of_episodes(seed_keys: Array, episodes: Array) -> Array:
    """Return the part of `episode_keys` that remains."""
    return _mix(seed_keys + episodes * _GAMMA)


def episode_keys(seeds: Array, episodes: Array) -> Array:
    """Return one int64 key per slot from its int64 seed and episode; neighbours are unrelated."""
    return keys_of_episodes(seed_keys(seeds), episodes)


def _counters(like: Array, width: int) -> Array:
    if isinstance(like, np.ndarray):
        return np.arange(1, width + 1)
    return torch.arange(1, width + 1, device=like.device)


def uniforms(keys: Array, steps: Array, width: int, dtype: torch.dtype) -> Array:
    """Return numbers uniform in [0, 1), shaped (slots, width), for each slot's current step.

    In float32 they are the float64 numbers rounded down. `width` is at most `MAX_WIDTH`.
    """
    counter = steps[:, None] * MAX_WIDTH + _counters(keys, width)
    words = _mix(keys[:, None] + counter * _GAMMA)
    if dtype == torch.float32:
        return astype(_shift(words, 64 - 24), "float32") * 2.0**-24
    return astype(_shift(words, 64 - 53), "float64") * 2.0**-53


def gaussians(uniform: Tensor) -> Tensor:
    """Turn uniforms (..., even number) into as many independent standard normals (Box-Muller)."""
    first, second = uniform.chunk(2, dim=-1)
    # 1 - u is in (0, 1], where the logarithm is finite.
    radius = torch.sqrt(-2.0 * torch.log1p(-first))
    angle = 2.0 * math.pi * second
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
