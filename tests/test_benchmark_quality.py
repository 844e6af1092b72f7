"""The comparison of learners: equal budgets, the same tasks for all, and files that hold every score."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.benchmarks.quality import carry_out
from mtrl.benchmarks.quality.carry_out import QualityPlace, compare_quality
from mtrl.benchmarks.quality.learners import LEARNERS, Config, contender, default_settings
from mtrl.benchmarks.quality.plan import QualitySettings, entries_of
from mtrl.benchmarks.quality.scores import (
    FamilyScores,
    read_json,
    to_csv,
    to_json,
    with_worst_for_diverged,
)
from mtrl.benchmarks.quality.summary import summarise
from mtrl.commands.benchmark_quality import parse_quality
from mtrl.envs.registry import family_names
from mtrl.errors import MtrlError, UsageError
from mtrl.meta.baselines import FineTune, Oracle
from mtrl.meta.maml import MAML
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.supervised import SupervisedConfig, meta_train_supervised
from mtrl.reproduce.trainings import Training
from mtrl.runs import Run


def scores(**tables: np.ndarray) -> FamilyScores:
    shape = next(iter(tables.values())).shape
    return FamilyScores(
        family="f",
        score="error",
        tasks=[f"t{i}" for i in range(shape[1])],
        seeds=list(range(shape[0])),
        scores=tables,
        diverged=dict.fromkeys(tables, 0),
    )


# What is compared


@pytest.mark.parametrize("family", ["sinusoid", "navigation2d", "cartpole", "bandit"])
def test_every_learner_sees_as_much_in_an_iteration(family: str) -> None:
    base = default_settings(family)

    def seen(config: Config) -> int:
        if isinstance(config, SupervisedConfig):
            # A learner without an inner loop has no use for the support.
            points = config.query_shots + config.shots * (config.learner.inner_steps > 0)
            return config.tasks_per_batch * points
        rounds = config.learner.inner_steps + 1
        return config.tasks_per_batch * config.episodes_per_task * rounds

    found = {name: contender(name, base) for name in LEARNERS}
    assert (found["reptile"] is None) is isinstance(base, ReinforcementConfig)
    budgets = {seen(each.config) for each in found.values() if each is not None}
    assert len(budgets) == 1
    shared = ("iterations", "hidden", "seed", "family", "preset")
    for name in shared:
        assert len({str(getattr(e.config, name)) for e in found.values() if e is not None}) == 1


def test_baselines_take_mamls_steps_or_none() -> None:
    base = replace(default_settings("navigation2d"), learner=MAML(step_size=0.7))
    tuned, scratch, frozen, told = (
        contender(name, base) for name in ("fine-tune", "scratch", "no-adaptation", "oracle")
    )
    assert tuned and scratch and frozen and told
    assert tuned.config.learner == FineTune(step_size=0.7)
    assert (tuned.trained, tuned.adapting) == (True, True)
    assert (scratch.config, scratch.trained, scratch.adapting) == (tuned.config, False, True)
    assert (frozen.config, frozen.trained, frozen.adapting) == (tuned.config, True, False)
    assert (told.config.learner, told.trained, told.adapting) == (Oracle(), True, False)


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


def test_quick_sets_what_is_not_given() -> None:
    quick = parse_quality(["--quick", "--tasks", "7"]).settings
    full = parse_quality(["--tasks", "7"]).settings
    assert (quick.seeds, quick.tasks, full.seeds, full.tasks) == (2, 7, 5, 7)


# Scores in files


def test_both_files_hold_every_score_exactly() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 2)) / 3
    family = scores(maml=values, scratch=values + 1)
    rows = list(csv.DictReader(io.StringIO(to_csv([family]))))
    assert len(rows) == 2 * values.size
    back = np.array([float(row["score"]) for row in rows]).reshape(2, 2, 3, 2)
    assert_array_equal(back, [values, values + 1])
    assert rows[-1] | {"score": ""} == {
        "family": "f",
        "learner": "scratch",
        "seed": "1",
        "task": "t2",
        "steps": "1",
        "score": "",
    }
    text = to_json([family], {"commit": "c"})
    assert json.loads(text)["commit"] == "c"
    (read,) = read_json(text)
    assert_array_equal(read.scores["maml"], values)
    assert (read.better, read.steps, read.tasks) == ("lower", 1, ["t0", "t1", "t2"])


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "x"}', '{"format": "mtrl-quality-1"}'])
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


# All of it


def train_here(trainings: list[Training], processes: int) -> None:
    for training in trainings:
        config = training.config
        assert isinstance(config, SupervisedConfig)
        resume = (training.directory / "manifest.json").exists()
        with Run.open(training.directory, config=config, kind="supervised", resume=resume) as run:
            meta_train_supervised(config, run)


def test_a_comparison_writes_its_files_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)
    monkeypatch.setattr(carry_out, "train_all", train_here)
    settings = QualitySettings(
        learners="maml,scratch,no-adaptation,fine-tune",
        families="sinusoid",
        seeds=2,
        iterations=4,
        tasks=5,
        steps=1,
        points=2,
    )
    place = QualityPlace(work=tmp_path / "work", output=tmp_path / "out", processes=1, command="x")
    written = compare_quality(settings, place)
    (family,) = read_json(written.scores.read_text())
    assert {name: each.shape for name, each in family.scores.items()} == dict.fromkeys(
        ("maml", "scratch", "no-adaptation", "fine-tune"), (2, 5, 2)
    )
    tables = family.scores
    # The same policy before adaptation, which one of the two does without.
    assert_array_equal(tables["no-adaptation"][..., 0], tables["fine-tune"][..., 0])
    assert_array_equal(tables["no-adaptation"][..., 1], tables["fine-tune"][..., 0])
    assert (tables["fine-tune"][..., 1] != tables["fine-tune"][..., 0]).all()
    # Four iterations change little, and seeds begin apart.
    assert (np.ptp(tables["scratch"][..., 0], axis=0) > 0).all()
    assert "| from scratch |" in written.text
    assert written.figure.stat().st_size > 10_000

    def refuse(trainings: list[Training], processes: int) -> None:
        assert all(training.finished for training in trainings)
        assert len(trainings) == 4

    monkeypatch.setattr(carry_out, "train_all", refuse)
    monkeypatch.setattr("mtrl.evaluation.trained.TrainedRun.raw_scores", None)
    again = compare_quality(settings, place)
    (same,) = read_json(again.scores.read_text())
    for name, table in tables.items():
        assert_array_equal(same.scores[name], table)
    assert "found finished" in again.text
