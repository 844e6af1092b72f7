"""Training driven by a curriculum: it reaches the algorithms, and a stopped run ends bit-equal."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counting_family import Counting
from counting_family import task as counted
from numpy.testing import assert_allclose, assert_array_equal
from resumption import assert_same_end, no_matplotlib
from stable_baselines3 import DQN as PlainDQN
from stable_baselines3 import PPO as PlainPPO
from test_multitask_training import SMALL, train

from mtrl import curricula
from mtrl.agents.level_scores import LevelScores
from mtrl.config import from_dict, to_dict
from mtrl.envs.curricula import LevelReplay, Uniform
from mtrl.envs.curricula.sb3_source import CurriculumVecEnv
from mtrl.envs.mountaincar import MountainCar
from mtrl.errors import UsageError
from mtrl.interrupts import Interrupted
from mtrl.meta import watching
from mtrl.metrics import read_metrics
from mtrl.multitask.algorithms import DQN, PPO, SAC
from mtrl.multitask.config import MultiTaskConfig
from mtrl.multitask.tasks import build_agent, multitask_family, train_tasks, training_env
from mtrl.multitask.trained import load_multitask_run
from mtrl.runs import Run

ON_POLICY = replace(
    SMALL,
    algorithm=PPO(n_steps=16, batch_size=48, n_epochs=2),
    curriculum=curricula.LearningProgress(window=5),
    solved_at=25.0,
    total_steps=500,
)
REPLAYED = DQN(learning_starts=100, buffer_size=60, batch_size=12, steps_per_round=90)
Q_LEARNING = replace(SMALL, algorithm=REPLAYED, curriculum=curricula.LevelReplay(), total_steps=400)
BOXED = replace(
    ON_POLICY, curriculum=curricula.DomainRandomization(widen_at=15, narrow_at=5, queue=3)
)
SOFT = replace(
    SMALL,
    family="pendulum",
    algorithm=SAC(learning_starts=100, buffer_size=100, batch_size=12, steps_per_round=90),
    curriculum=curricula.TeacherStudent(),
    total_steps=300,
)
ROBUST = replace(ON_POLICY, curriculum=curricula.LevelReplay(robust=True), solved_at=None)
RUNS = {"ppo": ON_POLICY, "dqn": Q_LEARNING, "box": BOXED, "sac": SOFT, "robust": ROBUST}


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "find_spec", no_matplotlib)


@pytest.mark.parametrize("name", RUNS)
def test_stopped_anywhere_it_ends_bit_equal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RUNS[name]
    train(tmp_path / "reference", config)
    calls = [0]

    def after_some_calls(run: Run) -> bool:
        calls[0] += 1
        return calls[0] == 3

    monkeypatch.setattr(Run, "stop_requested", property(after_some_calls))
    with pytest.raises(Interrupted):
        train(tmp_path / "run", config)
    train(tmp_path / "run", config, resume=True)
    assert_same_end(tmp_path / "run", tmp_path / "reference")
    series = read_metrics(tmp_path / "run" / "metrics.csv")
    scores = load_multitask_run(tmp_path / "run").scores(config.eval_episodes, config.seed)
    for place, mean in enumerate(scores.returns.mean(1)):
        assert series[f"eval/return/task_{place}"].values[-1] == mean
    if config.solved_at is not None:
        share = (scores.returns >= config.solved_at).mean(1)
        assert_array_equal(scores.successes, share)


def test_what_a_curriculum_does_is_in_the_curves(tmp_path: Path) -> None:
    train(tmp_path / "list", ON_POLICY)
    series = read_metrics(tmp_path / "list" / "metrics.csv")
    shares = [series[f"curriculum/share/task_{i}"].values for i in range(3)]
    assert_allclose(np.sum(shares, 0), 1)
    probabilities = [series[f"curriculum/probability/task_{i}"].values for i in range(3)]
    assert_allclose(np.sum(probabilities, 0), 1)
    entropy = [-sum(p * np.log(p) for p in point) for point in zip(*probabilities, strict=True)]
    assert_allclose(series["curriculum/entropy"].values, entropy)
    assert {f"curriculum/progress/task_{i}" for i in range(3)} <= series.keys()
    assert any(name.startswith("curriculum/success/") for name in series)
    train(tmp_path / "box", BOXED)
    box = read_metrics(tmp_path / "box" / "metrics.csv")
    lower, upper = (np.array(box[f"curriculum/{s}/length"].values) for s in ("lower", "upper"))
    played = np.array(box["curriculum/mean/length"].values)
    assert (
        (lower <= upper).all() and (played >= lower.min()).all() and (played <= upper.max()).all()
    )
    assert "multitask/return/all" in box


def test_minibatches_have_the_shares_of_what_was_played() -> None:
    config = replace(ON_POLICY, curriculum=curricula.Staged(stages=3, window=10_000))
    family = multitask_family(config)
    tasks = train_tasks(config, family)
    agent: Any = build_agent(config, training_env(config, family, tasks))
    agent.learn(6 * 16)
    buffer = agent.rollout_buffer
    buffer.generator_ready = False
    assert (buffer.observations[..., -3:].argmax(-1) == 0).all()
    played = np.concatenate([batch.observations[:, -3:].argmax(1) for batch in buffer.get(48)])
    assert len(played) == 96 and (played == 0).all()
    replayed: Any = build_agent(Q_LEARNING, training_env(Q_LEARNING, family, tasks))
    assert type(replayed.replay_buffer).__name__ == "ReplayBuffer"


# Level replay's scores, with plain algorithms of Stable-Baselines3


class _Noted(LevelReplay):
    def __init__(self, tasks: Any) -> None:
        super().__init__(tasks, np.random.default_rng(0))
        self.told: list[tuple[str, float]] = []

    def update(self, played: Any, outcome: float) -> None:
        self.told.append((played.task.id, outcome))
        super().update(played, outcome)


TASKS = [counted(1.0, lasts=2), counted(1.0, lasts=5)]


def test_scores_of_a_rollout_are_means_of_its_advantages() -> None:
    replay = _Noted(TASKS)
    env = CurriculumVecEnv(Counting().make_sb3(TASKS), replay)
    agent = PlainPPO("MlpPolicy", env, n_steps=12, batch_size=24, n_epochs=1, seed=0, device="cpu")
    seen: list[Any] = []

    class Copy(LevelScores):
        def _on_rollout_end(self) -> None:
            buffer: Any = agent.rollout_buffer
            seen.append((buffer.advantages.copy(), buffer.episode_starts.copy()))
            super()._on_rollout_end()

    agent.learn(24, callback=Copy())
    ((advantages, starts),) = seen
    expected = []
    for slot in range(2):
        bounds = [*np.flatnonzero(starts[:, slot]), 12]
        parts = itertools.pairwise(bounds)
        expected += [np.abs(advantages[a:b, slot]).mean() for a, b in parts]
    assert_allclose(sorted(score for _, score in replay.told), sorted(expected), rtol=1e-4)
    assert replay.replay_probability == 1.0


def test_scores_do_not_depend_on_the_length_of_an_episode() -> None:
    replay = _Noted(TASKS)
    env = CurriculumVecEnv(Counting().make_sb3(TASKS), replay)
    agent: Any = PlainDQN(
        "MlpPolicy",
        env,
        learning_starts=0,
        train_freq=1000,
        exploration_initial_eps=0.0,
        exploration_final_eps=0.0,
        seed=0,
        device="cpu",
        buffer_size=100,
    )
    with torch.no_grad():
        for parameter in agent.q_net.parameters():
            parameter.zero_()
    agent.learn(60, callback=LevelScores())
    # All values are 0 and action 0 earns minus a half: so much is every step's error.
    assert {task_id for task_id, _ in replay.told} == {task.id for task in TASKS}
    assert_allclose([score for _, score in replay.told], 0.5, rtol=1e-6)


def test_scores_need_a_curriculum_of_scores() -> None:
    env = CurriculumVecEnv(Counting().make_sb3(TASKS), Uniform(TASKS, np.random.default_rng(0)))
    with pytest.raises(UsageError, match="no curriculum of scores"):
        PlainPPO("MlpPolicy", env, n_steps=4, batch_size=8, device="cpu").learn(
            8, callback=LevelScores()
        )


# Settings


def test_settings_go_through_toml_and_make_what_they_say() -> None:
    family = MountainCar()
    tasks = family.sample(4, np.random.default_rng(0), "train")
    every: list[curricula.CurriculumConfig] = [
        curricula.Uniform(),
        curricula.Staged(stages=2, by="force"),
        curricula.LearningProgress(rate=0.2),
        curricula.TeacherStudent(variant="window"),
        curricula.LevelReplay(transform="power"),
        curricula.LevelReplay(robust=True),
        curricula.Learnability(keep=3),
        curricula.WorstRegret(best=(1.0,)),
        curricula.AlpGmm(lowest=-200, highest=0),
        curricula.SelfPaced(performance=-150, start={"force": 0.0013}),
        curricula.DomainRandomization(widen_at=-100, narrow_at=-150),
    ]
    for settings in every:
        config = replace(SMALL, curriculum=settings)
        assert from_dict(MultiTaskConfig, to_dict(config)) == config
        made = settings.build(family, tasks, np.random.default_rng(0))
        assert type(made).__name__ == type(settings).__name__
        assert made.propose(1)[0].task.family == family.name
    staged: Any = every[1].build(family, tasks, np.random.default_rng(0))
    forces = [float(task.params["force"]) for task in staged.tasks]
    assert forces == sorted(forces)
    paced: Any = every[9].build(family, tasks, np.random.default_rng(0))
    assert_allclose(paced.gaussian.mean, [(0.0013 - 0.0008) / 0.0006, 0.5], rtol=1e-4)


def test_what_does_not_fit_is_refused_by_name() -> None:
    family = MountainCar()
    tasks = family.sample(2, np.random.default_rng(0), "train")
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="stages is 4 for 2 tasks"):
        curricula.Staged().build(family, tasks, rng)
    with pytest.raises(UsageError, match="by is 'mass'.*force"):
        curricula.Staged(stages=2, by="mass").build(family, tasks, rng)
    with pytest.raises(UsageError, match="'mass' is no parameter"):
        curricula.DomainRandomization(widen_at=1, narrow_at=0, start={"mass": 1.0}).build(
            family, tasks, rng
        )
    with pytest.raises(UsageError, match="scale_rewards with a curriculum is for ppo"):
        replace(Q_LEARNING, scale_rewards=True)
    with pytest.raises(UsageError, match="robust in level-replay is for ppo"):
        replace(Q_LEARNING, curriculum=curricula.LevelReplay(robust=True))
    with pytest.raises(UsageError, match="promote_at"):
        curricula.Staged(promote_at=0.5, demote_below=0.45)
