"""The two training loops, killed at any instant, stopped, damaged, extended: they end bit-equal."""

import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resumption import assert_same_end, final_files, no_matplotlib, uninterrupted
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from mtrl import checkpoint
from mtrl.checkpoint import CheckpointStore
from mtrl.errors import MtrlError, guarded
from mtrl.manifest import read_manifest
from mtrl.meta import watching
from mtrl.meta.anil import ANIL
from mtrl.meta.cavia import CAVIA
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import AdamUpdate
from mtrl.meta.parameters import MetaParams
from mtrl.meta.proximal import PROMP
from mtrl.meta.reinforcement import ReinforcementConfig, meta_train_reinforcement
from mtrl.meta.reptile import Reptile
from mtrl.meta.supervised import SupervisedConfig, meta_train_supervised
from mtrl.runs import Run

# torch scripts its own decompositions when the first derivative by a direction is taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

processes = multiprocessing.get_context("forkserver")
# What training imports when it is first needed: seconds, in each of some thirty processes.
PRELOADED = [
    "mtrl.meta.reinforcement",
    "mtrl.meta.supervised",
    "tensorboard.backend.event_processing.event_accumulator",
    "torch._decomp.decompositions_for_jvp",
    "torch._dynamo",
    "torch.utils.tensorboard",
]

Config = SupervisedConfig | ReinforcementConfig

SUPERVISED = SupervisedConfig(
    preset="meta-sgd",
    hidden=(6,),
    tasks_per_batch=3,
    iterations=12,
    log_every=2,
    evaluate_every=6,
    test_tasks=4,
    checkpoint_every=1,
)
REINFORCEMENT = ReinforcementConfig(
    hidden=(6,),
    family_options={"horizon": 8},
    learner=MetaSGD(inner_steps=2),
    tasks_per_batch=2,
    episodes_per_task=3,
    iterations=12,
    evaluate_every=6,
    test_tasks=4,
    checkpoint_every=1,
)
BOTH = pytest.mark.parametrize("config", [SUPERVISED, REINFORCEMENT], ids=["supervised", "rl"])


def train(directory: Path, config: Config, resume: bool = False) -> MetaParams:
    with Run.open(directory, config=config, kind="meta", resume=resume) as run:
        if isinstance(config, SupervisedConfig):
            return meta_train_supervised(config, run)
        return meta_train_reinforcement(config, run)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "find_spec", no_matplotlib)


# A process to kill


def child_main(directory: Path, config: Config, instant: int, pause: float) -> None:
    torch.set_num_threads(1)
    watching.find_spec = no_matplotlib
    resume = (directory / "manifest.json").exists()
    slow_down(pause)
    if instant:
        die_in_the_first_save(instant)
    with open(directory.with_suffix(".stderr"), "a") as file, redirect_stderr(file):
        code = guarded(lambda: train(directory, config, resume) and None)
    sys.exit(code)


def slow_down(pause: float) -> None:
    log = Run.log

    def paused(run: Run, step: int, values: Any) -> None:
        log(run, step, values)
        time.sleep(pause)

    Run.log = paused  # type: ignore[method-assign]


def die_in_the_first_save(instant: int) -> None:
    """Kill this process at the `instant`-th disk operation of its first save, writes half done."""
    save, write_file, left = Run.save, checkpoint.write_file, [instant]
    saving = False

    def counted(operation: Callable[..., Any], before: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= saving
            if left[0] == 0:
                before(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return call

    def first_save(*arguments: Any) -> None:
        nonlocal saving
        saving = True
        save(*arguments)
        saving = False
        # Only the first: what survives it trains to the end.
        left[0] = -1

    def nothing(*arguments: Any) -> None: ...

    def half(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])

    Run.save = first_save  # type: ignore[method-assign]
    checkpoint.write_file = counted(write_file, half)
    for name in ("fsync", "rename", "mkdir", "rmdir"):
        setattr(os, name, counted(getattr(os, name), nothing))


def start(directory: Path, config: Config, instant: int = 0, pause: float = 0.0) -> BaseProcess:
    child = processes.Process(target=child_main, args=(directory, config, instant, pause))
    child.start()
    return child


@pytest.fixture(scope="module", autouse=True)
def _preloaded() -> None:
    # Not at import: other test modules set a list of theirs, and the last one counts.
    processes.set_forkserver_preload(PRELOADED)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Config], Path]]:
    with uninterrupted(tmp_path_factory.mktemp("references"), train) as reference:
        yield reference


# Kills


