"""`mtrl reproduce curricula`: what is counted, what is claimed, and that finished trainings are kept."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mtrl.reproduce import REPRODUCTIONS, curricula
from mtrl.reproduce.curricula import FULL, summarise
from mtrl.reproduce.curricula_training import (
    CURRICULA,
    UNIFORM,
    WORLDS,
    Job,
    Trained,
    train,
    train_told,
)

JOB = Job(
    world="mountaincar",
    curriculum="staged",
    seed=3,
    steps=4_000,
    every=2_000,
    tasks=20,
    threshold=0.9,
)


def trained(*steps: int | None) -> list[Trained]:
    return [Trained(steps=each, curve=(0.5,), seconds=1.0) for each in steps]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_ratio_is_of_mean_steps_and_counts_the_whole_budget() -> None:
    row = summarise(trained(10, 20, 30), trained(60, None, 40), 100, rng())
    assert_allclose(row.steps, [10, 20, 30])
    assert row.ratio.estimate == pytest.approx((60 + 100 + 40) / (10 + 20 + 30), rel=1e-12)
    assert row.ratio.low < row.ratio.estimate < row.ratio.high
    assert row.bound and row.reached == 3 and row.quicker


def test_a_curriculum_that_not_all_seeds_get_there_with_is_not_quicker() -> None:
    row = summarise(trained(1, None), trained(100, 100), 100, rng())
    assert row.reached == 1 and row.ratio.estimate > 1.5 and not row.quicker
    slow = summarise(trained(70, 71), trained(100, 100), 100, rng())
    assert slow.reached == 2 and not slow.quicker and not slow.bound


def test_tasks_are_evenly_spread_and_their_order_is_that_of_difficulty() -> None:
    for world in WORLDS.values():
        goals = np.array([task.params["goal_position"] for task in world.tasks(5)], np.float64)
        assert_allclose(np.diff(goals), (world.high - world.low) / 4, rtol=1e-5)
        assert world.family.horizon == 200


def test_a_training_is_decided_by_its_job() -> None:
    first, again = train(JOB), train(JOB)
    assert first.curve == again.curve and len(first.curve) == 2
    assert train(replace(JOB, seed=4, every=1000)).curve != train(replace(JOB, every=1000)).curve


def test_it_ends_at_the_threshold() -> None:
    made = train(replace(JOB, threshold=0.0))
    assert made.steps == 2_000 and len(made.curve) == 1


def test_a_job_is_told_and_told_of_in_json() -> None:
    told = train_told(**json.loads(json.dumps(asdict(JOB))))
    made = train(JOB)
    assert json.loads(json.dumps(told)) == {"steps": made.steps, "curve": list(made.curve)}


def test_a_quick_run_writes_a_page_its_numbers_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    shown = (UNIFORM, "staged", "domain randomisation")
    monkeypatch.setattr(curricula, "CURRICULA", shown)
    monkeypatch.setattr(curricula, "QUICK_PLAN", replace(FULL, steps=2_000, seeds=2))
    outcome = REPRODUCTIONS["curricula"].run(tmp_path / "out", quick=True, work=tmp_path / "runs")
    assert outcome.met is None
    text = outcome.page.read_text()
    assert "scaled-down run" in text and all(f"| {name} |" in text for name in shown)
    rows = list(csv.DictReader(outcome.scores.read_text().splitlines()))
    ends = [row for row in rows if row["quantity"] == "steps to threshold"]
    assert len(ends) == 2 * len(WORLDS) * len(shown)
    assert {row["curriculum"] for row in ends} == set(shown) < set(CURRICULA)
    assert outcome.figure.stat().st_size > 10_000
