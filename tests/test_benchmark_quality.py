"""The comparison of learners: equal budgets, the same tasks for all, and files that hold every score."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.benchmarks.quality import carry_out
from mtrl.benchmarks.quality.carry_out import QualityPlace, compare_quality
from mtrl.benchmarks.quality.learners import LEARNERS, contender, default_settings
from mtrl.benchmarks.quality.picture import draw_figure
from mtrl.benchmarks.quality.plan import QualitySettings, entries_of
from mtrl.benchmarks.quality.scores import (
    FamilyScores,
    LearnerScores,
    read_json,
    to_csv,
    to_json,
    with_worst_for_diverged,
)
from mtrl.benchmarks.quality.step_sizes import (
    Search,
    Tried,
    best,
    search_step_size,
    with_step_size,
)
from mtrl.benchmarks.quality.summary import summarise
from mtrl.benchmarks.quality.trainings import Curve
from mtrl.benchmarks.quality.trial_learners import PEARL_SHARE, TRIAL_LEARNERS, episodes_of
from mtrl.commands.benchmark_quality import parse_quality
from mtrl.envs.registry import family_names
from mtrl.envs.task import Task
from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.trained import EvaluationSettings, TrainedRun
from mtrl.meta.baselines import FineTune, Oracle
from mtrl.meta.kinds import kind_of
from mtrl.meta.maml import MAML
from mtrl.meta.pearl.config import PearlConfig
from mtrl.meta.recurrent.training import RecurrentConfig
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.supervised import SupervisedConfig, build_regressor, seen_points
from mtrl.reproduce.trainings import Training
from mtrl.runs import Run


def scores(**tables: np.ndarray) -> FamilyScores:
    shape = next(iter(tables.values())).shape
    return FamilyScores(
        family="f",
        score="error",
        tasks=[f"t{i}" for i in range(shape[1])],
        seeds=list(range(shape[0])),
        learners={
            name: LearnerScores(
                values=table,
                seen=[0] + [10] * (table.shape[2] - 1),
                trained=[100.0 + seed for seed in range(shape[0])],
            )
            for name, table in tables.items()
        },
    )


# What is compared


@pytest.mark.parametrize("family", ["sinusoid", "navigation2d", "cartpole", "bandit"])
def test_every_gradient_learner_sees_as_much_in_an_iteration(family: str) -> None:
    base = default_settings(family)

    def seen(config: Any) -> int:
        if isinstance(config, SupervisedConfig):
            # A learner without an inner loop has no use for the support.
            points = config.query_shots + config.shots * (config.learner.inner_steps > 0)
            return config.tasks_per_batch * points
        rounds = config.learner.inner_steps + 1
        return int(config.tasks_per_batch * config.episodes_per_task * rounds)

    found = {name: contender(name, base) for name in LEARNERS if name not in TRIAL_LEARNERS}
    assert (found["reptile"] is None) is isinstance(base, ReinforcementConfig)
    budgets = {seen(each.config) for each in found.values() if each is not None}
    assert len(budgets) == 1
    shared = ("iterations", "hidden", "seed", "family", "preset")
    for name in shared:
        assert len({str(getattr(e.config, name)) for e in found.values() if e is not None}) == 1


def test_rl2_plays_as_many_episodes_as_maml_and_pearl_one_in_twenty() -> None:
    base = default_settings("navigation2d")
    assert isinstance(base, ReinforcementConfig)
    played = episodes_of(base)
    assert played == 100 * 20 * 20 * 2
    rl2, pearl = (
        found.config
        for name in TRIAL_LEARNERS
        if (found := contender(name, base, trial_episodes=5)) is not None
    )
    assert isinstance(rl2, RecurrentConfig) and isinstance(pearl, PearlConfig)
    assert rl2.iterations * rl2.tasks_per_batch * rl2.episodes_per_trial == played
    each = pearl.tasks_per_collection * (pearl.prior_episodes + pearl.posterior_episodes)
    total = pearl.tasks * pearl.initial_episodes + pearl.iterations * each
    # Whole iterations only, so up to one fewer.
    assert played / PEARL_SHARE - each < total <= played / PEARL_SHARE
    for config in (rl2, pearl):
        assert (config.family, config.preset) == (base.family, base.preset)
        assert config.family_options == base.family_options
        assert config.test_steps == 4
    # As many points of a curve as MAML has.
    points = base.iterations // base.evaluate_every
    assert rl2.iterations // rl2.evaluate_every == points
    assert pearl.iterations // pearl.evaluate_every == points


@pytest.mark.parametrize(
    ("family", "there"),
    [("sinusoid", []), ("bandit", ["rl2"]), ("pendulum", ["rl2", "pearl"])],
)
def test_trial_learners_are_where_they_are_defined(family: str, there: list[str]) -> None:
    base = default_settings(family)
    assert [name for name in TRIAL_LEARNERS if contender(name, base) is not None] == there


def test_baselines_that_take_steps_get_a_size_of_their_own() -> None:
    base = replace(default_settings("navigation2d"), learner=MAML(step_size=0.7))
    fine, scratch, frozen, told = (
        contender(name, base) for name in ("fine-tune", "scratch", "no-adaptation", "oracle")
    )
    assert fine and scratch and frozen and told
    assert (fine.trained, fine.adapting, fine.tuned) == (True, True, True)
    assert (scratch.config, frozen.config) == (fine.config, fine.config)
    assert (scratch.trained, scratch.adapting, scratch.tuned) == (False, True, True)
    assert (frozen.trained, frozen.adapting, frozen.tuned) == (True, False, False)
    assert (told.config.learner, told.trained, told.adapting) == (Oracle(), True, False)
    assert not any(
        each.tuned
        for name in LEARNERS
        if name not in ("fine-tune", "scratch") and (each := contender(name, base))
    )


def test_a_step_costs_what_the_learner_needs_for_it() -> None:
    learners = "maml,rl2,pearl,oracle"
    settings = QualitySettings(learners=learners, families="navigation2d", seeds=1, episodes=7)
    seen = {entry.learner: entry.experience for entry in entries_of(settings)}
    assert seen == {
        "maml": [0, 7, 14, 21],
        "rl2": [0, 1, 2, 3, 4],
        "pearl": [0, 1, 2, 3, 4],
        "oracle": [0, 0, 0, 0],
    }
    settings = QualitySettings(learners="maml", families="sinusoid", seeds=1, shots=5)
    (entry,) = entries_of(settings)
    # The same five points in every step.
    assert entry.experience == [0, 5, 5, 5]


def test_every_family_has_settings() -> None:
    for family in family_names():
        assert default_settings(family).family == family


def test_a_seed_differs_in_its_seed_only() -> None:
    settings = QualitySettings(learners="maml,scratch", families="sinusoid", seeds=2, seed=5)
    entries = entries_of(settings)
    assert [(e.learner, e.seed) for e in entries] == [
        ("maml", 5),
        ("maml", 6),
        ("scratch", 5),
        ("scratch", 6),
    ]
    one, other = entries[:2]
    assert replace(one.contender.config, seed=6) == other.contender.config
    # All are tested alike, and on tasks that the first seed decides.
    assert {entry.evaluation for entry in entries} == {one.evaluation}
    assert one.evaluation.seed == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learners": "maml,mamle"}, "unknown learner 'mamle'"),
        ({"learners": "maml,maml"}, "twice"),
        ({"families": ""}, "families is empty"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"configs": {"bandit": Path("x")}}, "does not take part"),
        ({"reference": "me"}, "reference is 'me'"),
        ({"trial_episodes": 1}, "trial_episodes must be at least 2"),
        ({"step_sizes": (0.1, 0.0)}, "step_sizes is .*positive"),
        ({"step_sizes": ()}, "at least one"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        QualitySettings(**options)  # type: ignore[arg-type]  # wrong on purpose


def test_settings_of_another_family_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('family = "bandit"\n')
    settings = QualitySettings(families="navigation2d", configs={"navigation2d": path})
    with pytest.raises(UsageError, match="is for 'bandit', not 'navigation2d'"):
        entries_of(settings)


def test_a_family_without_any_learner_is_refused() -> None:
    settings = QualitySettings(learners="rl2,pearl", families="navigation2d,sinusoid")
    with pytest.raises(UsageError, match="none of rl2,pearl has a form on sinusoid"):
        entries_of(settings)


def test_quick_sets_what_is_not_given() -> None:
    quick = parse_quality(["--quick", "--tasks", "7"]).settings
    full = parse_quality(["--tasks", "7"]).settings
    assert (quick.seeds, quick.tasks, full.seeds, full.tasks) == (2, 7, 5, 7)


# Scores in files


def test_both_files_hold_every_score_exactly() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 2)) / 3
    tried = (
        Tried(step_size=0.1, later_step_scale=1.0, score=values[0, 0, 0]),
        Tried(step_size=1.0, later_step_scale=1.0),  # diverged
    )
    search = Search(tried=tried, chosen=tried[0])
    family = scores(maml=values, scratch=values + 1)
    tuned = replace(family.learners["scratch"], searches=[search, search], diverged=3)
    family = replace(family, learners={**family.learners, "scratch": tuned})
    rows = list(csv.DictReader(io.StringIO(to_csv([family]))))
    assert len(rows) == 2 * values.size
    back = np.array([float(row["score"]) for row in rows]).reshape(2, 2, 3, 2)
    assert_array_equal(back, [values, values + 1])
    assert rows[0]["step_size"] == ""
    assert rows[-1] | {"score": ""} == {
        "family": "f",
        "learner": "scratch",
        "seed": "1",
        "task": "t2",
        "steps": "1",
        "seen": "10",
        "trained": "101",
        "step_size": "0.1",
        "score": "",
    }
    text = to_json([family], {"commit": "c"})
    assert json.loads(text)["commit"] == "c"
    (read,) = read_json(text)
    assert_array_equal(read.learners["maml"].values, values)
    assert (read.better, read.tasks) == ("lower", ["t0", "t1", "t2"])
    back_again = read.learners["scratch"]
    assert list(back_again.searches) == [search, search]
    assert (list(back_again.seen), list(back_again.trained)) == ([0, 10], [100.0, 101.0])
    assert (back_again.diverged, read.learners["maml"].searches) == (3, [])


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": "mtrl-quality-1"}', '{"format": "mtrl-quality-2"}']
)
def test_a_file_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(MtrlError, match="not a file of scores"):
        read_json(text)


def test_a_diverged_adaptation_has_the_worst_score_of_all() -> None:
    bad = np.array([[[1.0, np.nan]]])
    other = np.array([[[-5.0, 9.0]]])
    filled, counts = with_worst_for_diverged({"bad": bad, "other": other}, "lower")
    assert_array_equal(filled["bad"], [[[1.0, 9.0]]])
    assert_array_equal(
        with_worst_for_diverged({"bad": bad, "other": other}, "higher")[0]["bad"][0, 0], [1, -5]
    )
    assert counts == {"bad": 1, "other": 0}
    with pytest.raises(MtrlError, match="every adaptation diverged"):
        with_worst_for_diverged({"bad": np.full((1, 1, 1), np.inf)}, "lower")


def test_the_better_learner_has_the_lower_error_and_the_higher_chance() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 6, 10, 2))
    worse = noise[1] * 0.1 + 5
    family = scores(maml=worse, good=worse - 1 + noise[0] * 0.01)
    summary = summarise(family, "maml", seed=0)
    assert summary.improvement["good"].low > 0.9
    assert summary.iqm["good"][1].high < summary.iqm["maml"][1].low
    assert_allclose(summary.mean["maml"].estimate, worse[:, :, 1].mean())
    above = summary.profiles["good"].share >= summary.profiles["maml"].share
    assert above.all()
    # The same seed gives the same numbers, another one other bounds.
    assert summarise(family, "maml", seed=0).iqm == summary.iqm
    assert summarise(family, "maml", seed=1).iqm != summary.iqm
    # A reference that does not take part gives way to the first.
    assert summarise(family, "anil", seed=0).reference == "maml"


def test_learners_with_more_steps_are_summarised_over_their_own() -> None:
    rng = np.random.default_rng(0)
    family = scores(maml=rng.normal(size=(2, 4, 2)), rl2=rng.normal(size=(2, 4, 5)))
    summary = summarise(family, "maml", seed=0)
    assert {name: len(curve) for name, curve in summary.iqm.items()} == {"maml": 2, "rl2": 5}
    assert_allclose(summary.mean["rl2"].estimate, family.learners["rl2"].values[:, :, 4].mean())


def test_the_figure_shows_scores_over_the_episodes_seen_and_steps_of_training() -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    family = replace(
        scores(
            maml=rng.normal(size=(2, 4, 3)),
            rl2=rng.normal(size=(2, 4, 5)),
            oracle=rng.normal(size=(2, 4, 3)),
        ),
        score="return",
    )
    seen = {"maml": [0, 20, 40], "rl2": [0, 1, 2, 3, 4], "oracle": [0, 0, 0]}
    learners = {name: replace(each, seen=seen[name]) for name, each in family.learners.items()}
    summary = summarise(replace(family, learners=learners), "maml", seed=0)
    curve = Curve(done=np.array([1e4, 3e6]), scores=np.zeros((2, 3)))
    figure = draw_figure([summary], {"f": {"maml": [curve], "rl2": [curve]}})
    adaptation, learning, _ = figure.axes
    places = {str(line.get_label()): list(line.get_xdata()) for line in adaptation.lines}
    assert places == {"MAML": [0, 20, 40], "RL²": [0, 1, 2, 3, 4], "oracle": [0, 20, 40]}
    figure.canvas.draw()
    marks = [mark.get_text() for mark in learning.get_xticklabels() if mark.get_text()]
    assert {"10k", "100k", "1M"} <= set(marks)
    assert [mark.get_text() for mark in adaptation.get_xticklabels()] == list("0124") + ["20", "40"]


def test_errors_over_training_are_shown_by_their_size() -> None:
    # A learner that diverges once would press all others onto the axis.
    pytest.importorskip("matplotlib")
    family = scores(maml=np.random.default_rng(0).uniform(0.1, 3, size=(2, 4, 3)))
    summary = summarise(family, "maml", seed=0)
    shown = [np.full((2, 3), level) for level in (0.01, 1e7)]
    curves = [Curve(done=np.array([500, 1000]), scores=each) for each in shown]
    _, learning, _ = draw_figure([summary], {"f": {"maml": curves}}).axes
    assert learning.get_yscale() == "log"
    assert_allclose(learning.lines[0].get_ydata(), np.sqrt(0.01 * 1e7))


# The step size at test


def test_the_best_candidate_converges_and_moves_least_of_equals() -> None:
    def tried(size: float, score: float | None) -> Tried:
        return Tried(step_size=size, later_step_scale=1.0, score=score)

    some = [tried(0.1, 2.0), tried(0.01, 2.0), tried(1.0, 3.0), tried(10.0, None)]
    assert best(some, "lower").step_size == 0.01
    assert best(some, "higher").step_size == 1.0
    with pytest.raises(MtrlError, match="diverged with every step size of 10"):
        best(some[3:], "lower")


def untrained(config: SupervisedConfig) -> TrainedRun:
    meta = build_regressor(config, seen_points(config)).initial(torch.Generator().manual_seed(0))
    return TrainedRun(directory=Path("x"), config=config, meta=meta, iteration=0)


def test_the_step_size_is_the_best_on_training_tasks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SupervisedConfig(learner=FineTune(step_size=5.0, later_step_scale=0.5))
    run = untrained(config)
    evaluation = run.complete(EvaluationSettings(steps=2, tasks=30, shots=10))
    met: list[Task] = []
    measure = TrainedRun.raw_scores

    def noted(self: TrainedRun, tasks: Any, settings: Any, *, adapting: bool = True) -> Any:
        met.extend(tasks)
        return measure(self, tasks, settings, adapting=adapting)

    monkeypatch.setattr(TrainedRun, "raw_scores", noted)
    grid = (1e-4, 0.05, 1e4)
    search = search_step_size(run, grid, evaluation, 12)
    assert len({task.id for task in met}) == 12
    assert {task.split for task in met} == {"train"}
    assert not {task.id for task in met} & {task.id for task in run.unseen_tasks(evaluation)}
    # Each step size with and without the scale of later steps, as the learner has one.
    assert [(each.step_size, each.later_step_scale) for each in search.tried] == [
        (size, scale) for scale in (1.0, 0.5) for size in grid
    ]
    # A huge step diverges or does harm, a tiny one nothing: an untrained network gains by the one between.
    assert search.chosen.step_size == 0.05
    scores_of = {
        (each.step_size, each.later_step_scale): each.score
        for each in search.tried
        if each.score is not None
    }
    assert search.chosen.score == min(scores_of.values())
    # Scored as it is tested: with that step size, after the last step.
    taken = with_step_size(run, search.chosen)
    assert taken.config.learner == FineTune(
        step_size=0.05, later_step_scale=search.chosen.later_step_scale
    )
    assert taken.meta is run.meta


# All of it


def train_here(trainings: list[Training], processes: int) -> None:
    for training in trainings:
        kind = kind_of(training.config)
        resume = (training.directory / "manifest.json").exists()
        with Run.open(
            training.directory, config=training.config, kind=kind.name, resume=resume
        ) as run:
            kind.train(training.config, run)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process and draw no pictures of runs."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)
    monkeypatch.setattr(carry_out, "train_all", train_here)


def refuse_to_train(expected: int) -> Callable[[list[Training], int], None]:
    def refuse(trainings: list[Training], processes: int) -> None:
        assert all(training.finished for training in trainings)
        assert len(trainings) == expected

    return refuse


@pytest.mark.usefixtures("here")
def test_a_comparison_writes_its_files_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = QualitySettings(
        learners="maml,scratch,no-adaptation,fine-tune",
        families="sinusoid",
        seeds=2,
        iterations=4,
        tasks=5,
        steps=1,
        points=2,
        step_sizes=(0.003, 0.03),
        validation_tasks=6,
    )
    place = QualityPlace(work=tmp_path / "work", output=tmp_path / "out", processes=1, command="x")
    written = compare_quality(settings, place)
    (family,) = read_json(written.scores.read_text())
    tables = {name: each.values for name, each in family.learners.items()}
    assert {name: each.shape for name, each in tables.items()} == dict.fromkeys(
        ("maml", "scratch", "no-adaptation", "fine-tune"), (2, 5, 2)
    )
    # The same policy before adaptation, which one of the two does without.
    assert_array_equal(tables["no-adaptation"][..., 0], tables["fine-tune"][..., 0])
    assert_array_equal(tables["no-adaptation"][..., 1], tables["fine-tune"][..., 0])
    assert (tables["fine-tune"][..., 1] != tables["fine-tune"][..., 0]).all()
    # Four iterations change little, and seeds begin apart.
    assert (np.ptp(tables["scratch"][..., 0], axis=0) > 0).all()
    chosen = {name: each.searches for name, each in family.learners.items() if each.searches}
    assert {name: len(each) for name, each in chosen.items()} == {"scratch": 2, "fine-tune": 2}
    assert all(
        search.chosen.step_size in (0.003, 0.03) for each in chosen.values() for search in each
    )
    assert [family.learners[name].trained[0] for name in ("maml", "scratch")] == [4, 0]
    assert "| from scratch | 0 | the same 10 points |" in written.text
    assert "| learner | later steps | 0.003 | 0.03 | chosen |" in written.text
    assert written.figure.stat().st_size > 10_000

    monkeypatch.setattr(carry_out, "train_all", refuse_to_train(4))
    monkeypatch.setattr("mtrl.evaluation.trained.TrainedRun.raw_scores", None)
    again = compare_quality(settings, place)
    (same,) = read_json(again.scores.read_text())
    for name, table in tables.items():
        assert_array_equal(same.learners[name].values, table)
        assert same.learners[name].searches == family.learners[name].searches
    assert "found finished" in again.text


NAVIGATION = """
family = "navigation2d"
tasks_per_batch = 2
episodes_per_task = 3
hidden = [4]
test_tasks = 3

