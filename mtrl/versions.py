"""The versions that produced a file: stored in every manifest."""

import platform
from functools import cache
from importlib import metadata

from mtrl import __version__

__all__ = ["library_versions"]

LIBRARIES = ("torch", "numpy", "gymnasium", "stable-baselines3", "safetensors")


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    return tuple((name, metadata.version(name)) for name in LIBRARIES)


def library_versions() -> dict[str, str]:
    """Return the versions of Python, mtrl and the libraries that decide a run's numbers."""
    return {"python": platform.python_version(), "mtrl": __version__, **dict(_installed())}
