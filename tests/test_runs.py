"""Runs: killed at any instant and resumed, a run ends where the uninterrupted one ends."""

import json
import math
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from mtrl.checkpoint import CheckpointStore
from mtrl.errors import CheckpointError, MtrlError, RunLockedError, UsageError
from mtrl.interrupts import Interrupts
from mtrl.manifest import read_manifest
from mtrl.metrics import MetricsFile, Series, kept_prefix, read_metrics
from mtrl.runs import Run
from mtrl.seeding import Streams

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["mtrl.runs", "torch.utils.tensorboard"])

LOSS = "meta/train_loss"


@dataclass(frozen=True, kw_only=True)
class Learner:
    step_size: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 3
    learner: Learner = field(default_factory=Learner)
    save_every: int = 4
    iterations: int = field(default=60, metadata={"resumable": True})


def train(directory: str, resume: bool = False, pause: float = 0.0, iterations: int = 60) -> None:
    """A loop with parameters and two sorts of random stream; exits as the command line does."""
    config = Config(iterations=iterations)
    try:
        with Run.open(directory, config=config, kind="toy", resume=resume) as run:
            train_loop(run, config, pause)
    except MtrlError as error:
        sys.exit(error.exit_code)


def train_loop(run: Run, config: Config, pause: float) -> None:
    streams, weight, start = Streams(config.seed), torch.zeros(3, dtype=torch.float64), 0
    if run.restored is not None:
        tensors = dict(run.restored.tensors)
        weight, start = tensors.pop("weight"), run.restored.step
        streams.load_state_dict(tensors, run.restored.state["streams"])
    for step in range(start + 1, config.iterations + 1):
        noise = torch.randn(3, generator=streams.generator("noise"), dtype=torch.float64)
        weight = 0.9 * weight + noise * streams.rng("scale").random()
        run.log(step, {LOSS: weight.sum(), "outer/gradient_norm": weight.norm()})
        run.log_time(step, {"time/iterations_per_second": time.monotonic()})
        time.sleep(pause)
        last = step == config.iterations
        if step % config.save_every == 0 or last or run.stop_requested:
            tensors, values = streams.state_dict()
            run.save(step, {"weight": weight, **tensors}, {"streams": values})
        if run.stop_requested and not last:
            raise run.interruption()


def start(*arguments: object) -> BaseProcess:
    child = processes.Process(target=train, args=arguments)
    child.start()
    return child