[family_options]
horizon = 4

[learner]
kind = "maml"
"""


@pytest.mark.usefixtures("here")
def test_learners_within_trials_are_scored_by_the_episode_on_the_same_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "base.toml"
    path.write_text(NAVIGATION)
    settings = QualitySettings(
        learners="maml,rl2,pearl",
        families="navigation2d",
        seeds=1,
        iterations=2,
        tasks=4,
        steps=1,
        trial_episodes=3,
        points=1,
        configs={"navigation2d": path},
    )
    place = QualityPlace(work=tmp_path / "work", output=tmp_path / "out", processes=1, command="x")
    asked: list[tuple[int, int | None]] = []
    measure = TrainedRun.raw_scores

    def noted(self: TrainedRun, tasks: Any, evaluation: Any, *, adapting: bool = True) -> Any:
        asked.append((len(tasks), evaluation.episodes))
        return measure(self, tasks, evaluation, adapting=adapting)

    monkeypatch.setattr(TrainedRun, "raw_scores", noted)
    written = compare_quality(settings, place)
    (family,) = read_json(written.scores.read_text())
    found = {name: (each.values.shape, each.seen) for name, each in family.learners.items()}
    assert found == {
        "maml": ((1, 4, 2), [0, 3]),
        "rl2": ((1, 4, 3), [0, 1, 2]),
        "pearl": ((1, 4, 3), [0, 1, 2]),
    }
    # PEARL's episodes of a round share a belief: its three trials of a task are three rows, of one episode each.
    assert asked == [(4, 3), (4, 3), (12, 1)]
    # No goal ends these episodes, so that steps are known: iterations, tasks, episodes, rounds, horizon.
    trained = {name: each.trained[0] for name, each in family.learners.items()}
    first, each = 80 * 5, 20 * 4
    assert trained == {
        "maml": 2 * 2 * 3 * 2 * 4,
        "rl2": 1 * 20 * 3 * 4,
        "pearl": (first + each) * 4,
    }
    assert "| RL² | 240 | 1 episode |" in written.text
    assert "On navigation2d, those of PEARL" in written.text

    monkeypatch.setattr(carry_out, "train_all", refuse_to_train(3))
    monkeypatch.setattr(TrainedRun, "raw_scores", None)
    (same,) = read_json(compare_quality(settings, place).scores.read_text())
    for name, learner in family.learners.items():
        assert_array_equal(same.learners[name].values, learner.values)