@BOTH
def test_killed_at_every_instant_of_a_save_it_ends_bit_equal(
    tmp_path: Path, config: Config, references: Callable[[Config], Path]
) -> None:
    directory, instant, torn = tmp_path / "run", 0, 0
    while True:
        instant += 1
        child = start(directory, config, instant)
        child.join(60)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        torn += any((directory / "checkpoints").glob(".tmp-*"))
    # Two tables, a folder, three files half written and flushed, the folder, its name, its parent.
    assert instant > 11
    assert torn >= 6
    assert_same_end(directory, references(config))


@BOTH
def test_killed_at_random_instants_it_ends_bit_equal(
    tmp_path: Path, config: Config, references: Callable[[Config], Path]
) -> None:
    directory, rng, kills = tmp_path / "run", np.random.default_rng(3), 0
    store = CheckpointStore(directory / "checkpoints")
    while True:
        before = store.steps()
        child = start(directory, config, pause=0.01)
        while child.exitcode is None and store.steps() == before:
            child.join(0.002)
        child.join(rng.uniform(0, 0.12))
        if child.exitcode is not None:
            break
        child.kill()
        child.join()
        kills += 1
    assert child.exitcode == 0
    assert kills >= 2
    assert_same_end(directory, references(config))


# Signals


@pytest.mark.parametrize(
    ("config", "number", "exit_code"),
    [(SUPERVISED, signal.SIGTERM, 143), (REINFORCEMENT, signal.SIGINT, 130)],
    ids=["supervised-SIGTERM", "rl-SIGINT"],
)
def test_a_signal_saves_says_how_to_resume_and_the_resumed_run_ends_bit_equal(
    tmp_path: Path,
    config: Config,
    number: signal.Signals,
    exit_code: int,
    references: Callable[[Config], Path],
) -> None:
    directory = tmp_path / "run"
    # Nothing but the signal saves, and the learning rate must not depend on where it falls.
    config = replace(config, checkpoint_every=1000)
    child = start(directory, config, pause=0.05)
    metrics = directory / "metrics.csv"
    while child.exitcode is None and not (metrics.exists() and "\n2," in metrics.read_text()):
        child.join(0.002)
    os.kill(child.pid or 0, number)
    child.join(60)
    assert child.exitcode == exit_code
    (saved,) = CheckpointStore(directory / "checkpoints").steps()
    assert 2 <= saved < config.iterations
    said = directory.with_suffix(".stderr").read_text().splitlines()[-1]
    assert said == (
        f"mtrl: {number.name}: stopped after saving step {saved}; "
        f"resume with: mtrl train --resume {directory}"
    )
    train(directory, config, resume=True)
    assert_same_end(directory, references(config))


# Damage


class Payload:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def flip_a_byte(file: Path, mark: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path, mark: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def plant_a_pickle(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Payload(mark)))


@BOTH
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [flip_a_byte, truncate, plant_a_pickle])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    tmp_path: Path,
    config: Config,
    name: str,
    damage: Callable[[Path, Path], None],
    references: Callable[[Config], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(references(config), directory)
    newest = directory / "checkpoints" / f"{config.iterations:012d}" / name
    damage(newest, mark)
    train(directory, config, resume=True)
    assert f"refused a damaged checkpoint: {newest}" in caplog.text
    assert not mark.exists()
    assert_same_end(directory, references(config))
    versions = read_manifest(directory / "manifest.json")["sessions"]
    assert len(versions) == 2


def test_the_planted_pickle_would_have_left_its_mark(tmp_path: Path) -> None:
    plant_a_pickle(tmp_path / "file", tmp_path / "mark")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "mark").exists()


# Finished and extended runs


