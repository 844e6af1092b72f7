"""Checkpoints: exact round trips, and no damage, attack, fault or kill that goes unnoticed."""

import errno
import json
import math
import multiprocessing
import os
import pickle
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mtrl import checkpoint as checkpoint_module
from mtrl import durable
from mtrl.checkpoint import CheckpointStore
from mtrl.checkpoint_format import _digest, _render_manifest, read_checkpoint
from mtrl.errors import CheckpointError, MtrlError, UsageError

FILES = ("manifest.json", "state.json", "tensors.safetensors")


def tensors_at(step: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(4.0, dtype=torch.float64) * step, "count": torch.tensor(step)}


def two_checkpoints(directory: Path) -> CheckpointStore:
    store = CheckpointStore(directory)
    for step in (10, 20):
        store.save(step, tensors_at(step), {"step": step})
    return store


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pristine")
    two_checkpoints(directory)
    return directory


def test_every_dtype_shape_and_bit_comes_back_in_the_order_given(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    tensors = {
        "z_scalar": torch.tensor(math.pi, dtype=torch.float64),
        "int64": torch.tensor([2**62, -1]),
        "generator": torch.Generator().manual_seed(3).get_state(),
        "bool": torch.tensor([True, False]),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "special": torch.tensor([math.nan, -0.0, math.inf, 5e-324], dtype=torch.float64),
        "transposed": base.view(2, 3).T,
        "shared": base,
        "also_shared": base,
        "a_parameter": torch.nn.Parameter(torch.ones(2)),
    }
    CheckpointStore(tmp_path).save(1, tensors, {})
    loaded = CheckpointStore(tmp_path).load().tensors
    assert list(loaded) == list(tensors)
    for name, tensor in tensors.items():
        assert_close(loaded[name], tensor.detach(), rtol=0, atol=0, equal_nan=True, msg=name)
    assert math.copysign(1, loaded["special"][1].item()) == -1
    loaded["shared"].add_(1)
    assert_close(loaded["also_shared"], base)


def test_state_keeps_nan_infinity_every_float_bit_and_big_integers(tmp_path: Path) -> None:
    pcg = np.random.default_rng(7).bit_generator.state
    state = {
        "rng": pcg,
        "floats": [0.1, 1e-300, math.inf, -0.0],
        "none": None,
        "deep": [{"a": [True]}],
    }
    CheckpointStore(tmp_path).save(0, {}, {**state, "nan": math.nan})
    loaded = CheckpointStore(tmp_path).load().state
    assert math.isnan(loaded.pop("nan"))
    assert loaded == state
    assert loaded["rng"]["state"]["state"] > 2**64
    assert list(map(repr, loaded["floats"])) == list(map(repr, state["floats"]))


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"a": {1: 2}}, r"keys .* got 1 in state\['a'\]"),
        ({"a": [{"b": {2: 0}}]}, r"got 2 in state\['a'\]\[0\]\['b'\]"),
        ({"a": np.ones(2)}, "ndarray"),
    ],
)
def test_state_that_would_not_come_back_is_refused(
    tmp_path: Path, state: dict[str, Any], named: str
) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(UsageError, match=named):
        store.save(1, {}, state)
    assert store.steps() == []


def test_an_unsupported_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="complex128"):
        CheckpointStore(tmp_path).save(1, {"a": torch.ones(1, dtype=torch.complex128)}, {})


