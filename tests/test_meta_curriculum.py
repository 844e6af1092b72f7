"""Meta-training whose tasks a curriculum chooses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_less
from resumption import assert_same_end, no_matplotlib
from torch import Tensor

from mtrl import curricula
from mtrl.envs.curricula import TeacherStudent
from mtrl.envs.registry import get_family
from mtrl.envs.sinusoid import Sinusoid
from mtrl.errors import MtrlError, UsageError
from mtrl.interrupts import Interrupted
from mtrl.meta import watching
from mtrl.meta.baselines import Oracle
from mtrl.meta.kinds import KINDS
from mtrl.meta.maml import MAML
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.reptile import Reptile
from mtrl.meta.supervised import SupervisedConfig, build_regressor
from mtrl.meta.task_source import ChosenTasks
from mtrl.metrics import read_metrics
from mtrl.runs import Run
from mtrl.seeding import Streams

# torch scripts its own decompositions when the first derivative by a direction is taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

Config = ReinforcementConfig | SupervisedConfig

EPISODES = ReinforcementConfig(
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
POINTS = SupervisedConfig(
    hidden=(6,),
    tasks_per_batch=3,
    chunk=2,
    iterations=4,
    log_every=1,
    evaluate_every=4,
    checkpoint_every=4,
    test_tasks=4,
    compile="off",
    curriculum=curricula.TeacherStudent(),
    curriculum_tasks=5,
)
MIXTURE = curricula.AlpGmm(lowest=-20, highest=0, fit_every=5, most_components=2)
RUNS: dict[str, Config] = {
    "rl, list": EPISODES,
    "rl, box": replace(EPISODES, curriculum=MIXTURE),
    "supervised, list": POINTS,
    "supervised, box": replace(POINTS, curriculum=MIXTURE),
    "supervised, success": replace(POINTS, curriculum=curricula.Learnability(), solved_at=3.0),
}


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "find_spec", no_matplotlib)


def train(directory: Path, config: Config, resume: bool = False) -> Any:
    kind = "rl" if isinstance(config, ReinforcementConfig) else "supervised"
    with Run.open(directory, config=config, kind=kind, resume=resume) as run:
        return KINDS[kind].train(config, run)


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_ends_bit_equal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RUNS[name]
    train(tmp_path / "reference", config)
    with monkeypatch.context() as stopped:
        asked = iter([False] * (4 if isinstance(config, SupervisedConfig) else 2))
        stopped.setattr(Run, "stop_requested", property(lambda run: next(asked, True)))
        with pytest.raises(Interrupted):
            train(tmp_path / "run", config)
    train(tmp_path / "run", config, resume=True)
    assert_same_end(tmp_path / "run", tmp_path / "reference")
    series = read_metrics(tmp_path / "run" / "metrics.csv")
    if "box" in name:
        assert len(series["curriculum/progress"].values) == 4
    else:
        shares = [series[f"curriculum/probability/task_{i}"].values for i in range(5)]
        assert_allclose(np.sum(shares, 0), 1)


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


class Noted(TeacherStudent):
    """Notes what it is told."""

    def __init__(self, tasks: Any, rng: np.random.Generator) -> None:
        super().__init__(tasks, rng)
        self.told: list[tuple[str, float]] = []

    def update(self, played: Any, outcome: float) -> None:
        self.told.append((played.task.id, outcome))
        super().update(played, outcome)


def test_it_is_told_errors_as_losses_and_a_small_one_is_a_success() -> None:
    tasks = Sinusoid().sample(3, np.random.default_rng(0), "train")
    plain = Noted(tasks, np.random.default_rng(0))
    chosen = ChosenTasks(plain, None, errors=True)
    (task,) = chosen.sample(1)
    chosen.credit(torch.tensor([[0.5]]))
    assert plain.told == [(task.id, -0.5)]
    judged = Noted(tasks, np.random.default_rng(0))
    judged.outcome = "success"
    by_threshold = ChosenTasks(judged, 0.25, errors=True)
    played = by_threshold.sample(3)
    by_threshold.credit(torch.tensor([[0.125], [0.25], [0.375]]))
    assert judged.told == [
        (task.id, success) for task, success in zip(played, [1, 1, 0], strict=True)
    ]


def test_a_result_that_is_not_finite_names_its_task_and_changes_nothing() -> None:
    tasks = Sinusoid().sample(2, np.random.default_rng(0), "train")
    noted = Noted(tasks, np.random.default_rng(0))
    chosen = ChosenTasks(noted, None, errors=True)
    _, second = chosen.sample(2)
    with pytest.raises(MtrlError, match=f"'sinusoid', task {second.id} .*not finite"):
        chosen.credit(torch.tensor([[0.5], [torch.nan]]))
    assert noted.told == []


@pytest.mark.parametrize("learner", [MAML(step_size=0.05), Reptile(inner_steps=1)])
def test_it_is_told_the_query_errors_of_its_own_tasks(
    learner: MAML | Reptile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Noted] = []
    drawn: list[tuple[list[str], tuple[Tensor, ...]]] = []

    def build(settings: Any, family: Any, tasks: Any, rng: np.random.Generator) -> Noted:
        made.append(Noted(tasks, rng))
        return made[-1]

    plain = Sinusoid.draw

    def noting(self: Sinusoid, tasks: Any, *arguments: Any) -> Any:
        support, query = plain(self, tasks, *arguments)
        if made and not made[-1].told:  # evaluations draw as well, later
            drawn.append(([task.id for task in tasks], (*support, *query)))
        return support, query

    monkeypatch.setattr(curricula.TeacherStudent, "build", build)
    monkeypatch.setattr(Sinusoid, "draw", noting)
    config = replace(POINTS, learner=learner, iterations=1)
    train(tmp_path, config)
    ((played, (x, y, query_x, query_y)),) = drawn

    # Task by task, by torch's own differentiation, from the parameters that the seed gives.
    how = build_regressor(config, Sinusoid())
    start = how.initial(Streams(config.seed, "cpu").generator("initial")).params
    expected = []
    for task in range(len(played)):
        leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
        loss = (how.network(leaves, x[task]) - y[task]).square().mean()
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        moved = {
            name: value - learner.step_size * slope
            for (name, value), slope in zip(leaves.items(), slopes, strict=True)
        }
        errors = (how.network(moved, query_x[task]) - query_y[task]).square()
        expected.append(-errors.mean().item())
    told = made[-1].told
    assert [task_id for task_id, _ in told] == played
    # Single precision, summed in another order.
    assert_allclose([outcome for _, outcome in told], expected, rtol=1e-5)


def test_a_box_holds_what_supervised_training_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[Any] = []
    plain = ChosenTasks.sample

    def noting(self: ChosenTasks, n: int) -> Any:
        met.extend(plain(self, n))
        return met[-n:]

    monkeypatch.setattr(ChosenTasks, "sample", noting)
    narrow = curricula.DomainRandomization(
        widen_at=1e9, narrow_at=-1e9, start={"amplitude": 2.0, "phase": 1.0}
    )
    train(tmp_path, replace(POINTS, preset="meta-sgd", curriculum=narrow))
    # Bounds that never move hold one task, but for the float32 steps into the training split.
    assert len(met) == 4 * POINTS.tasks_per_batch
    params = {name: [float(task.params[name]) for task in met] for name in met[0].params}
    assert_allclose(params["amplitude"], 2.0, rtol=1e-5)
    assert_allclose(params["phase"], 1.0, rtol=1e-5)
    assert_allclose(params["frequency"], 1.0, rtol=1e-5)
    assert {task.split for task in met} == {"train"}


@pytest.mark.parametrize("name", ["rl, box", "supervised, box"])
def test_an_oracle_has_the_boxes_of_its_family(name: str, tmp_path: Path) -> None:
    train(tmp_path, replace(RUNS[name], learner=Oracle()))
    series = read_metrics(tmp_path / "metrics.csv")
    assert_array_less(-1e-12, series["curriculum/progress"].values)


@pytest.mark.parametrize(("kind", "config"), [("rl", EPISODES), ("supervised", POINTS)])
def test_what_meta_training_cannot_tell_is_refused(kind: str, config: Config) -> None:
    what = {"rl": "the return from which on", "supervised": "the query error up to which"}[kind]
    for settings, problem in (
        (curricula.LevelReplay(), "needs the scores of a critic"),
        (curricula.LearningProgress(), f"asks for success; give solved_at, {what}"),
    ):
        with pytest.raises(UsageError, match=problem):
            KINDS[kind].check(replace(config, curriculum=settings))
