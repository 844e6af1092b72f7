"""Runs on a task family that is a file: each keeps a copy, so that it stays what it was."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, TypeVar

from mtrl.durable import replace_file, reporting
from mtrl.errors import UsageError
from mtrl.manifest import Manifest

__all__ = ["family_digest", "is_family_file", "keep_family", "with_kept_family"]

C = TypeVar("C")

_KEPT = "family.toml"


def is_family_file(family: str) -> bool:
    """Return whether a family's name is that of a file: it ends in `.toml`."""
    return family.endswith(".toml")


def family_digest(path: Path | str) -> str:
    """Return the SHA-256 of a family's file, in hexadecimal digits.

    Raises:
        MtrlError: it cannot be read.
    """
    with reporting("read", Path(path)):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def keep_family(family: str, directory: Path, manifest: Manifest) -> None:
    """Copy the file `family`, if it is one, into a run's directory; a resumed run has its copy.

    Raises:
        UsageError: a file that is no copy of it is in its place.
        MtrlError: the file cannot be read, or the copy is no longer what the manifest says.
    """
    if not is_family_file(family):
        return
    copy = directory / _KEPT
    if "family_file" not in manifest.values:
        with reporting("read", Path(family)):
            content = Path(family).read_bytes()
        if copy.exists() and copy.read_bytes() != content:
            raise UsageError(f"{copy} is another file than {family}; use another directory")
        replace_file(copy, content)
    manifest.pin(family_file=family_digest(copy))


def with_kept_family(config: C, directory: Path) -> C:
    """Return the `config` of the run in `directory` with its own copy as the family, if it has one.

    The original may have moved or changed since.
    """
    settings: Any = config
    copy = directory / _KEPT
    # Runs on several families take registered ones only.
    if not (is_family_file(getattr(settings, "family", "")) and copy.exists()):
        return config
    changed: C = dataclasses.replace(settings, family=str(copy))
    return changed
