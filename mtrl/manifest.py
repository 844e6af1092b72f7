"""`manifest.json`: which code, command and tasks made the numbers in a run directory."""

import json
import logging
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mtrl.durable import replace_file, reporting
from mtrl.errors import MtrlError, UsageError
from mtrl.versions import library_versions

__all__ = ["Manifest", "read_manifest"]

logger = logging.getLogger(__name__)


def read_manifest(path: Path | str) -> dict[str, Any]:
    """Return the content of a manifest.

    Raises:
        MtrlError: it is missing or damaged.
    """
    with reporting("read", Path(path)):
        content = Path(path).read_bytes()
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MtrlError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict) or not {"kind", "sessions"} <= values.keys():
        raise MtrlError(f"{path} is not a run's manifest")
    return values


class Manifest:
    """A run's manifest; every change is on the disk when the call returns.

    Attributes:
        values: its content; `sessions` has one entry for the start and one for each resumption,
            with time, command line and library versions.
    """

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self.values = values

    @classmethod
    def create(cls, path: Path, kind: str) -> Self:
        """Write the manifest of a run that starts now."""
        manifest = cls(path, {"kind": kind, "sessions": [_session()]})
        manifest.update()
        return manifest

    @classmethod
    def reopen(cls, path: Path, kind: str) -> Self:
        """Add a session to the manifest of a run of the same `kind`."""
        values = read_manifest(path)
        if values["kind"] != kind:
            raise UsageError(f"{path.parent} holds a {values['kind']} run, not a {kind} one")
        session = _session()
        before = values["sessions"][-1]["versions"]
        if before != session["versions"]:
            logger.warning(
                "resuming with other versions, numbers may differ: %s, before %s",
                session["versions"],
                before,
            )
        manifest = cls(path, values)
        manifest.update(sessions=[*values["sessions"], session])
        return manifest

    def update(self, **entries: Any) -> None:
        """Set JSON-able `entries`, such as `device="cpu"`."""
        self.values = {**self.values, **entries}
        replace_file(self.path, json.dumps(self.values, indent=2).encode() + b"\n")

    def pin(self, **entries: Any) -> None:
        """Set `entries` that a resumed run must agree on, such as `split_digest=...`.

        Raises:
            MtrlError: an entry is there with another value: this code no longer makes the same run.
        """
        plain = json.loads(json.dumps(entries))
        for name, value in plain.items():
            if name in self.values and self.values[name] != value:
                raise MtrlError(
                    f"{name} is not what {self.path} says, so this run cannot be continued "
                    "exactly; use the mtrl and settings it was started with, or another directory"
                )
        self.update(**plain)


def _session() -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "versions": library_versions(),
    }
