"""Runs on a sequence of tasks: killed or stopped anywhere they end bit-equal, matrix and all."""

import runpy
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from resumption import assert_same_end, children, no_matplotlib, train_with_stops, uninterrupted
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtrl.agents.incremental import (
    AGEM,
    EWC,
    BehaviourCloningReplay,
    ColumnsTrunk,
    PackNet,
    ProgressiveColumns,
    TaskSwitch,
)
from mtrl.agents.networks import MLP, OneHot, Shared
from mtrl.checkpoint import CheckpointStore
from mtrl.cli import main
from mtrl.config import from_dict, from_toml, to_dict, to_toml
from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.continual import MATRIX_MEASURES
from mtrl.evaluation.continual_file import read_matrix
from mtrl.incremental.config import IncrementalConfig, ListedTask, NetworkSettings
from mtrl.incremental.curves import stage_areas, stage_curves
from mtrl.incremental.tasks import check_plan, families_of, tasks_of
from mtrl.incremental.trained import load_incremental_run
from mtrl.incremental.training import MATRIX, train_incremental
from mtrl.meta import watching
from mtrl.metrics import read_metrics
from mtrl.multitask.algorithms import DQN, PPO
from mtrl.runs import Run

PRELOADED = ["mtrl.incremental.training", "torch.utils.tensorboard", "torch._dynamo"]

POLE = ListedTask(family="cartpole", low=9.0, high=500.0)
ARM = ListedTask(family="acrobot", low=-12.0, high=0.0)
REVERSED = ListedTask(family="cartpole", params={"force_mag": -10.0}, low=9.0, high=500.0)
ON_POLICY = IncrementalConfig(
    families=("cartpole:wide", "acrobot:wide"),
    family_options={"acrobot.horizon": 12},
    tasks={"pole": POLE, "arm": ARM, "reversed": REVERSED},
    steps_per_task=128,
    algorithm=PPO(n_steps=8, batch_size=16, n_epochs=2, final_learning_rate=1e-5),
    method=EWC(coefficient=10.0, states=20),
    network=NetworkSettings(trunk=MLP(hidden=(6,))),
    envs=4,
    eval_episodes=2,
    evaluate_every=50,
    log_every=40,
    checkpoint_every=60,
)
PACKED = replace(ON_POLICY, method=PackNet(), score="scaled")
COLUMNS = replace(
    ON_POLICY,
    method=ProgressiveColumns(),
    network=NetworkSettings(trunk=ColumnsTrunk(hidden=(6,), adapter=3)),
)
PROJECTED = replace(
    ON_POLICY,
    method=AGEM(memory_per_task=20, batch_size=8),
    network=NetworkSettings(trunk=MLP(hidden=(6,)), conditioning=OneHot(), head=Shared()),
    rounds=2,
    steps_per_task=64,
)
REPLAYED = replace(
    ON_POLICY,
    algorithm=DQN(learning_starts=20, buffer_size=300, batch_size=8, steps_per_round=40),
    method=BehaviourCloningReplay(memory_per_task=20, batch_size=8),
    switch=TaskSwitch(replay_buffer="warm", warm_transitions=20, exploration="warm"),
)
ALL = pytest.mark.parametrize(
    "config",
    [ON_POLICY, PACKED, COLUMNS, PROJECTED, REPLAYED],
    ids=["ewc", "packnet", "columns", "agem", "dqn-cloning"],
)


def train(directory: Path, config: IncrementalConfig, resume: bool = False) -> Any:
    with Run.open(directory, config=config, kind="incremental", resume=resume) as run:
        return train_incremental(config, run)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "find_spec", no_matplotlib)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    with uninterrupted(tmp_path_factory.mktemp("references"), train) as reference:
        yield reference


# Stopped and killed


