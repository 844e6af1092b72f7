"""`mtrl reproduce incremental`: what is compared, what the numbers say, and the whole of it, tiny."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.config import differing_fields, to_dict
from mtrl.durable import replace_file
from mtrl.errors import MtrlError
from mtrl.evaluation.continual import PerformanceMatrix
from mtrl.evaluation.continual_file import read_matrix
from mtrl.incremental.config import IncrementalConfig
from mtrl.incremental.tasks import check_plan
from mtrl.meta import watching
from mtrl.reproduce.carry_out import Outcome, Place
from mtrl.reproduce.incremental import experiment, page, plan, trainings
from mtrl.reproduce.incremental.plan import (
    BASELINE,
    FULL,
    METHODS,
    TASKS,
    Scale,
    scratch_config,
    sequence_config,
)
from mtrl.reproduce.incremental.results import claims, summarise
from mtrl.reproduce.incremental.trainings import Trained, train_and_read
from mtrl.reproduce.jobs import Job

TINY = Scale(steps=512, seeds=2, episodes=1)
FEW = {name: METHODS[name] for name in (BASELINE, "EWC")}
SOME = {name: TASKS[name] for name in ("pole", "walls")}

# What the numbers say


def matrix(*rows: Sequence[float]) -> PerformanceMatrix:
    """Return the matrix of two seeds, the second 0.01 higher everywhere."""
    scores = np.array(rows)
    names = tuple("abc"[: len(rows) - 1])
    return PerformanceMatrix(
        tasks=names, order=names, seeds=(0, 1), scores=np.stack([scores, scores + 0.01])
    )


FORGETS = matrix([0.0, 0.0], [0.9, 0.0], [0.1, 0.8])
KEEPS = matrix([0.0, 0.0], [0.9, 0.0], [0.9, 0.6])
STUCK = matrix([0.0, 0.0], [0.5, 0.0], [0.5, 0.0])
AREAS = np.array([[0.5, 0.5], [0.5, 0.5]])


def trained(areas_of_keeps: Any = AREAS - 0.2, baseline: PerformanceMatrix = FORGETS) -> Trained:
    return Trained(
        matrices={BASELINE: baseline, "keeps": KEEPS, "stuck": STUCK},
        areas={BASELINE: AREAS, "keeps": areas_of_keeps, "stuck": AREAS - 0.4},
        scratch=np.array([[0.5, 0.3], [0.5, 0.5]]),
        alone=np.array([[0.9, 0.8], [0.9, 1.0]]),
        seconds=1.0,
        trainings=3,
        found=0,
    )


def test_measures_are_those_of_the_definitions_and_the_best_comes_first() -> None:
    summary = summarise(trained(), 0)
    assert list(summary.rows) == ["keeps", BASELINE, "stuck"]
    keeps, forgets = summary.rows["keeps"], summary.rows[BASELINE]
    assert_allclose(keeps.performance.estimate, 0.755)
    assert_allclose([forgets.forgetting.estimate, keeps.forgetting.estimate], [0.4, 0.0])
    # (0.5 - 0.5) / 0.5 and (0.5 - 0.4) / 0.6; less 0.2, -0.2 / 0.5 and -0.1 / 0.6.
    assert_allclose(forgets.transfer.estimate, (0 + 1 / 6) / 2)
    assert_allclose(keeps.transfer.estimate, (-0.4 - 1 / 6) / 2)
    assert_allclose(keeps.learnt.estimate, 0.755)
    assert keeps.more_performance is not None
    assert_allclose(keeps.more_performance.mean, 0.3)
    assert_allclose(summary.scratch.estimate, 0.9)


def test_a_method_that_learns_nothing_keeps_and_does_not_help() -> None:
    stuck = summarise(trained(), 0).rows["stuck"]
    assert stuck.keeps
    assert not stuck.helps


def test_every_claim_can_fail() -> None:
    assert list(claims(summarise(trained(), 0)).values()) == [True] * 4
    all_kept = claims(summarise(trained(baseline=KEEPS), 0))
    assert list(all_kept.values()) == [False] * 4
    quick = Trained(
        **{**vars(trained(AREAS + 0.1)), "matrices": {BASELINE: FORGETS, "keeps": KEEPS}}
    )
    assert list(claims(summarise(quick, 0)).values()) == [True, True, True, False]


# What is compared


def test_methods_differ_in_their_method_and_in_nothing_else() -> None:
    base = to_dict(sequence_config(FULL, BASELINE, 3))
    for method in METHODS:
        other = to_dict(sequence_config(FULL, method, 3))
        names = {
            name.partition(".")[0] for name in differing_fields(IncrementalConfig, base, other)
        }
        expected = {BASELINE: set(), "columns": {"method", "network"}}
        assert names == expected.get(method, {"method"})
    alone = to_dict(scratch_config(FULL, "walls", 3))
    assert differing_fields(IncrementalConfig, base, alone) == ["order"]


def test_the_sequence_has_six_tasks_of_two_families_and_can_be_trained() -> None:
    assert len(TASKS) >= 6
    families = [task.family for task in TASKS.values()]
    assert len(set(families)) == 2
    for method in ("columns", "PackNet"):
        check_plan(sequence_config(TINY, method, 0))


# The whole, tiny


@dataclass
class Here:
    """Carries jobs out in this process, and remembers them."""

    done: list[str]
    fails_after: int = 10**6

    def __call__(self, jobs: Sequence[Job], processes: int) -> None:
        for job in jobs:
            if job.finished() is None:
                if len(self.done) == self.fails_after:
                    raise MtrlError("stopped here")
                self.done.append(job.name)
                made = {"seconds": 1.0, "values": train_and_read(**job.told)}
                replace_file(job.file, json.dumps(made).encode())


def table(directory: Path, patch: pytest.MonkeyPatch, here: Here) -> Outcome:
    patch.setattr(watching, "find_spec", lambda name: None)
    patch.setattr(experiment, "FULL", TINY)
    patch.setattr(plan, "PPO_SETTINGS", replace(plan.PPO_SETTINGS, n_epochs=1))
    patch.setattr(trainings, "METHODS", FEW)
    for module in (plan, trainings, page):
        patch.setattr(module, "TASKS", SOME)
    patch.setattr(trainings, "carry_out_jobs", here)
    place = Place(
        name="incremental",
        output=directory / "out",
        work=directory / "work",
        quick=False,
        seed=0,
        processes=1,
    )
    return experiment.incremental_table(place)


def test_it_is_carried_out_once_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    here = Here([], fails_after=3)
    with pytest.raises(MtrlError, match="stopped here"):
        table(tmp_path, monkeypatch, here)
    rest = Here([])
    outcome = table(tmp_path, monkeypatch, rest)
    jobs = TINY.seeds * (len(FEW) + 1)
    assert len(here.done) + len(rest.done) == jobs
    assert not set(here.done) & set(rest.done)
    again = Here([])
    assert table(tmp_path, monkeypatch, again).scores.read_bytes() == outcome.scores.read_bytes()
    assert not again.done

    with open(outcome.scores) as file:
        rows = list(csv.DictReader(file))
    runs = sorted((tmp_path / "work").glob("**/ewc-seed-1-*/0/performance.csv"))
    (kept,) = map(read_matrix, runs)
    written = [
        float(row["value"])
        for row in rows
        if (row["method"], row["seed"], row["quantity"]) == ("EWC", "1", "score")
    ]
    assert_array_equal(written, kept.scores.ravel())
    alone = [row for row in rows if row["method"] == "alone"]
    assert len(alone) == TINY.seeds * len(SOME) * 2
    # Of the first task, fine-tuning's stage and the reference are one training.
    areas = {
        row["method"]: row["value"]
        for row in rows
        if row["quantity"] == "area"
        and row["seed"] == "0"
        and row["stage"] == "1"
        and row["task"] == "pole"
    }
    assert areas[BASELINE] == areas["alone"]
    assert outcome.figure.exists()
    for method in FEW:
        assert f"| {method} |" in outcome.text
    assert "claims hold" in outcome.text
    assert outcome.met in (True, False)
