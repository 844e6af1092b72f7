"""The files of one checkpoint: tensors in safetensors, everything else in JSON, digests of both.

Neither format can carry code, and neither notices a flipped tensor byte; so a manifest holds the
size and SHA-256 of each file, and a digest of itself. Files are read once, by fixed names, and the
very bytes that were verified are the ones decoded.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from mtrl.errors import CheckpointError, UsageError
from mtrl.versions import library_versions

__all__ = ["FORMAT_VERSION", "Checkpoint", "encode_checkpoint", "read_checkpoint"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TENSORS = "tensors.safetensors"
STATE = "state.json"
# A manifest has a few lines per tensor; the cap keeps a hostile file from filling the memory.
MANIFEST_SIZE_LIMIT = 2**24


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was saved at `step`: `tensors`, on the CPU and in order, and JSON `state`."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


def encode_checkpoint(
    step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return the checkpoint's files by name, the manifest last.

    Tensors may share memory or be non-contiguous; each is stored whole. In `state`, floats keep
    every bit (NaN and infinities included), integers may have any size, and tuples come back as
    lists.

    Raises:
        UsageError: `state` holds something JSON cannot give back, or a tensor's dtype cannot be
        stored.
    """
    files = {TENSORS: _encode_tensors(tensors), STATE: _encode_state(state)}
    manifest = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "versions": library_versions(),
        "files": {
            name: {"size": len(data), "sha256": _digest(data)} for name, data in files.items()
        },
        # safetensors sorts by name, but the order of parameters decides the order of sums.
        "tensors": list(tensors),
    }
    return {**files, MANIFEST: _render_manifest(manifest)}


def read_checkpoint(folder: Path) -> Checkpoint:
    """Verify and decode the checkpoint in `folder`.

    Raises:
        CheckpointError: anything is damaged, missing, added, a link, or of an unknown format; the
            message names the file.
    """
    manifest = _read_manifest(folder)
    try:
        data = {
            name: _read_verified(folder / name, manifest["files"][name])
            for name in (TENSORS, STATE)
        }
        names = list(manifest["tensors"])
        step = int(manifest["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: not a checkpoint's ({error!r})") from error
    if folder.name != folder_name(step):
        raise CheckpointError(f"{folder}: holds step {step}, which its name does not say")
    try:
        loaded = safetensors.load(data[TENSORS])
        tensors = {name: loaded[name] for name in names}
    except (SafetensorError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / TENSORS}: {error!r}") from error
    return Checkpoint(step=step, tensors=tensors, state=_parse_object(folder / STATE, data[STATE]))


def folder_name(step: int) -> str:
    """Return the name of the folder for `step`; names sort as steps do."""
    return f"{step:012d}"


def _encode_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    separate = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    try:
        return safetensors.save(separate)
    except KeyError as error:
        raise UsageError(f"a checkpoint cannot hold tensors of dtype {error}") from error


def _encode_state(state: Mapping[str, Any]) -> bytes:
    _require_text_keys(state, "state")
    try:
        return json.dumps(state).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"the checkpoint's state is not JSON: {error}") from error


def _require_text_keys(value: object, where: str) -> None:
    # json.dumps would quietly turn the key 1 into "1", which a resumed run then does not find.
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UsageError(f"keys in a checkpoint's state are text, got {key!r} in {where}")
            _require_text_keys(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _require_text_keys(item, f"{where}[{index}]")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _render_manifest(manifest: Mapping[str, Any]) -> bytes:
    own = _digest(json.dumps(manifest).encode())
    return json.dumps({**manifest, "sha256": own}, indent=2).encode()


def _read_manifest(folder: Path) -> dict[str, Any]:
    if folder.is_symlink() or not folder.is_dir():
        raise CheckpointError(f"{folder}: not a directory")
    path = folder / MANIFEST
    found = set(os.listdir(folder))
    for name in sorted(found ^ {MANIFEST, TENSORS, STATE}):
        problem = "does not belong in a checkpoint" if name in found else "missing"
        raise CheckpointError(f"{folder / name}: {problem}")
    raw = _read_regular_file(path, MANIFEST_SIZE_LIMIT)
    manifest = _parse_object(path, raw)
    manifest.pop("sha256", None)
    # Rendering again compares every byte, the digest's own included.
    if _render_manifest(manifest) != raw:
        raise CheckpointError(f"{path}: damaged, its SHA-256 differs from its content")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {version!r}, this mtrl reads {FORMAT_VERSION}; "
            f"use the mtrl that wrote it ({manifest.get('versions')})"
        )
    return manifest


def _read_verified(path: Path, entry: Mapping[str, Any]) -> bytes:
    data = _read_regular_file(path, entry["size"])
    if len(data) != entry["size"]:
        raise CheckpointError(f"{path}: {len(data)} bytes instead of {entry['size']}")
    if _digest(data) != entry["sha256"]:
        raise CheckpointError(f"{path}: damaged, its SHA-256 differs from the manifest's")
    return data


def _read_regular_file(path: Path, limit: int) -> bytes:
    try:
        with open(path, "rb", opener=_open_unlinked) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path}: not a regular file")
            if status.st_size > limit:
                raise CheckpointError(f"{path}: {status.st_size} bytes, more than {limit}")
            return file.read()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _open_unlinked(path: str, flags: int) -> int:
    # O_NONBLOCK: opening a named pipe would otherwise wait for a writer.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _parse_object(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__} instead of a table")
    return value
