"""Named random streams: the only place in mtrl where a seed becomes a generator.

Each stream depends on the run's seed and its own name only, so that drawing more from one (a longer
evaluation, say) never changes another. `state_dict` captures all of them for an exact resume.
"""

import hashlib
from typing import Any

import numpy as np
import torch

__all__ = ["Streams", "numpy_generator", "torch_generator"]


def _entropy(seed: int, name: str) -> list[int]:
    # Not hash(): that differs between processes under PYTHONHASHSEED.
    digest = hashlib.sha256(name.encode()).digest()
    return [seed, int.from_bytes(digest[:8], "little")]


def numpy_generator(seed: int, name: str) -> np.random.Generator:
    """Return the NumPy generator that `seed` and `name` determine."""
    return np.random.default_rng(np.random.SeedSequence(_entropy(seed, name)))


def torch_generator(seed: int, name: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the torch generator on `device` that `seed` and `name` determine."""
    state = np.random.SeedSequence(_entropy(seed, name)).generate_state(1, np.uint64)
    # manual_seed takes a signed 64-bit value.
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))


class Streams:
    """The named generators of one run, made when first asked for.

    Args:
        seed: non-negative; the same seed gives the same streams in every process.
        device: where the torch generators live.
    """

    def __init__(self, seed: int, device: str | torch.device = "cpu") -> None:
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.seed = seed
        self.device = torch.device(device)
        self._numpy: dict[str, np.random.Generator] = {}
        self._torch: dict[str, torch.Generator] = {}

    def rng(self, name: str) -> np.random.Generator:
        """Return the NumPy stream called `name`."""
        if name not in self._numpy:
            self._numpy[name] = numpy_generator(self.seed, name)
        return self._numpy[name]

    def generator(self, name: str) -> torch.Generator:
        """Return the torch stream called `name`."""
        if name not in self._torch:
            self._torch[name] = torch_generator(self.seed, name, self.device)
        return self._torch[name]

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values) from which `load_state_dict` continues every stream."""
        tensors = {name: generator.get_state() for name, generator in self._torch.items()}
        values = {name: generator.bit_generator.state for name, generator in self._numpy.items()}
        return tensors, {"seed": self.seed, "numpy": values}

    def load_state_dict(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Continue every stream where `state_dict` was taken; ask for the generators anew."""
        self.seed = int(values["seed"])
        # A stream that the state lacks had not been drawn from, so it must start anew.
        self._numpy.clear()
        self._torch.clear()
        for name, state in values["numpy"].items():
            self.rng(name).bit_generator.state = state
        for name, tensor in tensors.items():
            self.generator(name).set_state(tensor)