@BOTH
def test_resuming_a_finished_run_changes_nothing_and_returns_its_parameters(
    tmp_path: Path, config: Config, references: Callable[[Config], Path]
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(references(config), directory)
    names = ("metrics.csv", "timings.csv", "config.toml")
    before = {name: (directory / name).read_bytes() for name in names}
    meta = train(directory, config, resume=True)
    stored = CheckpointStore(directory / "checkpoints").load().tensors
    assert_close(
        {f"meta/{name}": value for name, value in meta.named().items()},
        {name: value for name, value in stored.items() if name.startswith("meta/")},
        rtol=0,
        atol=0,
    )
    assert {name: (directory / name).read_bytes() for name in names} == before
    assert_same_end(directory, references(config))


@BOTH
def test_an_extended_run_ends_where_the_longer_run_ends(
    tmp_path: Path, config: Config, references: Callable[[Config], Path]
) -> None:
    directory = tmp_path / "run"
    train(directory, replace(config, iterations=6))
    train(directory, config, resume=True)
    assert_same_end(directory, references(config))


@BOTH
def test_tensorboard_shows_each_step_once_after_resumes(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(watching, "find_spec", find_spec)
    directory = tmp_path / "run"
    train(directory, config)
    straight = steps_shown(directory)
    newest = directory / "checkpoints" / f"{config.iterations:012d}"
    for _ in range(2):
        flip_a_byte(newest / "state.json", tmp_path)
        train(directory, config, resume=True)
    resumed = steps_shown(directory)
    assert resumed == straight
    assert {"images/figures/adaptation_curve", "histograms/step_sizes/layers.0.weight"} <= set(
        resumed
    )
    for steps in resumed.values():
        assert steps == sorted(set(steps))


def steps_shown(directory: Path) -> dict[str, list[int]]:
    events = EventAccumulator(str(directory), dict.fromkeys(("scalars", "images", "histograms"), 0))
    events.Reload()
    readers = {"scalars": events.Scalars, "images": events.Images, "histograms": events.Histograms}
    return {
        f"{kind}/{tag}": [event.step for event in read(tag)]
        for kind, read in readers.items()
        for tag in events.Tags()[kind]
        if not tag.startswith("time/")
    }


# Reproducibility


@BOTH
def test_the_same_configuration_gives_the_same_run_and_another_seed_another(
    tmp_path: Path, config: Config, references: Callable[[Config], Path]
) -> None:
    train(tmp_path / "again", config)
    assert_same_end(tmp_path / "again", references(config))
    train(tmp_path / "other", replace(config, seed=1))
    ours, theirs = final_files(tmp_path / "other"), final_files(references(config))
    for name in theirs:
        assert ours[name] != theirs[name]


@BOTH
def test_evaluating_and_saving_more_often_changes_no_parameter(
    tmp_path: Path, config: Config, references: Callable[[Config], Path]
) -> None:
    meta = train(tmp_path / "often", replace(config, evaluate_every=3, checkpoint_every=5))
    stored = CheckpointStore(references(config) / "checkpoints").load().tensors
    for name, value in meta.named().items():
        assert_close(value, stored[f"meta/{name}"], rtol=0, atol=0)


@pytest.mark.parametrize(
    "config",
    [
        replace(SUPERVISED, schedule="cosine", learner=MAML()),
        replace(SUPERVISED, learner=ANIL()),
        replace(SUPERVISED, learner=CAVIA()),
        replace(SUPERVISED, learner=Reptile()),
        replace(SUPERVISED, learner=Reptile(outer="interpolation")),
        replace(REINFORCEMENT, learner=MAML()),
        replace(REINFORCEMENT, learner=CAVIA()),
        replace(REINFORCEMENT, learner=ANIL(), outer=PROMP()),
        replace(REINFORCEMENT, outer=PROMP()),
        replace(REINFORCEMENT, average_last=3),
        replace(REINFORCEMENT, average_last=3, outer=PROMP()),
    ],
    ids=[
        "MAML",
        "ANIL",
        "CAVIA",
        "Reptile",
        "Reptile, interpolation",
        "rl, MAML",
        "rl, CAVIA",
        "rl, ANIL, ProMP",
        "rl, Meta-SGD, ProMP",
        "rl, averaged",
        "rl, averaged, ProMP",
    ],
)
def test_every_learner_and_outer_update_resumes_bit_equal(
    tmp_path: Path, config: Config, references: Callable[[Config], Path]
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(references(config), directory)
    newest = directory / "checkpoints" / f"{config.iterations:012d}"
    truncate(newest / "tensors.safetensors", tmp_path)
    train(directory, config, resume=True)
    assert_same_end(directory, references(config))


# What is not finite


def test_parameters_that_are_not_finite_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SUPERVISED, evaluate_every=100)
    train(tmp_path, replace(config, iterations=5))
    step = AdamUpdate.step

    def poison(update: AdamUpdate, gradient: torch.Tensor, learning_rate: float) -> None:
        step(update, torch.full_like(gradient, torch.nan), learning_rate)

    with monkeypatch.context() as patch:
        patch.setattr(AdamUpdate, "step", poison)
        with pytest.raises(
            MtrlError, match=r"params\.\S+ is not finite after iteration 6, so it is"
        ):
            train(tmp_path, config, resume=True)
    assert CheckpointStore(tmp_path / "checkpoints").load().step == 5
    assert np.isfinite(final_tensor(tmp_path)).all()
    train(tmp_path, config, resume=True)
    assert CheckpointStore(tmp_path / "checkpoints").load().step == config.iterations


def final_tensor(directory: Path) -> np.ndarray:
    tensors = CheckpointStore(directory / "checkpoints").load().tensors
    return tensors["meta/params.layers.0.weight"].numpy()
