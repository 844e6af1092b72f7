"""Training on many tasks: killed or stopped anywhere it ends bit-equal, and it measures what it says."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_family import Counting
from counting_family import task as counted
from numpy.testing import assert_allclose, assert_array_equal
from resumption import (
    assert_same_end,
    children,
    final_files,
    no_matplotlib,
    train_with_stops,
    uninterrupted,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtrl.agents.balancing import FAMO, GradNorm, NashMTL, PCGrad
from mtrl.agents.multitask.env import TaskFailedWarning
from mtrl.agents.networks import MLP, NetworkConfig, OneHot
from mtrl.checkpoint import CheckpointStore
from mtrl.cli import main
from mtrl.commands.multitask import returns_table
from mtrl.config import from_dict, to_dict
from mtrl.envs.registry import get_family
from mtrl.errors import CheckpointError, UsageError
from mtrl.meta import watching
from mtrl.meta.kinds import KINDS
from mtrl.metrics import read_metrics
from mtrl.multitask.algorithms import DQN, PPO, SAC
from mtrl.multitask.config import MultiTaskConfig, ObjectiveConfig
from mtrl.multitask.evaluation import play_episodes
from mtrl.multitask.tasks import build_agent, multitask_env, multitask_family, train_tasks
from mtrl.multitask.trained import load_multitask_run
from mtrl.multitask.training import train_multitask
from mtrl.runs import Run

PRELOADED = ["mtrl.multitask.training", "torch.utils.tensorboard", "torch._dynamo"]

SMALL = MultiTaskConfig(
    tasks=3,
    envs_per_task=2,
    network=NetworkConfig(trunk=MLP(hidden=(6,)), conditioning=OneHot()),
    log_every=60,
    evaluate_every=300,
    eval_episodes=2,
    checkpoint_every=100,
)
ON_POLICY = replace(
    SMALL,
    algorithm=PPO(
        n_steps=16, batch_size=48, n_epochs=2, final_learning_rate=1e-5, share_trunk=True
    ),
    balancer=PCGrad(),
    objective=ObjectiveConfig(objective="worst-return"),
    scale_rewards=True,
    total_steps=800,
)
REPLAYED = DQN(learning_starts=100, buffer_size=300, batch_size=12, steps_per_round=90)
Q_LEARNING = replace(SMALL, algorithm=REPLAYED, scale_rewards=True, total_steps=700)
SOFT = replace(
    SMALL,
    family="pendulum",
    algorithm=SAC(learning_starts=100, buffer_size=300, batch_size=12, steps_per_round=90),
    total_steps=300,
)
ALL = pytest.mark.parametrize("config", [ON_POLICY, Q_LEARNING, SOFT], ids=["ppo", "dqn", "sac"])


def train(directory: Path, config: MultiTaskConfig, resume: bool = False) -> Any:
    with Run.open(directory, config=config, kind="multitask", resume=resume) as run:
        return train_multitask(config, run)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "find_spec", no_matplotlib)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    with uninterrupted(tmp_path_factory.mktemp("references"), train) as reference:
        yield reference


# Stopped and resumed


@ALL
def test_stopped_between_any_two_rollouts_it_ends_bit_equal(
    tmp_path: Path,
    config: MultiTaskConfig,
    references: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, directory = replace(config, checkpoint_every=10**6), tmp_path / "run"
    reference = references(config)
    assert train_with_stops(train, directory, config, monkeypatch, every=7, first=3) >= 1
    assert_same_end(directory, reference)


@ALL
def test_resuming_a_finished_run_changes_nothing(
    tmp_path: Path, config: MultiTaskConfig, references: Callable[..., Path]
) -> None:
    shutil.copytree(references(config), tmp_path / "run")
    train(tmp_path / "run", config, resume=True)
    assert_same_end(tmp_path / "run", references(config))


def test_another_seed_ends_elsewhere(references: Callable[..., Path]) -> None:
    one, other = (references(replace(ON_POLICY, seed=seed)) for seed in (0, 1))
    assert final_files(one)["metrics.csv"] != final_files(other)["metrics.csv"]


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    with children(train, PRELOADED) as start:
        yield start


def test_killed_after_each_of_some_checkpoints_it_ends_bit_equal(
    tmp_path: Path, references: Callable[..., Path], start: Callable[..., BaseProcess]
) -> None:
    directory, rng = tmp_path / "run", np.random.default_rng(1)
    store = CheckpointStore(directory / "checkpoints")
    for _ in range(2):
        before = store.steps()
        child = start(directory, Q_LEARNING, 0.05)
        while child.exitcode is None and store.steps() == before:
            child.join(0.002)
        child.join(rng.uniform(0, 0.15))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    train(directory, Q_LEARNING, resume=True)
    assert_same_end(directory, references(Q_LEARNING))


def test_a_signal_saves_and_the_resumed_run_ends_bit_equal(
    tmp_path: Path, references: Callable[..., Path], start: Callable[..., BaseProcess]
) -> None:
    config, directory = replace(ON_POLICY, checkpoint_every=10**6), tmp_path / "run"
    child = start(directory, config, 0.05)
    metrics = directory / "metrics.csv"
    while child.exitcode is None and not (metrics.exists() and "\n192," in metrics.read_text()):
        child.join(0.002)
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join(60)
    assert child.exitcode == 143
    (saved,) = CheckpointStore(directory / "checkpoints").steps()
    assert 192 <= saved < config.total_steps
    said = directory.with_suffix(".stderr").read_text().splitlines()[-1]
    assert said.startswith(
        f"mtrl: SIGTERM: stopped after saving step {saved}; resume with: mtrl train"
    )
    train(directory, config, resume=True)
    assert_same_end(directory, references(config))


def test_a_checkpoint_of_another_network_is_refused(
    tmp_path: Path, references: Callable[..., Path]
) -> None:
    shutil.copytree(references(Q_LEARNING), tmp_path / "run")
    path = tmp_path / "run" / "config.toml"
    path.write_text(path.read_text().replace("hidden = [6]", "hidden = [7]"))
    changed = replace(
        Q_LEARNING, network=NetworkConfig(trunk=MLP(hidden=(7,)), conditioning=OneHot())
    )
    with pytest.raises(CheckpointError, match=r"modules/policy/q_net.* here"):
        train(tmp_path / "run", changed, resume=True)


# What is logged


def test_every_task_has_its_curves_and_they_share_a_chart(references: Callable[..., Path]) -> None:
    directory = references(ON_POLICY)
    series = read_metrics(directory / "metrics.csv")
    for kind in ("multitask/return", "multitask/weight", "eval/return"):
        assert {f"{kind}/task_{i}" for i in range(3)} <= series.keys()
    assert {"gradient/trunk_norm", "gradient/head_norm", "train/loss"} <= series.keys()
    assert {"conflict/shared/mean_cosine", "conflict/shared/negative_share"} <= series.keys()
    # A rollout has 96 steps: the first beyond each multiple of 300, and the end.
    assert series["eval/mean_return"].steps == [384, 672, 864]
    mean = np.mean([series[f"eval/return/task_{i}"].values for i in range(3)], 0)
    assert_allclose(series["eval/mean_return"].values, mean, rtol=1e-12)
    weights = np.array([series[f"multitask/weight/task_{i}"].values[-1] for i in range(3)])
    assert_allclose(weights.mean(), 1, rtol=1e-6)
    assert weights.std() > 0.01
    rates = series["train/learning_rate"].values
    assert rates == sorted(rates, reverse=True)
    assert "time/balancer_seconds" in read_metrics(directory / "timings.csv")
    events = EventAccumulator(str(directory), {"tensors": 0})
    events.Reload()
    (layout,) = events.Tensors("custom_scalars__config__")
    assert b"eval/return/.+" in layout.tensor_proto.string_val[0]


def test_conflicts_are_drawn_where_a_balancer_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(watching, "find_spec", find_spec)
    shown = []
    for name, config in (("with", ON_POLICY), ("without", Q_LEARNING)):
        train(tmp_path / name, replace(config, total_steps=200, checkpoint_every=10**6))
        events = EventAccumulator(str(tmp_path / name), {"images": 0})
        events.Reload()
        shown.append(events.Tags()["images"])
    assert shown == [["figures/conflict_shared"], []]


# Evaluation


class Leaning:
    """Pushes the way that the pole leans."""

    def predict(self, observation: Any, *_: Any, deterministic: bool = False) -> Any:
        assert deterministic
        return (observation[:, 2] > 0).astype(np.int64), None


def test_an_evaluation_counts_one_episode_of_each_environment() -> None:
    family = get_family("cartpole", "wide")
    tasks = family.sample(3, np.random.default_rng(0), "train")
    scores = play_episodes(Leaning(), multitask_env(family, tasks, 4, seed=11))
    expected = np.zeros((3, 4))
    for slot in range(12):
        env = family.make(tasks[slot % 3])
        observation, _ = env.reset(seed=11 + slot)
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(int(observation[2] > 0))
            over = terminated or truncated
            expected[slot % 3, slot // 3] += reward
    assert_array_equal(scores.returns, expected)
    assert len(set(expected.ravel().tolist())) > 4
    assert np.isnan(scores.successes).all()


class Eager:
    """Takes action 1."""

    def predict(self, observation: Any, *_: Any, deterministic: bool = False) -> Any:
        return np.ones(len(observation), np.int64), None


@pytest.mark.parametrize("breaks", [0, 3])
def test_a_task_that_fails_has_no_return_and_the_others_have_theirs(breaks: int) -> None:
    tasks = [counted(1.0, lasts=4), counted(2.0, breaks=breaks), counted(3.0)]
    with pytest.warns(TaskFailedWarning, match="task_1"):
        scores = play_episodes(Eager(), multitask_env(Counting(), tasks, 2, seed=0))
    assert_array_equal(scores.returns, [[4, 4], [np.nan, np.nan], [18, 18]])
    table = returns_table(tasks, scores, seed=0).splitlines()
    assert "not finite" in table[2] and "18.00" in table[3]


def test_a_run_is_evaluated_as_it_ended(references: Callable[..., Path]) -> None:
    for config in (ON_POLICY, Q_LEARNING):
        directory = references(config)
        trained = load_multitask_run(directory)
        scores = trained.scores(config.eval_episodes, config.seed)
        series = read_metrics(directory / "metrics.csv")
        for place, mean in enumerate(scores.returns.mean(1)):
            assert series[f"eval/return/task_{place}"].values[-1] == mean


# Tasks and settings


def test_tasks_are_different_and_a_family_may_have_too_few() -> None:
    config = MultiTaskConfig(family="halfcheetah-direction", tasks=2)
    family = multitask_family(config)
    assert len({task.id for task in train_tasks(config, family)}) == 2
    with pytest.raises(UsageError, match="tasks is 3, and family .* has 2 different ones"):
        train_tasks(replace(config, tasks=3), family)


def test_a_run_keeps_its_tasks_though_their_file_changes(tmp_path: Path) -> None:
    family, file = get_family("cartpole"), tmp_path / "tasks.json"

    def write(seed: int) -> list[Any]:
        tasks = family.sample(2, np.random.default_rng(seed), "train")
        file.write_text("\n".join(task.to_json() for task in tasks))
        return tasks

    tasks = write(5)
    config = replace(Q_LEARNING, task_file=file, total_steps=40)
    train(tmp_path / "run", config)
    write(6)
    assert load_multitask_run(tmp_path / "run").tasks == tasks
    agent = train(tmp_path / "run", config, resume=True)
    assert list(agent.env.tasks) == tasks
    test_tasks = family.sample(1, np.random.default_rng(0), "test")
    file.write_text(test_tasks[0].to_json())
    with pytest.raises(UsageError, match="a test task in training"):
        train_tasks(config, family)


@pytest.mark.parametrize(
    "algorithm",
    [
        PPO(
            learning_rate=2e-4, n_steps=16, batch_size=48, ent_coef=0.1, target_kl=0.5, vf_coef=0.3
        ),
        DQN(
            final_learning_rate=1e-4,
            tau=0.5,
            buffer_size=77,
            exploration_final_eps=0.2,
            train_freq=3,
            double=True,
        ),
        SAC(final_learning_rate=1e-4, tau=0.5, buffer_size=77, gradient_steps=3, ent_coef=0.3),
    ],
    ids=["ppo", "dqn", "sac"],
)
def test_every_setting_reaches_the_algorithm(algorithm: Any) -> None:
    config = replace(SMALL, algorithm=algorithm)
    if isinstance(algorithm, SAC):
        config = replace(config, family="pendulum")
    family = multitask_family(config)
    agent: Any = build_agent(config, multitask_env(family, train_tasks(config, family), 2))
    seen = {
        "train_freq": lambda: agent.train_freq.frequency,
        "clip_range": lambda: agent.clip_range(1),
    }
    seen["share_trunk"] = lambda: agent.policy.share_trunk
    seen["double"] = lambda: agent.options.double
    elsewhere = {"learning_rate", "final_learning_rate", "normalise_per_task"}
    end = algorithm.final_learning_rate
    assert agent.lr_schedule(1) == algorithm.learning_rate
    expected = algorithm.learning_rate if end is None else end
    assert agent.lr_schedule(0) == pytest.approx(expected, rel=1e-12)
    for field in fields(algorithm):
        if field.name not in elsewhere:
            found = seen.get(field.name, lambda name=field.name: getattr(agent, name))()  # type: ignore[misc]
            assert found == getattr(algorithm, field.name), field.name
    if isinstance(algorithm, PPO):
        assert agent.rollout_buffer.normalise
        separate = replace(algorithm, normalise_per_task=False)
        other: Any = build_agent(replace(config, algorithm=separate), agent.env)
        assert other.normalize_advantage and not other.rollout_buffer.normalise


def test_settings_go_through_toml_and_contradictions_are_refused() -> None:
    for config in (ON_POLICY, Q_LEARNING, SOFT):
        assert from_dict(MultiTaskConfig, to_dict(config)) == config
    for balancer in (GradNorm(), NashMTL(), FAMO()):
        assert replace(SMALL, balancer=balancer).balancer == balancer
        with pytest.raises(UsageError, match=r"balancer is .*levels .* objective worst-return"):
            replace(ON_POLICY, balancer=balancer)
    with pytest.raises(UsageError, match="envs_per_task must be at least 1"):
        replace(SMALL, envs_per_task=0)
    for config, problem in (
        (
            replace(SOFT, family="cartpole"),
            "actions are Discrete.2. and MultiTaskSAC .* for Box only",
        ),
        (
            replace(Q_LEARNING, family="pendulum"),
            "actions are Box.* and MultiTaskDQN .* for Discrete",
        ),
    ):
        with pytest.raises(UsageError, match=problem):
            KINDS["multitask"].check(config)
    with pytest.raises(UsageError, match="has no environments"):
        multitask_family(replace(SMALL, family="sinusoid"))


# Commands


def test_a_run_is_trained_resumed_and_evaluated_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = str(tmp_path / "run")
    options = [
        "--tasks",
        "2",
        "--envs-per-task",
        "2",
        "--total-steps",
        "128",
        "--eval-episodes",
        "1",
    ]
    chosen = ["algorithm:ppo", "--algorithm.n-steps", "16", "--algorithm.batch-size", "32"]
    assert main(["train", "multitask", "--dir", directory, *options, *chosen]) == 0
    assert main(["train", "--resume", directory, "--checkpoint-every", "64"]) == 0
    capsys.readouterr()
    assert main(["evaluate", directory, "--episodes", "3"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[-5:]] == ["task", "task_0", "task_1", "mean", "worst"]
    assert "[" in table[-4] and "length" in table[-4]
    rows = (tmp_path / "run" / "evaluation.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 3
    assert main(["evaluate", directory, "--steps", "1"]) == 2
    assert "--steps is for runs that adapt" in capsys.readouterr().err
