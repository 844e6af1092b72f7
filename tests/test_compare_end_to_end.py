"""A tiny comparison, killed and continued: the same files, nothing done twice, damage found."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mtrl.agents.networks import MLP, NetworkConfig, OneHot
from mtrl.cli import main
from mtrl.compare.carry_out import Place, Written, compare, plan_of
from mtrl.compare.plan import Kind, Plan
from mtrl.compare.playing import final_returns
from mtrl.compare.processes import Playing
from mtrl.compare.references import cached_references
from mtrl.compare.trainings import specialists_of, trainings_of
from mtrl.config import from_toml, to_toml
from mtrl.errors import MtrlError, UsageError
from mtrl.interrupts import Interrupted
from mtrl.multitask.algorithms import PPO
from mtrl.multitask.config import MultiTaskConfig
from mtrl.multitask.trained import load_multitask_run
from mtrl.side_by_side import work_alone

pytest.importorskip("matplotlib")

SETTINGS = MultiTaskConfig(
    tasks=2,
    envs_per_task=2,
    algorithm=PPO(n_steps=16, batch_size=32, n_epochs=2),
    network=NetworkConfig(trunk=MLP(hidden=(6,)), conditioning=OneHot()),
    total_steps=301,
    log_every=64,
    eval_episodes=1,
    checkpoint_every=64,
)
ALL: tuple[Kind, ...] = ("specialists", "shared", "unshared")


def plan(**changes: object) -> Plan:
    return replace(plan_of(SETTINGS, ALL, seeds=1, episodes=3), **changes)


@dataclass(frozen=True)
class Done:
    """A comparison that was never stopped, and where."""

    directory: Path
    written: Written

    @property
    def specialists(self) -> Path:
        return self.directory / "specialists"


def place(directory: Path, specialists: Path | None = None) -> Place:
    return Place(
        directory=directory, specialists=specialists, processes=1, command="mtrl compare --dir x"
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    directory = tmp_path_factory.mktemp("compare") / "whole"
    return Done(directory, compare(plan(), place(directory)))


def sessions(directory: Path) -> int:
    return len(json.loads((directory / "manifest.json").read_bytes())["sessions"])


def before_the_times(page: str) -> str:
    return page.partition("## How this was made")[0]


def once_it_trains(directory: Path, act: Callable[[], None]) -> None:
    """Call `act` in a thread as soon as the run in `directory` has logged a number."""

    def wait() -> None:
        metrics = directory / "metrics.csv"
        while not metrics.exists() or len(metrics.read_bytes().splitlines()) < 2:
            time.sleep(0.01)
        act()

    threading.Thread(target=wait, daemon=True).start()


def kill_what_runs() -> None:
    while not (children := multiprocessing.active_children()):
        time.sleep(0.01)
    for child in children:
        child.kill()


def test_every_number_is_that_of_the_run_it_names(done: Done) -> None:
    trainings = trainings_of(plan(), done.directory, done.specialists)
    assert [each.kind for each in trainings] == ["shared", "unshared", *["specialists"] * 2]
    lines = (done.directory / "compare.csv").read_text().splitlines()
    rows = {line.split(",")[0]: [float(part) for part in line.split(",")[2:]] for line in lines[1:]}
    means = []
    for training in trainings:
        run = load_multitask_run(training.directory)
        assert tuple(run.tasks) == training.tasks
        scores = training.scores()
        assert scores is not None
        returns = final_returns(run.agent, run.family, run.tasks, 3)
        assert_array_equal(scores.returns, returns)
        means.append(returns.mean(1).tolist())
        # A rollout of a task has 32 steps: 301 of two tasks are 5 rollouts of 64, 150 of one 5 of 32.
        assert scores.steps == run.step == 160 * len(run.tasks)
    assert rows["shared"] == means[0] and rows["unshared"] == means[1]
    assert rows["specialists"] == [*means[2], *means[3]]
    text = done.written.text
    assert "each specialist has 150, all of them together 1 fewer" in text
    assert "| shared trunk | 1 | 0 | 320 |" in text and "| specialists | 2 | 0 | 320 |" in text
    assert done.written.figure.read_bytes().startswith(b"\x89PNG")


def test_killed_and_stopped_it_ends_with_the_same_files(done: Done, tmp_path: Path) -> None:
    directory = tmp_path / "halved"
    where = place(directory, tmp_path / "elsewhere")
    once_it_trains(directory / "shared-seed-0", kill_what_runs)
    with pytest.raises(MtrlError, match="agent, seed 0 failed with exit code -9"):
        compare(plan(), where)
    once_it_trains(directory / "unshared-seed-0", lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="the same command continues") as raised:
        compare(plan(), where)
    assert raised.value.exit_code == 130
    again = compare(plan(), where)
    assert sum(sessions(directory / f"{kind}-seed-0") for kind in ("shared", "unshared")) > 2
    assert before_the_times(again.text) == before_the_times(done.written.text)
    for ours, theirs in (
        (again.scores, done.written.scores),
        (again.figure, done.written.figure),
        (directory / "tasks.jsonl", done.directory / "tasks.jsonl"),
    ):
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_training_ends_saved_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    endless = plan(settings=replace(SETTINGS, total_steps=10**8), kinds=("shared",))
    (training,) = trainings_of(endless, tmp_path, tmp_path)
    context = multiprocessing.get_context("forkserver")
    wanted, held = context.Pipe(duplex=False)
    playing = Playing(training=training, commit="none")
    process = context.Process(target=work_alone, args=(playing, wanted))
    process.start()
    # The end of the pipe is what a worker sees of the death of the process that wants it.
    once_it_trains(training.directory, held.close)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert load_multitask_run(training.directory).step >= 64
    assert training.scores() is None
    assert "stopped after saving" in playing.log.read_text()


def test_a_second_comparison_repeats_no_specialist(done: Done, tmp_path: Path) -> None:
    runs = [each.directory for each in specialists_of(plan(), done.specialists)]
    wanted = plan(kinds=("specialists",))
    written = compare(wanted, place(tmp_path / "second", done.specialists))
    assert [sessions(run) for run in runs] == [1, 1]
    assert "| specialists | 2 | 2 | 320 |" in written.text
    other = replace(wanted, settings=replace(SETTINGS, algorithm=PPO(n_steps=16, gamma=0.9)))
    assert all(not each.directory.exists() for each in specialists_of(other, done.specialists))


def test_the_regret_s_references_are_the_specialists(done: Done) -> None:
    assert done.written.regret is not None
    settings = from_toml(MultiTaskConfig, done.written.regret)
    references = cached_references(plan(), done.specialists)
    means = [
        float(scores.returns.mean())
        for scores in (each.scores() for each in specialists_of(plan(), done.specialists))
        if scores is not None
    ]
    assert list(references.best) == means
    assert settings.objective.best == references.best
    assert settings.objective.random == references.random and min(references.random) > 5
    assert settings.task_file == (done.directory / "tasks.jsonl").resolve()


def test_a_directory_of_another_comparison_is_refused(done: Done, tmp_path: Path) -> None:
    for changes, name in (
        ({"total_steps": 400}, "total_steps"),
        ({"algorithm": replace(SETTINGS.algorithm, gamma=0.5)}, "algorithm.gamma"),
    ):
        other = plan(settings=replace(SETTINGS, **changes))
        with pytest.raises(UsageError, match=f"{name} differs from .*config.toml"):
            compare(other, place(done.directory))
    swapped = plan(tasks=tuple(reversed(plan().tasks)))
    with pytest.raises(UsageError, match="the tasks are not those in"):
        compare(swapped, place(done.directory))


def test_damage_among_the_specialists_is_named(done: Done, tmp_path: Path) -> None:
    folder = tmp_path / "specialists"
    shutil.copytree(done.specialists, folder)
    wanted = plan(kinds=("specialists",))
    first, second = specialists_of(wanted, folder)
    first.scores_file.write_text(first.scores_file.read_text()[:40])
    with pytest.raises(MtrlError, match=f"{first.scores_file.name} is damaged .* delete it"):
        compare(wanted, place(tmp_path / "one", folder))
    # Without its scores a specialist is played again, and its checkpoint is what is played.
    first.scores_file.unlink()
    (tensors,) = (first.directory / "checkpoints").glob("*0160/tensors.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    for older in (first.directory / "checkpoints").iterdir():
        if older != tensors.parent:
            shutil.rmtree(older)
    with pytest.raises(MtrlError, match="specialist of task_0, seed 0 failed .*checkpoint"):
        compare(wanted, place(tmp_path / "one", folder))
    shutil.rmtree(first.directory)
    shutil.copytree(second.directory, first.directory)
    with pytest.raises(MtrlError, match="scores-3.json is damaged .*scores of the tasks"):
        compare(wanted, place(tmp_path / "one", folder))


def test_the_command_adds_an_agent_and_writes_where_it_is_told(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, output = tmp_path / "settings.toml", tmp_path / "results"
    settings.write_text(to_toml(SETTINGS))
    command = ["compare", "--dir", str(done.directory), "--config", str(settings), "--seeds", "1"]
    command += ["--agents", "specialists,shared,blind", "--episodes", "3", "--processes", "1"]
    command += ["--output", str(output), "--name", "two"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert {path.name for path in output.iterdir()} == {"two.md", "two.csv", "two.png"}
    assert said.out.strip() == (output / "two.md").read_text().strip()
    assert "4 trainings, 3 of them found finished" in said.err
    assert "blind agent, seed 0: 320 steps in 0:0" in said.err
    assert "![Return on each task, and what sharing changes](two.png)" in said.out
    assert f"`mtrl {' '.join(command)}`" in said.out
    assert sessions(done.directory / "shared-seed-0") == 1
    rows = (output / "two.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["specialists", "shared", "blind", "random"]
    assert np.isfinite([float(part) for part in rows[3].split(",")[1:]]).all()
