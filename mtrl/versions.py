"""The versions that produced a file: stored in every manifest."""

import platform
from functools import cache
from importlib import metadata

from mtrl import __version__

__all__ = ["library_versions"]

LIBRARIES = ("torch", "numpy", "gymnasium", "stable-baselines3", "safetensors")
OPTIONAL = ("mujoco",)


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    present = [name for name in OPTIONAL if _is_installed(name)]
    return tuple((name, metadata.version(name)) for name in (*LIBRARIES, *present))


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def library_versions() -> dict[str, str]:
    """Return the versions of Python, mtrl and the libraries that decide a run's numbers."""
    return {"python": platform.python_version(), "mtrl": __version__, **dict(_installed())}