def wait_for_step(directory: Path, step: int, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        metrics = directory / "metrics.csv"
        if metrics.exists() and f"\n{step}," in metrics.read_text():
            return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was never logged")


def has_run(directory: Path) -> bool:
    return (directory / "manifest.json").exists()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(str(directory))
    return directory


def assert_same_end(directory: Path, reference: Path) -> None:
    assert (directory / "metrics.csv").read_bytes() == (reference / "metrics.csv").read_bytes()
    ours, theirs = (CheckpointStore(path / "checkpoints").load() for path in (directory, reference))
    assert (ours.step, ours.state) == (theirs.step, theirs.state)
    assert_close(ours.tensors, theirs.tensors, rtol=0, atol=0)


# Exact resume


def test_killed_at_random_instants_and_resumed_it_ends_bit_equal(
    tmp_path: Path, uninterrupted: Path
) -> None:
    directory, rng, kills = tmp_path / "run", np.random.default_rng(1), 0
    store = CheckpointStore(directory / "checkpoints")
    while True:
        before = store.steps()
        child = start(str(directory), has_run(directory), 0.002)
        # Every third child may die while it opens the run; the others get one checkpoint further.
        while kills % 3 and child.exitcode is None and store.steps() == before:
            child.join(0.002)
        child.join(rng.uniform(0, 0.05))
        if child.exitcode is not None:
            break
        child.kill()
        child.join()
        kills += 1
    assert child.exitcode == 0
    assert kills >= 3
    assert_same_end(directory, uninterrupted)
    assert len(read_manifest(directory / "manifest.json")["sessions"]) >= 2


def test_a_resume_from_a_damaged_newest_checkpoint_uses_the_one_before(
    tmp_path: Path, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(str(tmp_path / "run"), iterations=30)
    newest = tmp_path / "run" / "checkpoints" / "000000000030"
    (newest / "tensors.safetensors").write_bytes(b"")
    train(str(tmp_path / "run"), resume=True)
    assert_same_end(tmp_path / "run", uninterrupted)
    assert str(newest / "tensors.safetensors") in caplog.text


def test_a_resume_never_restarts_silently_when_every_checkpoint_is_damaged(tmp_path: Path) -> None:
    train(str(tmp_path), iterations=8)
    for path in (tmp_path / "checkpoints").glob("*/state.json"):
        path.unlink()
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(CheckpointError, match="no good checkpoint"):
        Run.open(tmp_path, config=Config(), kind="toy", resume=True)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_resume_without_a_checkpoint_starts_from_the_header(
    tmp_path: Path, uninterrupted: Path
) -> None:
    with Run.open(tmp_path, config=Config(), kind="toy") as run:
        run.log(1, {LOSS: 5.0})
    with Run.open(tmp_path, config=Config(), kind="toy", resume=True) as run:
        assert run.restored is None
        assert (tmp_path / "metrics.csv").read_text() == "step,tag,value\n"
        train_loop(run, Config(), 0.0)
    assert_same_end(tmp_path, uninterrupted)


def test_a_finished_run_can_be_extended(tmp_path: Path, uninterrupted: Path) -> None:
    train(str(tmp_path), iterations=31)
    train(str(tmp_path), resume=True)
    assert_same_end(tmp_path, uninterrupted)
    assert "iterations = 60" in (tmp_path / "config.toml").read_text()


def test_curves_and_timings_show_each_step_once_after_a_resume(tmp_path: Path) -> None:
    speed = "time/iterations_per_second"
    for resume, steps in ((False, (1, 2, 3)), (True, (3,))):
        with Run.open(tmp_path, config=Config(), kind="toy", resume=resume) as run:
            for step in steps:
                run.log(step, {LOSS: 10.0 * resume + step})
                run.log_time(step, {speed: 10.0 * resume + step})
                if step == 2:
                    run.save(step, {}, {})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for tag, name in ((LOSS, "metrics.csv"), (speed, "timings.csv")):
        curve = [(event.step, event.value) for event in events.Scalars(tag)]
        assert curve == [(1, 1.0), (2, 2.0), (3, 13.0)]
        assert read_metrics(tmp_path / name) == {tag: Series([1, 2, 3], [1.0, 2.0, 13.0])}


def test_rows_of_a_checkpoint_are_on_the_disk_before_it(tmp_path: Path) -> None:
    order: list[str] = []
    with (
        Run.open(tmp_path, config=Config(), kind="toy") as run,
        pytest.MonkeyPatch.context() as patch,
    ):
        fsync, rename = os.fsync, os.rename

        def note_fsync(descriptor: int) -> None:
            order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
            fsync(descriptor)

        def note_rename(source: Path, target: Path) -> None:
            order.append(f"rename {target.name}")
            rename(source, target)

        run.log(1, {LOSS: 1.0})
        patch.setattr(os, "fsync", note_fsync)
        patch.setattr(os, "rename", note_rename)
        run.save(1, {}, {})
    assert order == [
        "metrics.csv",
        "timings.csv",
        "tensors.safetensors",
        "state.json",
        "manifest.json",
        ".tmp-000000000001",
        "rename 000000000001",
        "checkpoints",
    ]


# Signals


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_finishes_the_step_saves_and_exits(
    tmp_path: Path, uninterrupted: Path, number: signal.Signals, exit_code: int
) -> None:
    child = start(str(tmp_path), False, 0.05)
    wait_for_step(tmp_path, 5)
    os.kill(child.pid or 0, number)
    child.join(20)
    assert child.exitcode == exit_code
    saved = CheckpointStore(tmp_path / "checkpoints").load().step
    assert 5 <= saved < 60
    assert read_metrics(tmp_path / "metrics.csv")[LOSS].steps[-1] == saved
    train(str(tmp_path), resume=True)
    assert_same_end(tmp_path, uninterrupted)


def test_the_second_signal_quits_at_once(tmp_path: Path) -> None:
    child = start(str(tmp_path), False, 30.0)
    wait_for_step(tmp_path, 1)
    os.kill(child.pid or 0, signal.SIGINT)
    child.join(0.3)
    assert child.is_alive()
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join(10)
    assert child.exitcode == 143
    assert not (tmp_path / "checkpoints").exists()


def test_an_interruption_says_how_to_resume(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a run", config=Config(), kind="toy") as run:
        assert not run.stop_requested
        signal.raise_signal(signal.SIGTERM)
        assert run.stop_requested
        run.save(7, {}, {})
        error = run.interruption()
    assert error.exit_code == 143
    assert str(error) == (
        f"SIGTERM: stopped after saving step 7; resume with: mtrl train --resume '{tmp_path}/a run'"
    )


def test_handlers_are_put_back_and_left_alone_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    inside = []

    def enter() -> None:
        with Interrupts() as interrupts:
            inside.append((signal.getsignal(signal.SIGINT), interrupts.signal_number))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == [(before[0], None)]


# One run, one process, one directory


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    child = start(str(tmp_path), False, 0.05)
    wait_for_step(tmp_path, 1)
    for resume in (False, True):
        with pytest.raises(RunLockedError, match=f"another process is running in {tmp_path}"):
            Run.open(tmp_path, config=Config(), kind="toy", resume=resume)
    child.kill()
    child.join()
    Run.open(tmp_path, config=Config(), kind="toy", resume=True).close()


def test_a_refused_open_leaves_the_directory_free(tmp_path: Path) -> None:
    Run.open(tmp_path, config=Config(), kind="toy").close()
    for _ in range(2):
        with pytest.raises(UsageError):
            Run.open(tmp_path, config=Config(seed=9), kind="toy", resume=True)
    Run.open(tmp_path, config=Config(), kind="toy", resume=True).close()


def test_a_fresh_run_does_not_overwrite_one(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    Run.open(tmp_path, config=Config(), kind="toy").close()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=r"holds a run; continue it with --resume or use another"):
        Run.open(tmp_path, config=Config(), kind="toy")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume in .*absent; leave out --resume"):
        Run.open(tmp_path / "absent", config=Config(), kind="toy", resume=True)
    assert not (tmp_path / "absent").exists()


def test_a_start_killed_before_its_manifest_can_be_started_again(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("half")
    (tmp_path / "run.lock").write_text("")
    Run.open(tmp_path, config=Config(), kind="toy").close()
    assert "seed = 3" in (tmp_path / "config.toml").read_text()


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        (Config(seed=4), "toy", r"^seed differs from .*config.toml; resume with the stored value"),
        (Config(learner=Learner(step_size=0.2)), "toy", r"^learner.step_size differs"),
        (Config(), "other", "holds a toy run, not a other one"),
    ],
)
def test_a_resume_with_other_settings_is_refused(
    tmp_path: Path, config: Config, kind: str, message: str
) -> None:
    Run.open(tmp_path, config=Config(), kind="toy").close()
    with pytest.raises(UsageError, match=message):
        Run.open(tmp_path, config=config, kind=kind, resume=True)


@pytest.mark.parametrize("name", ["config.toml", "manifest.json"])
@pytest.mark.parametrize("content", [b"", b"\xff", b"[[[", b"{}"])
def test_a_damaged_run_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    Run.open(tmp_path, config=Config(), kind="toy").close()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MtrlError, match=name):
        Run.open(tmp_path, config=Config(), kind="toy", resume=True)


def test_the_manifest_says_what_was_run_and_holds_what_the_loop_adds(tmp_path: Path) -> None:
    with Run.open(tmp_path, config=Config(), kind="toy") as run:
        run.manifest.update(device="cpu")
        run.manifest.pin(task_ids=("a", "b"), split_digest="1f")
    with Run.open(tmp_path, config=Config(), kind="toy", resume=True) as run:
        run.manifest.pin(task_ids=("a", "b"))
        with pytest.raises(MtrlError, match=r"split_digest is not what .*manifest.json says"):
            run.manifest.pin(split_digest="2e")
    values = json.loads((tmp_path / "manifest.json").read_text())
    assert (values["kind"], values["device"], values["task_ids"]) == ("toy", "cpu", ["a", "b"])
    assert values["split_digest"] == "1f"
    assert len(values["sessions"]) == 2
    assert values["sessions"][0]["versions"]["torch"] == torch.__version__


def test_a_resume_with_other_versions_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Run.open(tmp_path, config=Config(), kind="toy").close()
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"{torch.__version__}"', '"1.0"'))
    Run.open(tmp_path, config=Config(), kind="toy", resume=True).close()
    assert "numbers may differ" in caplog.text


# What is logged


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_the_run_and_is_not_recorded(
    tmp_path: Path, value: float
) -> None:
    with Run.open(tmp_path, config=Config(), kind="toy") as run:
        with pytest.raises(MtrlError, match=f"{LOSS} is {value} at step 3"):
            run.log(3, {"outer/kl": 0.5, LOSS: value})
        assert (tmp_path / "metrics.csv").read_text() == "step,tag,value\n"


def test_tags_steps_and_clocks_out_of_place_are_refused(tmp_path: Path) -> None:
    with Run.open(tmp_path, config=Config(), kind="toy") as run:
        with pytest.raises(
            UsageError, match=r"unknown tag meta/trainloss; did you mean meta/train_loss"
        ):
            run.log(0, {"meta/trainloss": 1.0})
        with pytest.raises(UsageError, match="recorded with Run.log_time"):
            run.log(0, {"time/iterations_per_second": 1.0})
        with pytest.raises(UsageError, match=r"recorded with Run.log$"):
            run.log_time(0, {LOSS: 1.0})
        run.log(4, {LOSS: 1.0})
        with pytest.raises(UsageError, match="cannot log step 3, the next is 4 or later"):
            run.log(3, {LOSS: 1.0})
        with pytest.raises(UsageError, match="cannot save step 3 after logging step 4"):
            run.save(3, {}, {})
        run.save(4, {}, {})
        with pytest.raises(UsageError, match="cannot log step 4, the next is 5 or later"):
            run.log(4, {LOSS: 1.0})
        run.save(4, {}, {})
    assert read_metrics(tmp_path / "metrics.csv") == {LOSS: Series([4], [1.0])}


def test_a_full_disk_names_the_file_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Run.open(tmp_path, config=Config(), kind="toy") as run:
        run.log(1, {LOSS: 1.0})
        run.save(1, {}, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
        try:
            with pytest.raises(MtrlError, match=r"cannot write .*metrics.csv: File too large"):
                run.log(2, {LOSS: 1.0, "outer/kl": 2.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len((tmp_path / "metrics.csv").read_bytes()) == 60
    with Run.open(tmp_path, config=Config(), kind="toy", resume=True) as run:
        assert run.restored is not None
    assert read_metrics(tmp_path / "metrics.csv") == {LOSS: Series([1], [1.0])}


# The metrics file


HEADER = b"step,tag,value\n"


@pytest.mark.parametrize(
    ("content", "through", "kept"),
    [
        (b"", 5, b""),
        (HEADER, 5, b""),
        (HEADER + b"1,a,1.0\n2,a,2.0\n", 2, b"1,a,1.0\n2,a,2.0\n"),
        (HEADER + b"1,a,1.0\n2,a,2.0\n", 1, b"1,a,1.0\n"),
        (HEADER + b"1,a,1.0\n2,a,2.0\n", -1, b""),
        (HEADER + b"1,a,1.0\n1,b,2.", 1, b"1,a,1.0\n"),
        (HEADER + b"1,a,1.0\n\0\0\0\0", 9, b"1,a,1.0\n"),
        (HEADER + b"9,a,1.0\n10,a,2.0\n", 9, b"9,a,1.0\n"),
    ],
)
def test_what_a_resume_keeps(content: bytes, through: int, kept: bytes) -> None:
    assert kept_prefix(content, through) == HEADER + kept


def test_metrics_come_back_bit_for_bit_without_a_cut_last_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    file.append(1, {"a": 0.1 + 0.2, "b": 5e-324})
    file.append(2, {"a": -0.0, "b": math.inf})
    file.close()
    path.write_bytes(path.read_bytes() + b"3,a,1.")
    assert repr(read_metrics(path)) == repr(
        {"a": Series([1, 2], [0.1 + 0.2, -0.0]), "b": Series([1, 2], [5e-324, math.inf])}
    )


def test_what_is_no_metrics_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with pytest.raises(MtrlError, match=r"cannot read .*metrics.csv: No such file"):
        read_metrics(path)
    path.write_text("a,b\n")
    with pytest.raises(MtrlError, match="is not a metrics file"):
        read_metrics(path)
    path.write_bytes(HEADER + b"1,a,1.0\n2,a,x\n")
    with pytest.raises(MtrlError, match=r"metrics.csv, line 3: could not convert"):
        read_metrics(path)
