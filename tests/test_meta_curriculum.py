"""Meta-training whose tasks a curriculum chooses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from test_multitask_training import assert_same_end, no_matplotlib

from mtrl import curricula
from mtrl.envs.curricula import TeacherStudent
from mtrl.envs.registry import get_family
from mtrl.errors import UsageError
from mtrl.interrupts import Interrupted
from mtrl.meta import watching
from mtrl.meta.kinds import KINDS
from mtrl.meta.reinforcement import ReinforcementConfig, meta_train_reinforcement
from mtrl.meta.task_source import ChosenTasks
from mtrl.metrics import read_metrics
from mtrl.runs import Run

# torch scripts its own decompositions when the first derivative by a direction is taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

CONFIG = ReinforcementConfig(
    hidden=(6,),
    family_options={"horizon": 8},
    tasks_per_batch=3,
    episodes_per_task=3,
    iterations=4,
    evaluate_every=4,
    checkpoint_every=4,
    test_tasks=4,
    curriculum=curricula.TeacherStudent(),
    curriculum_tasks=5,
)
BOXED = replace(
    CONFIG, curriculum=curricula.AlpGmm(lowest=-20, highest=0, fit_every=5, most_components=2)
)


def train(directory: Path, config: ReinforcementConfig, resume: bool = False) -> Any:
    with Run.open(directory, config=config, kind="rl", resume=resume) as run:
        return meta_train_reinforcement(config, run)


@pytest.mark.parametrize("config", [CONFIG, BOXED], ids=["list", "box"])
def test_a_stopped_run_ends_bit_equal(
    config: ReinforcementConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "find_spec", no_matplotlib)
    train(tmp_path / "reference", config)
    with monkeypatch.context() as stopped:
        # After the second iteration.
        calls = iter([False, False, True, True])
        stopped.setattr(Run, "stop_requested", property(lambda run: next(calls, True)))
        with pytest.raises(Interrupted):
            train(tmp_path / "run", config)
    train(tmp_path / "run", config, resume=True)
    assert_same_end(tmp_path / "run", tmp_path / "reference")
    series = read_metrics(tmp_path / "run" / "metrics.csv")
    if config is CONFIG:
        shares = [series[f"curriculum/probability/task_{i}"].values for i in range(5)]
        assert_allclose(np.sum(shares, 0), 1)
    else:
        assert len(series["curriculum/progress"].values) == 4


def test_it_is_told_the_mean_return_or_the_share_of_successes() -> None:
    family = get_family("cartpole")
    tasks = family.sample(2, np.random.default_rng(0), "train")
    teacher = TeacherStudent(tasks, np.random.default_rng(0))
    chosen = ChosenTasks(teacher, None)
    (task,) = chosen.sample(1)
    chosen.credit(torch.tensor([[1.0, 3.0]]))
    assert teacher.estimates[tasks.index(task)] == pytest.approx(0.1 * 2.0, rel=1e-12)
    settings = curricula.Learnability(keep=1, uniform=0.0)
    learnability: Any = settings.build(family, tasks, np.random.default_rng(0))
    by_share = ChosenTasks(learnability, 2.0)
    (task,) = by_share.sample(1)
    by_share.credit(torch.tensor([[1.0, 3.0, 2.0, 0.0]]))
    assert learnability.scores[tasks.index(task)] == 0.25


def test_what_meta_training_cannot_tell_is_refused() -> None:
    for settings, problem in (
        (curricula.LevelReplay(), "needs the scores of a critic"),
        (curricula.LearningProgress(), "asks for success; give solved_at"),
    ):
        with pytest.raises(UsageError, match=problem):
            KINDS["rl"].check(replace(CONFIG, curriculum=settings))
