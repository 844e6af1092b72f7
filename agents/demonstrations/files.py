"""Demonstrations in one file: arrays in safetensors, with a JSON header and a digest of everything.

The format can carry no code. The header is the safetensors file's own metadata: format version,
spaces, SHA-256 of each array, and SHA-256 of the header.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from mtrl.agents.demonstrations.data import ARRAYS, Demonstrations
from mtrl.agents.demonstrations.spaces import require_space, space_from_json, space_to_json
from mtrl.durable import replace_file, reporting
from mtrl.errors import MtrlError, UsageError

__all__ = ["FORMAT", "VERSION", "read_demonstrations", "write_demonstrations"]

FORMAT = "mtrl-demonstrations"
VERSION = 1
_ENVELOPE = "mtrl"
_NAMES = (*ARRAYS, "ends")
# A header has a few lines per array and the bounds of two spaces.
_HEADER_LIMIT = 2**24


def write_demonstrations(demonstrations: Demonstrations, path: Path | str) -> None:
    """Write `demonstrations` to `path`: at every instant it holds the old file or the new one.

    Raises:
        MtrlError: the disk refuses.
    """
    arrays = {name: np.ascontiguousarray(getattr(demonstrations, name)) for name in _NAMES}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "observation_space": space_to_json(demonstrations.observation_space),
        "action_space": space_to_json(demonstrations.action_space),
        "sha256": {name: _array_digest(array) for name, array in arrays.items()},
    }
    text = json.dumps(header, sort_keys=True)
    # One entry: safetensors writes several in an order that changes from process to process.
    envelope = {"header": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    metadata = {_ENVELOPE: json.dumps(envelope, sort_keys=True)}
    replace_file(Path(path), safetensors.save(arrays, metadata))


def read_demonstrations(
    path: Path | str,
    *,
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
) -> Demonstrations:
    """Return the demonstrations in `path`, to the last bit those that were written.

    Args:
        path: of a file that `write_demonstrations` wrote.
        observation_space: of the environment that they are for; None takes any.
        action_space: of the environment that they are for; None takes any.

    Raises:
        MtrlError: the file is missing, cut off or damaged, or of another format; the message names it.
        UsageError: its spaces are not those of the environment, or its demonstrations are none that
            can be learned from.
    """
    path = Path(path)
    with reporting("read", path):
        data = path.read_bytes()
    header = _header(path, data)
    try:
        arrays = safetensors.load(data)
    except SafetensorError as error:
        raise MtrlError(f"{path}: cut off or damaged ({error}); record it again") from error
    _verify(path, arrays, header)
    try:
        spaces = [space_from_json(header[name]) for name in ("observation_space", "action_space")]
    except (KeyError, TypeError, ValueError) as error:
        raise MtrlError(f"{path}: its spaces cannot be read ({error!r})") from error
    require_space("observation_space", spaces[0], observation_space)
    require_space("action_space", spaces[1], action_space)
    found: dict[str, Any] = arrays
    try:
        return Demonstrations(observation_space=spaces[0], action_space=spaces[1], **found)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _header(path: Path, data: bytes) -> dict[str, Any]:
    """Return the header, after its digest was checked."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_HEADER_LIMIT, len(data) - 8):
        raise MtrlError(f"{path}: cut off, or not a safetensors file; record it again")
    try:
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        envelope = json.loads(metadata[_ENVELOPE])
        text = envelope["header"]
        header = json.loads(text)
        problem = "" if header["format"] == FORMAT else f"its format is {header['format']!r}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MtrlError(f"{path}: no demonstrations of this format ({error!r})") from error
    if not problem and hashlib.sha256(text.encode()).hexdigest() != envelope.get("sha256"):
        problem = "its header is damaged, the SHA-256 differs"
    if not problem and header.get("version") != VERSION:
        problem = f"its version is {header.get('version')!r}, this mtrl reads {VERSION}"
    if problem:
        raise MtrlError(f"{path}: {problem}; record it again")
    return dict(header)


def _verify(path: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    digests = header.get("sha256")
    if not isinstance(digests, dict) or set(digests) != set(_NAMES) or set(arrays) != set(_NAMES):
        raise MtrlError(f"{path}: holds {sorted(arrays)} instead of {sorted(_NAMES)}")
    for name in _NAMES:
        if _array_digest(arrays[name]) != digests[name]:
            raise MtrlError(f"{path}: {name} are damaged, the SHA-256 differs; record it again")


def _array_digest(array: NDArray[Any]) -> str:
    kind = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(kind + array.tobytes()).hexdigest()