def test_the_newest_are_kept_and_found_by_step_not_by_time(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for step in (1, 9, 10, 100):
        folder = store.save(step, tensors_at(step), {})
        os.utime(folder, (1000 - step, 1000 - step))
    assert store.steps() == [9, 10, 100]
    assert store.load().step == 100
    assert_close(store.load(9).tensors["count"], torch.tensor(9))


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    store = two_checkpoints(tmp_path)
    with pytest.raises(UsageError, match="saved once"):
        store.save(20, tensors_at(1), {})
    assert_close(store.load().tensors["count"], torch.tensor(20))


def test_an_absent_step_names_those_there_are(pristine: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint for step 15 .*\[10, 20\]"):
        CheckpointStore(pristine).load(15)


def test_an_empty_directory_has_no_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it has none"):
        CheckpointStore(tmp_path / "absent").load()


# Damage


def assert_newest_refused(store: CheckpointStore, named: str) -> None:
    """The damaged step 20 is reported by file, and step 10 is used or recommended."""
    assert store.load().step == 10
    assert len(store.rejected) == 1
    assert named in str(store.rejected[0])
    with pytest.raises(CheckpointError, match="newest good one is step 10") as refusal:
        store.load(20)
    assert named in str(refusal.value)


def damaged_copy(pristine: Path, where: Path) -> tuple[CheckpointStore, Path]:
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(pristine, where)
    return CheckpointStore(where), where / "000000000020"


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_flipped_bit_is_refused(
    pristine: Path, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    store, newest = damaged_copy(pristine, tmp_path / "copy")
    content = bytearray((newest / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (newest / name).write_bytes(content)
    assert_newest_refused(store, f"000000000020/{name}")


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_cut_or_extension_is_refused(
    pristine: Path, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    store, newest = damaged_copy(pristine, tmp_path / "copy")
    content = (newest / name).read_bytes()
    length = data.draw(st.integers(0, len(content) - 1))
    tail = data.draw(st.sampled_from([b"", content + b"\0", content + b"\n"]))
    (newest / name).write_bytes(tail or content[:length])
    assert_newest_refused(store, f"000000000020/{name}")


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.flag),)


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_pickle_is_refused_and_never_runs(
    pristine: Path, tmp_path: Path, name: str
) -> None:
    flag = tmp_path / "flag"
    payload = pickle.dumps(Payload(flag))
    store, newest = damaged_copy(pristine, tmp_path / "copy")
    (newest / name).write_bytes(payload)
    assert_newest_refused(store, name)
    assert not flag.exists()
    # The negative control: this payload does run where pickles are read.
    pickle.loads(payload)
    assert flag.exists()


def forge(newest: Path, name: str, content: bytes) -> None:
    """Replace a file and make the manifest agree, as an attacker can."""
    (newest / name).write_bytes(content)
    manifest = json.loads((newest / "manifest.json").read_bytes())
    manifest.pop("sha256")
    manifest["files"][name] = {"size": len(content), "sha256": _digest(content)}
    (newest / "manifest.json").write_bytes(_render_manifest(manifest))


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
def test_a_hostile_pickle_under_a_forged_manifest_never_runs(
    pristine: Path, tmp_path: Path, name: str
) -> None:
    flag = tmp_path / "flag"
    store, newest = damaged_copy(pristine, tmp_path / "copy")
    forge(newest, name, pickle.dumps(Payload(flag)))
    assert_newest_refused(store, name)
    assert not flag.exists()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[1]", b"\xff\xfe", b"{'a': 1}"])
def test_a_state_that_is_no_json_table_is_refused(
    pristine: Path, tmp_path: Path, content: bytes
) -> None:
    store, newest = damaged_copy(pristine, tmp_path / "copy")
    forge(newest, "state.json", content)
    assert_newest_refused(store, "state.json")


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"format_version": 99}, "format_version is 99"),
        ({"format_version": None}, "format_version is None"),
        ({"step": "twenty"}, "manifest.json: not a checkpoint's"),
        ({"files": {}}, "manifest.json: not a checkpoint's"),
        ({"files": {"tensors.safetensors": {"size": "x"}}}, "manifest.json: not a checkpoint's"),
        ({"tensors": ["absent"]}, "absent"),
        ({"tensors": [["weight"]]}, "tensors.safetensors"),
        ({"step": 21}, "holds step 21"),
    ],
)
def test_a_well_formed_manifest_that_says_something_else_is_refused(
    pristine: Path, tmp_path: Path, entries: dict[str, Any], named: str
) -> None:
    store, newest = damaged_copy(pristine, tmp_path / "copy")
    manifest = json.loads((newest / "manifest.json").read_bytes())
    manifest.pop("sha256")
    (newest / "manifest.json").write_bytes(_render_manifest({**manifest, **entries}))
    assert_newest_refused(store, named)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("attack", ["missing", "symlink", "pipe", "directory"])
def test_a_member_of_another_sort_is_refused(
    pristine: Path, tmp_path: Path, name: str, attack: str
) -> None:
    store, newest = damaged_copy(pristine, tmp_path / "copy")
    original = newest.parent / f"elsewhere-{name}"
    (newest / name).rename(original)
    if attack == "symlink":
        (newest / name).symlink_to(original)
    elif attack == "pipe":
        os.mkfifo(newest / name)
    elif attack == "directory":
        (newest / name).mkdir()
    assert_newest_refused(store, name)


def test_an_added_member_a_linked_folder_and_a_renamed_one_are_refused(
    pristine: Path, tmp_path: Path
) -> None:
    store, newest = damaged_copy(pristine, tmp_path / "added")
    (newest / "extra.pkl").write_bytes(b"")
    assert_newest_refused(store, "extra.pkl: does not belong")

    store, newest = damaged_copy(pristine, tmp_path / "linked")
    newest.rename(tmp_path / "linked-away")
    newest.symlink_to(tmp_path / "linked-away")
    assert_newest_refused(store, "000000000020: not a directory")

    store, newest = damaged_copy(pristine, tmp_path / "renamed")
    newest.rename(newest.with_name("000000000030"))
    assert store.load().step == 10
    assert "holds step 20" in str(store.rejected[0])


def test_a_run_that_fell_back_replaces_the_damaged_checkpoint_and_keeps_the_good(
    pristine: Path, tmp_path: Path
) -> None:
    store, newest = damaged_copy(pristine, tmp_path / "copy")
    (newest / "state.json").write_bytes(b"")
    store.save(15, tensors_at(15), {})
    assert store.steps() == [10, 15, 20]
    assert store.load().step == 15
    store.save(20, tensors_at(20), {"step": 20})
    assert store.load().step == 20
    assert store.rejected == []


