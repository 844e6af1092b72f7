"""Replacing a file: the old bytes or the new ones, whatever fails."""

import os
from pathlib import Path
from typing import Any

import pytest

from mtrl.durable import replace_file
from mtrl.errors import MtrlError


def note_calls(monkeypatch: pytest.MonkeyPatch, fail_at: int = -1) -> list[str]:
    """List the calls that make a file durable, and fail one of them."""
    calls: list[str] = []

    def noting(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            target = arguments[0]
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target
            calls.append(f"{name} {Path(path).name}")
            if len(calls) == fail_at + 1:
                raise OSError(30, "Read-only file system")
            return function(*arguments)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
    return calls


def test_file_then_name_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = note_calls(monkeypatch)
    replace_file(tmp_path / "a", b"new")
    assert calls == ["fsync .tmp-a", "replace .tmp-a", f"fsync {tmp_path.name}"]
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize(("fail_at", "content"), [(0, b"old"), (1, b"old"), (2, b"new")])
def test_a_failure_is_reported_by_path_and_leaves_one_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int, content: bytes
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    note_calls(monkeypatch, fail_at)
    with pytest.raises(MtrlError, match=f"cannot write {path}: Read-only file system"):
        replace_file(path, b"new")
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_kill_left_behind_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a").write_bytes(b"half")
    replace_file(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == ["a"]
