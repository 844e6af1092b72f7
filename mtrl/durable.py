"""Files that are either there and whole, or not there: the only place in mtrl that calls fsync.

A rename is atomic within one directory, and survives a power cut only once the file *and* the
directory that names it were flushed to the disk; hence the order write, fsync, rename, fsync of the
parent.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtrl.errors import MtrlError

__all__ = ["replace_file", "reporting", "sync_directory", "write_file"]


@contextmanager
def reporting(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a MtrlError that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise MtrlError(f"cannot {action} {path}: {reason}") from error


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, which must not exist yet, and flush it to the disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Flush the names in directory `path` to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Make `path` hold `data`: at every instant it holds the old bytes or the new ones.

    Raises:
        MtrlError: the disk refuses (full, read-only); `path` is as it was.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    with reporting("write", path):
        temporary.unlink(missing_ok=True)
        try:
            write_file(temporary, data)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