def test_if_none_is_good_every_one_is_named(pristine: Path, tmp_path: Path) -> None:
    store, _ = damaged_copy(pristine, tmp_path / "copy")
    for state in store.directory.glob("*/state.json"):
        state.unlink()
    with pytest.raises(CheckpointError, match=r"000000000020/state.json.*000000000010/state.json"):
        store.load()


# Faults while saving


class Killed(BaseException):
    """Stands for a kill: no handler for errors runs."""


class FaultyDisk:
    """Fails the `at`-th call that changes the disk, counting from 0."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, at: int, fault: type[BaseException]
    ) -> None:
        self.calls = 0
        self.at = at
        self.fault = fault
        for name in ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink"):
            monkeypatch.setattr(os, name, self.counting(getattr(os, name)))
        monkeypatch.setattr(durable, "open", self.open, raising=False)

    def counting(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.strike()
            return function(*args, **kwargs)

        return call

    def strike(self) -> None:
        self.calls += 1
        if self.calls == self.at + 1:
            raise self.fault(errno.ENOSPC, "No space left on device")

    @contextmanager
    def open(self, path: Path, mode: str) -> Iterator[SimpleNamespace]:
        self.strike()
        with open(path, mode) as file:

            def write(data: bytes) -> None:
                file.write(data[: len(data) // 2])
                self.strike()
                file.write(data[len(data) // 2 :])

            yield SimpleNamespace(write=write, flush=file.flush, fileno=file.fileno)


def save_with_fault(directory: Path, at: int, fault: type[BaseException]) -> tuple[int, bool]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk = FaultyDisk(monkeypatch, at, fault)
        try:
            CheckpointStore(directory).save(30, tensors_at(30), {"step": 30})
        except (MtrlError, Killed):
            return disk.calls, True
    return disk.calls, False


@pytest.mark.parametrize("fault", [OSError, Killed])
def test_a_save_that_fails_at_any_call_leaves_a_good_newest_checkpoint(
    pristine: Path, tmp_path: Path, fault: type[BaseException]
) -> None:
    calls, failed = save_with_fault(damaged_copy(pristine, tmp_path)[0].directory, 10**6, fault)
    assert not failed
    assert calls > 12
    failures = 0
    for at in range(calls):
        store, previous = damaged_copy(pristine, tmp_path)
        _, failed = save_with_fault(store.directory, at, fault)
        failures += failed
        newest = store.load()
        assert store.rejected == []
        assert newest.step in ((20, 30) if failed else (30,))
        assert newest.state == {"step": newest.step}
        assert_close(newest.tensors, tensors_at(newest.step), rtol=0, atol=0)
        assert read_checkpoint(previous).step == 20
        store.save(40, tensors_at(40), {})
        assert store.load().step == 40
        assert [name for name in os.listdir(tmp_path) if not name.isdigit()] == []
    # Only pruning, after success, may fail quietly.
    assert calls - failures < 8


def test_a_full_disk_is_reported_by_path_and_the_previous_checkpoint_stays(tmp_path: Path) -> None:
    store = two_checkpoints(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(MtrlError, match=r"cannot save .*000000000030: File too large"):
            store.save(30, {"big": torch.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(os.listdir(tmp_path)) == ["000000000010", "000000000020"]
    assert store.load().step == 20


def test_a_directory_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MtrlError, match=r"cannot save the checkpoint .*file"):
        CheckpointStore(tmp_path / "file").save(1, {}, {})


def test_pruning_waits_for_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = two_checkpoints(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(checkpoint_module.os, "rename", refuse)
    with pytest.raises(MtrlError, match="cross-device"):
        store.save(30, {}, {})
    assert store.steps() == [10, 20]


# Kills


def save_for_ever(directory: str) -> None:
    store = CheckpointStore(directory)
    step = (store.steps() or [-1])[-1]
    while True:
        step += 1
        store.save(step, {"x": torch.full((5000,), float(step))}, {"step": step})


def test_killed_at_random_instants_the_newest_is_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mtrl.runs", "torch.utils.tensorboard"])
    rng = np.random.default_rng(0)
    steps = [-1]
    for _ in range(12):
        child = context.Process(target=save_for_ever, args=(str(tmp_path),))
        child.start()
        store = CheckpointStore(tmp_path)
        deadline = time.monotonic() + 30
        while (store.steps() or [-1])[-1] <= steps[-1] and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        child.kill()
        child.join()
        newest = store.load()
        assert store.rejected == []
        assert newest.state == {"step": newest.step}
        assert_close(newest.tensors["x"], torch.full((5000,), float(newest.step)))
        steps.append(newest.step)
    # Each child went on from the checkpoint that the kill before it left.
    assert steps == sorted(set(steps))