@ALL
def test_stopped_between_any_rollouts_it_ends_bit_equal(
    tmp_path: Path,
    config: IncrementalConfig,
    references: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference, directory = references(config), tmp_path / "run"
    config = replace(config, checkpoint_every=10**6)
    assert train_with_stops(train, directory, config, monkeypatch, every=6, first=4) >= 2
    assert_same_end(directory, reference, MATRIX)


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    with children(train, PRELOADED) as start:
        yield start


def test_killed_in_the_middle_of_the_sequence_it_ends_bit_equal(
    tmp_path: Path, references: Callable[..., Path], start: Callable[..., BaseProcess]
) -> None:
    directory, rng = tmp_path / "run", np.random.default_rng(1)
    store = CheckpointStore(directory / "checkpoints")
    # Within the first stage, and within the second, on the other family.
    for beyond in (64, 160):
        child = start(directory, ON_POLICY, 0.05)
        while child.exitcode is None and not any(step >= beyond for step in store.steps()):
            child.join(0.002)
        child.join(rng.uniform(0, 0.1))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    assert np.isnan(read_matrix(directory / MATRIX).scores).any()
    train(directory, ON_POLICY, resume=True)
    assert_same_end(directory, references(ON_POLICY), MATRIX)


def test_resuming_a_finished_run_changes_nothing(
    tmp_path: Path, references: Callable[..., Path]
) -> None:
    shutil.copytree(references(ON_POLICY), tmp_path / "run")
    train(tmp_path / "run", ON_POLICY, resume=True)
    assert_same_end(tmp_path / "run", references(ON_POLICY), MATRIX)


def test_another_seed_ends_elsewhere(references: Callable[..., Path]) -> None:
    one, other = (references(replace(ON_POLICY, seed=seed)) for seed in (0, 1))
    assert (one / "metrics.csv").read_bytes() != (other / "metrics.csv").read_bytes()


# What is recorded


@pytest.mark.parametrize("config", [ON_POLICY, PROJECTED], ids=["once", "twice"])
def test_curves_and_matrix_say_the_same(
    config: IncrementalConfig, references: Callable[..., Path]
) -> None:
    directory = references(config)
    series, matrix = read_metrics(directory / "metrics.csv"), read_matrix(directory / MATRIX)
    assert matrix.order == tuple(config.tasks) * config.rounds
    ends = [config.steps_per_task * stage for stage in range(1 + len(matrix.order))]
    for column, task in enumerate(matrix.tasks):
        scores = series[f"incremental/score/{task}"]
        found = dict(zip(scores.steps, scores.values, strict=True))
        assert_array_equal([found[end] for end in ends], matrix.scores[0, :, column])
    for name, measure in MATRIX_MEASURES.items():
        logged = series[f"incremental/{name}"]
        for step, value in zip(logged.steps, logged.values, strict=True):
            assert value == measure(matrix.through(ends.index(step))).means[0]
    stages = series["incremental/stage"]
    assert stages.values == sorted(stages.values)
    assert [max(s for s, v in zip(stages.steps, stages.values, strict=True) if v == stage)
            for stage in range(len(ends))] == ends  # fmt: skip
    own = {f"multitask/return/{task}" for task in matrix.tasks}
    assert own | {"gradient/trunk_norm", "train/loss"} <= series.keys()


def test_a_task_is_scored_while_it_is_learnt_only_at_its_intervals(
    references: Callable[..., Path],
) -> None:
    series = read_metrics(references(ON_POLICY) / "metrics.csv")
    # Stages of 128 steps in rollouts of 32; 50 and 100 are passed at 64 and 128, the end.
    assert series["incremental/score/pole"].steps == [0, 64, 128, 256, 384]
    assert series["incremental/score/arm"].steps == [0, 128, 192, 256, 384]
    assert series["incremental/score/reversed"].steps == [0, 128, 256, 320, 384]


def test_pictures_and_charts_are_in_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(watching, "find_spec", find_spec)
    train(tmp_path / "run", replace(ON_POLICY, steps_per_task=32))
    events = EventAccumulator(str(tmp_path / "run"), {"images": 0, "tensors": 0})
    events.Reload()
    drawn = ["figures/forgetting", "figures/performance", "figures/transfer"]
    assert sorted(events.Tags()["images"]) == drawn
    assert len(events.Images("figures/forgetting")) == 3
    (layout,) = events.Tensors("custom_scalars__config__")
    assert b"incremental/score/.+" in layout.tensor_proto.string_val[0]


def test_packnet_keeps_the_first_task_bit_for_bit(references: Callable[..., Path]) -> None:
    matrix = read_matrix(references(PACKED) / MATRIX)
    first = matrix.scores[0, 1:, 0]
    assert (first == first[0]).all()
    assert ((matrix.scores >= 0) & (matrix.scores <= 1)).all()


def test_a_loaded_run_plays_as_its_matrix_says(references: Callable[..., Path]) -> None:
    trained = load_incremental_run(references(PACKED))
    again = [trained.runner.measure(task) for task in range(3)]
    assert_array_equal(again, trained.runner.matrix.scores[0, -1])
    assert trained.scores(3, seed=0).returns.shape == (3, 3)


# Which tasks


def test_drawn_tasks_take_turns_between_families() -> None:
    config = replace(ON_POLICY, tasks={}, drawn=2)
    learnt = tasks_of(config, families_of(config))
    assert [each.name for each in learnt] == ["cartpole_0", "acrobot_0", "cartpole_1", "acrobot_1"]
    assert [each.task.family for each in learnt] == ["cartpole", "acrobot"] * 2
    assert len({each.task.id for each in learnt}) == 4
    other = tasks_of(replace(config, seed=1), families_of(config))
    assert {each.task.id for each in other}.isdisjoint(each.task.id for each in learnt)


def test_listed_tasks_of_a_family_without_usual_values_say_everything() -> None:
    corner, origin = (0.1, -0.2), (0.0, 0.0)
    listed = ListedTask(family="navigation2d", params={"goal": corner, "start": origin})
    config = IncrementalConfig(families=("navigation2d",), tasks={"corner": listed})
    (found,) = tasks_of(config, families_of(config))
    assert found.task.params["goal"] == corner
    short = replace(config, tasks={"corner": replace(listed, params={"goal": corner})})
    with pytest.raises(UsageError, match="task 'corner'"):
        tasks_of(short, families_of(short))


def test_a_file_of_tasks_gives_their_order(tmp_path: Path) -> None:
    listed = tasks_of(ON_POLICY, families_of(ON_POLICY))[::-1]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(f"{each.task.to_json()}\n" for each in listed))
    config = replace(ON_POLICY, tasks={}, task_file=path)
    found = tasks_of(config, families_of(config))
    assert [each.task for each in found] == [each.task for each in listed]
    assert [each.name for each in found] == ["task_0", "task_1", "task_2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ("cartpole", "cartpole:wide")}, "give at least one, and each once"),
        ({"families": ("cartpole:wide",)}, "family_options has 'acrobot.horizon'"),
        ({"family_options": {"horizon": 3}}, "write FAMILY.ARGUMENT"),
        ({"tasks": {"car": ListedTask(family="mountaincar")}}, "'car' is of family 'mountaincar'"),
        ({"tasks": {"pole": ListedTask()}, "score": "scaled"}, "pole have no low and high return"),
        ({"tasks": {}, "score": "scaled"}, "the drawn tasks have no low and high"),
        ({"order": ("pole", "car")}, "order has 'car'; tasks has pole, arm, reversed"),
        ({"steps_per_task": 0}, "steps_per_task"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        replace(ON_POLICY, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ("cartpole:wide", "acrobot:none")}, "unknown preset"),
        ({"tasks": {"a": POLE, "b": POLE}}, "a and b are the same task"),
        ({"tasks": {"a": ListedTask(params={"length": 99.0})}}, "task 'a'"),
        ({"families": ("cartpole:wide", "acrobot:wide", "bandit")}, "no padding|no task is of"),
        ({"families": ("sinusoid",), "family_options": {}, "tasks": {}}, "no environments"),
        ({"network": NetworkSettings(trunk=ColumnsTrunk()), "method": PackNet()}, "PackNet is not"),
        ({"method": ProgressiveColumns()}, "use NetworkConfig.trunk=ColumnsTrunk"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str
) -> None:
    config = replace(ON_POLICY, **changes)
    if "bandit" in config.families:
        # A family of which no task is listed is left out of the spaces.
        check_plan(config)
        return
    with pytest.raises(UsageError, match=message):
        check_plan(config)


def test_bounds_are_given_together_and_in_order() -> None:
    with pytest.raises(UsageError, match="both low and high"):
        ListedTask(low=1.0)
    with pytest.raises(UsageError, match="low must be the lower"):
        ListedTask(low=1.0, high=1.0)


@ALL
def test_settings_come_back_from_their_file(tmp_path: Path, config: IncrementalConfig) -> None:
    assert from_dict(IncrementalConfig, to_dict(config)) == config
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    again = from_toml(IncrementalConfig, path)
    assert again == config
    assert list(again.tasks) == list(config.tasks)


# The command line


def test_the_commands_train_resume_evaluate_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(to_toml(replace(ON_POLICY, steps_per_task=32, envs=2)))
    runs = tmp_path / "runs"
    for seed in ("0", "1"):
        start = ["train", "incremental", "--dir", str(runs / seed), "--config", str(settings)]
        assert main([*start, "--seed", seed, "method:online-ewc", "--method.decay", "0.5"]) == 0
    assert main(["train", "--resume", str(runs / "0")]) == 0
    assert "decay = 0.5" in (runs / "0" / "config.toml").read_text()
    assert main(["evaluate", str(runs / "0"), "--episodes", "3"]) == 0
    printed = capsys.readouterr().out
    assert "2: arm" in printed
    assert "cw_forgetting" in printed
    assert len((runs / "0" / "evaluation.csv").read_text().splitlines()) == 1 + 3 * 3
    assert main(["report", str(runs)]) == 0
    report = (runs / "report.md").read_text()
    # Two seeds are one experiment, and so is their matrix.
    assert "performance.csv of 2 runs: measures" in report
    assert "finished" in report
    assert main(["evaluate", str(runs / "0"), "--steps", "1"]) == 2


# How fast tasks were learnt


def test_stages_have_the_curves_that_were_logged(references: Callable[..., Path]) -> None:
    directory = references(PACKED)
    series, matrix = read_metrics(directory / "metrics.csv"), read_matrix(directory / MATRIX)
    curves = stage_curves(series, matrix.order)
    assert [curve.steps for curve in curves] == [[0, 64, 128]] * 3
    scores = matrix.scores[0]
    for stage, curve in enumerate(curves):
        assert (curve.scores[0], curve.scores[-1]) == (
            scores[stage, stage],
            scores[stage + 1, stage],
        )
    areas = [(a / 2 + b + c / 2) / 2 for a, b, c in (curve.scores for curve in curves)]
    assert_allclose(stage_areas(curves), areas, rtol=1e-12)
    with pytest.raises(MtrlError, match="stage 4 has not ended"):
        stage_curves(series, (*matrix.order, "pole"))


def test_a_task_that_returns_has_a_curve_for_each_time(references: Callable[..., Path]) -> None:
    directory = references(PROJECTED)
    series, matrix = read_metrics(directory / "metrics.csv"), read_matrix(directory / MATRIX)
    curves = stage_curves(series, matrix.order)
    assert len(curves) == 6
    assert curves[3].scores[0] == matrix.scores[0, 3, 0]
    assert curves[3].scores[-1] == matrix.scores[0, 4, 0]


def test_the_first_task_is_learnt_as_if_it_were_the_only_one(
    tmp_path: Path,
) -> None:
    config = replace(ON_POLICY, switch=TaskSwitch(learning_rate="reset"))
    train(tmp_path / "all", config)
    train(tmp_path / "one", replace(config, order=("pole",)))
    together, alone = (read_matrix(tmp_path / each / MATRIX) for each in ("all", "one"))
    assert alone.tasks == together.tasks
    assert_array_equal(alone.scores[0], together.scores[0, :2])


@pytest.mark.parametrize("script", ["train_incremental_cartpole", "train_incremental_two_families"])
def test_the_scripts_train_and_print_what_was_kept(
    script: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path(__file__).resolve().parent.parent / "scripts" / f"{script}.py"
    small = ["--steps-per-task", "32", "--envs", "2", "--eval-episodes", "1"]
    if script.endswith("families"):
        small += ["--family-options.hexagon.horizon", "5"]
    small += ["algorithm:ppo", "--algorithm.n-steps", "16", "--algorithm.n-epochs", "1"]
    small += ["--algorithm.batch-size", "32"]
    monkeypatch.setattr(sys, "argv", [str(path), "--dir", str(tmp_path / "run"), *small])
    monkeypatch.setattr("mtrl.commands.incremental._EPISODES", 2)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(path), run_name="__main__")
    assert not stopped.value.code
    matrix = read_matrix(tmp_path / "run" / MATRIX)
    printed = capsys.readouterr().out
    assert all(f"{i}: {task}" in printed for i, task in enumerate(matrix.order, start=1))
    assert "average_performance" in printed
