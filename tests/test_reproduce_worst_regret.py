"""`mtrl reproduce worst-regret`: what is counted, what is compared, and that nothing is done twice."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.compare.processes import Playing
from mtrl.compare.references import References
from mtrl.compare.trainings import Training, specialists_of
from mtrl.config import differing_fields, to_dict
from mtrl.errors import MtrlError
from mtrl.multitask.config import MultiTaskConfig
from mtrl.reproduce import REPRODUCTIONS, worst_regret, worst_regret_trainings
from mtrl.reproduce.carry_out import Outcome, Place
from mtrl.reproduce.worst_regret_results import summarise
from mtrl.reproduce.worst_regret_trainings import (
    DIFFERENCES,
    FULL,
    GYMNASIUM,
    HARD,
    TASKS,
    Scale,
    agents_of,
    objective_plan,
    specialist_plan,
    the_tasks,
)

pytest.importorskip("matplotlib")

TINY = Scale(steps=2048, specialist_steps=256, seeds=2, specialists=1, episodes=2)
REFERENCES = References(best=(500.0,) * len(TASKS), random=(20.0,) * len(TASKS))

# What is counted

BEST = np.array([100.0, 200.0])
# Each agent leaves another task behind: regrets (90, 0) and (0, 90).
LEFT_BEHIND = np.array([[10.0, 200.0], [100.0, 110.0]])
EVEN = np.array([[70.0, 170.0], [80.0, 180.0]])


def test_worst_regrets_are_taken_of_agents_and_not_of_their_mean() -> None:
    summary = summarise({"mean-return": LEFT_BEHIND, "worst-regret": EVEN}, BEST, 0)
    row = summary.rows["mean-return"]
    assert_array_equal(row.worst_by_seed, [90.0, 90.0])
    assert row.worst.estimate == 90.0
    # No task's mean regret is above 45: averaging first would have hidden half of it.
    assert_allclose([each.estimate for each in row.regrets], [45.0, 45.0])
    assert_array_equal(summary.rows["worst-regret"].worst_by_seed, [30.0, 20.0])


def test_changes_are_those_of_agents_with_one_seed() -> None:
    summary = summarise({"mean-return": LEFT_BEHIND, "worst-regret": EVEN}, BEST, 0)
    worst, mean = (each["worst-regret"] for each in (summary.worst_change, summary.mean_change))
    assert (worst.mean, worst.low, worst.high) == (-65.0, -70.0, -60.0)
    assert (mean.mean, mean.low, mean.high) == (20.0, 15.0, 25.0)


def test_the_claim_needs_the_whole_interval() -> None:
    lower = summarise({"mean-return": LEFT_BEHIND, "worst-regret": EVEN}, BEST, 0)
    mixed = summarise(
        {"mean-return": EVEN, "worst-regret": EVEN + np.array([[9.0], [-1.0]])}, BEST, 0
    )
    assert lower.met
    assert mixed.worst_change["worst-regret"].mean < 0
    assert not mixed.met
    assert not summarise({"mean-return": EVEN, "worst-regret": LEFT_BEHIND}, BEST, 0).met


# What is compared


def test_agents_differ_in_their_objective_and_in_nothing_else() -> None:
    settings = [
        objective_plan(FULL, 3, objective, REFERENCES).settings
        for objective in worst_regret_trainings.OBJECTIVES
    ]
    first, second = (to_dict(each) for each in settings)
    assert {
        name.partition(".")[0] for name in differing_fields(MultiTaskConfig, first, second)
    } == {"objective"}
    assert settings[1].objective.best == REFERENCES.best
    assert not settings[0].objective.best


def test_tasks_are_gymnasiums_but_for_what_the_page_says() -> None:
    for name, task in zip(TASKS, the_tasks(), strict=True):
        changed = {
            key: value for key, value in task.params.items() if GYMNASIUM.get(key, value) != value
        }
        assert changed == pytest.approx(DIFFERENCES[name])
    assert len({task.id for task in the_tasks()}) == len(TASKS)
    assert TASKS[HARD] == "hard"


def test_a_specialist_has_the_steps_that_the_page_says(tmp_path: Path) -> None:
    trainings = specialists_of(specialist_plan(FULL, 0), tmp_path)
    assert {each.config.total_steps for each in trainings} == {FULL.specialist_steps}
    assert len(trainings) == FULL.specialists * len(TASKS)
    assert {each.config.objective.objective for each in trainings} == {"mean-return"}


# The whole, tiny


@dataclass
class Here:
    """Trains in this process what it is asked for, and remembers what was not finished."""

    trained: list[str]
    fails_after: int = 10**6

    def __call__(self, trainings: Sequence[Training], processes: int, commit: str) -> None:
        for training in trainings:
            if training.scores() is None:
                if len(self.trained) == self.fails_after:
                    raise MtrlError("stopped here")
                self.trained.append(training.name)
                Playing(training=training, commit=commit).carry_out()


def table(directory: Path, patch: pytest.MonkeyPatch, here: Here) -> Outcome:
    patch.setattr(worst_regret, "FULL", TINY)
    patch.setattr(worst_regret_trainings, "train_all", here)
    place = Place(
        name="worst-regret",
        output=directory / "out",
        work=directory / "work",
        quick=False,
        seed=0,
        processes=1,
    )
    return worst_regret.worst_regret_table(place)


def test_stopped_and_continued_it_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, rest, nothing = Here([], fails_after=9), Here([]), Here([])
    with pytest.raises(MtrlError, match="stopped here"):
        table(tmp_path, monkeypatch, stopped)
    written = table(tmp_path, monkeypatch, rest)
    assert len(stopped.trained) == 9
    assert rest.trained == ["worst-regret, seed 0", "mean-return, seed 1", "worst-regret, seed 1"]
    again = table(tmp_path, monkeypatch, nothing)
    assert nothing.trained == []
    numbers, _, _ = written.text.partition("## How this was made")
    assert again.text.startswith(numbers)
    assert f"{8 + 4}, of which 12 were found finished" in again.text
    _check_scores(again)


def _check_scores(outcome: Outcome) -> None:
    """The CSV holds what the page is made of: regrets are best less return, weights have mean 1."""
    with outcome.scores.open() as file:
        lines = list(csv.DictReader(file))
    values = {
        (row["objective"], row["seed"], row["task"], row["quantity"]): float(row["value"])
        for row in lines
    }
    assert len(values) == len(lines) == 2 * 8 + 2 * 2 * 3 * 8
    for (objective, seed, task, quantity), value in values.items():
        if quantity == "regret":
            best = values["", "", task, "best"]
            assert value == best - values[objective, seed, task, "return"]
    for seed in ("0", "1"):
        flat, moved = (
            np.array([values[objective, seed, task, "weight"] for task in TASKS])
            for objective in ("mean-return", "worst-regret")
        )
        assert_array_equal(flat, np.ones(8))
        assert_allclose(moved.mean(), 1.0, rtol=1e-6)
        assert (moved != 1).any()


def test_other_references_do_not_take_the_place_of_finished_agents(tmp_path: Path) -> None:
    other = replace(REFERENCES, best=(499.0,) * len(TASKS))
    directories = {
        agents_of(objective_plan(TINY, 0, "worst-regret", references), tmp_path)[0].directory
        for references in (REFERENCES, other, REFERENCES)
    }
    assert len(directories) == 2


def test_it_is_a_reproduction() -> None:
    assert REPRODUCTIONS["worst-regret"]._load() is worst_regret.worst_regret_table
