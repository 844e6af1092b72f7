"""Reproductions state the papers' numbers, compare in pairs, say when they are quick, and continue."""

import csv
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.statistics import Interval, PairedDifference
from mtrl.evaluation.trained import EvaluationSettings, load_run
from mtrl.interrupts import Interrupted
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.supervised import SupervisedConfig, meta_train_supervised
from mtrl.reproduce import REPRODUCTIONS, Calculation, adaptation, find_reproduction
from mtrl.reproduce.carry_out import Outcome, Place, carry_out, measure
from mtrl.reproduce.experiment import UNADAPTED, Column, Experiment
from mtrl.reproduce.navigation import (
    NavigationSize,
    both_starts,
    maml_navigation,
    meta_sgd_navigation,
    point_mass,
)
from mtrl.reproduce.page import (
    Cell,
    Part,
    Record,
    Results,
    draw_figure,
    is_met,
    render_page,
    render_scores,
)
from mtrl.reproduce.published import (
    MAML_NAVIGATION,
    MAML_REGRESSION,
    META_SGD_NAVIGATION,
    META_SGD_REGRESSION,
    UNCONFIRMED,
)
from mtrl.reproduce.regression import (
    RegressionSize,
    maml_regression,
    meta_sgd_grid,
    meta_sgd_regression,
    one_maml,
)
from mtrl.reproduce.trainings import Training, train_all
from mtrl.runs import Run

TRAINED = [name for name, found in REPRODUCTIONS.items() if not isinstance(found, Calculation)]
# As our notes on the papers have it; bold numbers are confirmed by a source, plain ones are not.
GRID = """
| 5-shot | MAML | **1.13±0.18** | **0.85±0.14** | **0.71±0.12** |
| 5-shot | Meta-SGD | **0.90±0.16** | **0.63±0.12** | **0.50±0.10** |
| 10-shot | MAML | 1.17±0.16 | 0.77±0.11 | **0.56±0.08** |
| 10-shot | Meta-SGD | 0.88±0.14 | 0.53±0.09 | **0.35±0.06** |
| 20-shot | MAML | 1.29±0.20 | 0.76±0.12 | **0.48±0.08** |
| 20-shot | Meta-SGD | 1.01±0.17 | 0.54±0.08 | **0.31±0.05** |
"""
STARTS = {
    "MAML": {"fixed start": (-9.12, 0.66), "varying start": (-10.71, 0.76)},
    "Meta-SGD": {"fixed start": (-8.64, 0.68), "varying start": (-10.15, 0.62)},
}


# The papers' numbers and protocols


def test_the_grid_holds_the_published_numbers() -> None:
    unconfirmed = set()
    for line in GRID.strip().splitlines():
        row, learner, *numbers = (part.strip() for part in line.strip("|").split("|"))
        for column, number in zip(("5-shot", "10-shot", "20-shot"), numbers, strict=True):
            estimate, half = map(float, number.strip("*").split("±"))
            published = META_SGD_REGRESSION[learner][row, column]
            assert_allclose(
                (published.estimate, published.low, published.high),
                (estimate, estimate - half, estimate + half),
            )
            if not number.startswith("**"):
                unconfirmed.add((row, column))
    assert unconfirmed == UNCONFIRMED


def test_the_other_tables_hold_the_published_numbers() -> None:
    for learner, starts in STARTS.items():
        for start, (estimate, half) in starts.items():
            published = META_SGD_NAVIGATION[learner][start, "1 step"]
            assert_allclose((published.estimate, published.high), (estimate, estimate + half))
    errors = [i.estimate for i in MAML_REGRESSION["MAML"].values()]
    returns = [i.estimate for i in MAML_NAVIGATION["MAML"].values()]
    assert errors == [0.67, 0.38, 0.35]
    assert returns == [-40.41, -11.68, -3.33, -3.23]


def test_the_full_regressions_follow_the_protocol() -> None:
    grid, table = meta_sgd_regression(False, 3), maml_regression(False, 3)
    for row, learners in grid.trainings.items():
        assert learners["MAML"].learner == MAML(step_size=0.01)
        assert learners["Meta-SGD"].learner == MetaSGD(initial_step_size=(0.005, 0.1))
        for config in learners.values():
            assert isinstance(config, SupervisedConfig)
            assert (config.preset, config.hidden, config.activation) == (
                "meta-sgd",
                (40, 40),
                "relu",
            )
            assert (config.iterations, config.query_shots, config.seed) == (60_000, 10, 3)
            assert f"{config.shots}-shot" == row
    for name, column in grid.columns.items():
        assert (column.settings.tasks, column.steps) == (100 * 100, 1)
        assert f"{column.settings.shots}-shot" == name
    config = table.trainings["10-shot"]["MAML"]
    assert isinstance(config, SupervisedConfig)
    assert (config.preset, config.shots, config.learner) == ("maml", 10, MAML(step_size=0.01))
    assert [column.steps for column in table.columns.values()] == [1, 5, 10]
    assert {column.settings.shots for column in table.columns.values()} == {5}


def test_the_full_navigations_follow_the_protocol() -> None:
    starts, table = meta_sgd_navigation(False, 3), maml_navigation(False, 3)
    presets = {"fixed start": "fixed-start", "varying start": "varying-start"}
    for row, learners in [*starts.trainings.items(), *table.trainings.items()]:
        for config in learners.values():
            assert isinstance(config, ReinforcementConfig)
            assert (config.preset, config.hidden) == (presets[row], (100, 100))
            assert (config.tasks_per_batch, config.episodes_per_task, config.seed) == (20, 20, 3)
            assert config.family_options["horizon"] == 100
    assert {c.iterations for row in starts.trainings.values() for c in row.values()} == {100}
    (column,) = starts.columns.values()
    assert (column.settings.tasks, column.settings.episodes, column.steps) == (600, 20, 1)
    config = table.trainings["fixed start"]["MAML"]
    assert config.iterations <= 500
    assert isinstance(config.learner, MAML)
    assert config.learner.later_step_scale < 1
    assert [column.steps for column in table.columns.values()] == [0, 1, 2, 3]
    assert {column.settings.episodes for column in table.columns.values()} == {40}


@pytest.mark.parametrize("name", TRAINED)
def test_every_reproduction_has_a_cell_of_ours_for_each_published_one(name: str) -> None:
    module, _, function = REPRODUCTIONS[name].builder.partition(":")
    build = getattr(__import__(module, fromlist=[function]), function)
    full, quick = build(False, 0), build(True, 0)
    cells = {(row, column) for row in full.trainings for column in full.columns}
    assert full.published or full.against_unadapted
    for learners in full.trainings.values():
        assert not full.published or learners.keys() == full.published.keys()
    for published in full.published.values():
        assert published.keys() == cells
    assert quick.trainings.keys() == full.trainings.keys()
    assert quick.columns.keys() == full.columns.keys()
    first = next(iter(full.trainings))
    for learner, config in quick.trainings[first].items():
        assert config.iterations < full.trainings[first][learner].iterations / 10


# Names


def test_an_unknown_name_is_a_usage_error_that_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown reproduction 'maml-regresion'.*maml-regression"):
        find_reproduction("maml-regresion")
    assert find_reproduction("maml-navigation") is REPRODUCTIONS["maml-navigation"]


def test_names_and_summaries_are_there_without_torch() -> None:
    code = (
        "import sys, mtrl.reproduce as r; list(r.REPRODUCTIONS); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The page, from scores that are known


@dataclass(frozen=True)
class KnownRun:
    """Stands in for a `TrainedRun`: its score after k steps is `start` plus the task's own, less k."""

    start: float
    family: Any = None
    tasks_name: str = "unseen tasks"
    noise: np.ndarray[Any, Any] = field(
        default_factory=lambda: np.random.default_rng(1).normal(size=200)
    )

    def unseen_tasks(self, settings: EvaluationSettings) -> range:
        return range(settings.tasks)

    def scores(
        self, tasks: range, settings: EvaluationSettings, *, adapting: bool = True
    ) -> np.ndarray[Any, Any]:
        steps = np.arange((settings.steps or 0) + 1) * adapting
        return self.start + self.noise[: len(tasks), None] - steps


ROOT = Path(__file__).parents[1]
CONFIG = SupervisedConfig(iterations=1)


def known_experiment(better: Any = "lower") -> Experiment:
    settings = EvaluationSettings(tasks=200, steps=2)

    def published(*estimates: float) -> Mapping[tuple[str, str], Interval]:
        return {
            ("only row", column): Interval(estimate=e, low=e - 0.25, high=e + 0.25)
            for column, e in zip(("after 1", "after 2"), estimates, strict=True)
        }

    return Experiment(
        title="A table",
        paper="Nobody 2000",
        score="error",
        better=better,
        rows="trained on",
        trainings={"only row": {"MAML": CONFIG, "Meta-SGD": CONFIG}},
        columns={f"after {k}": Column(settings=settings, steps=k) for k in (1, 2)},
        published={"MAML": published(9.5, 8.5), "Meta-SGD": published(9.25, 4.25)},
        target="Meta-SGD",
        protocol=("A sentence.",),
        choices=("Another.",),
        unconfirmed={("only row", "after 2")},
        scaled_down="one of two.",
    )


def known_results(experiment: Experiment) -> Results:
    runs: Any = {("only row", "MAML"): KnownRun(10.5), ("only row", "Meta-SGD"): KnownRun(10.0)}
    return measure(experiment, runs, 0)


def record(quick: bool) -> Record:
    return Record(
        name="table",
        stem="table-quick" if quick else "table",
        quick=quick,
        command="mtrl reproduce table",
        commit="unknown",
        versions={"python": "3"},
        cpus=2,
        processes=2,
        parts=[Part("MAML, only row", 61.0, False), Part("Meta-SGD, only row", 5.0, True)],
        test_seconds=1.0,
        total_seconds=3.0,
    )


def test_pairs_cancel_what_they_share_and_the_difference_is_the_other_minus_the_target() -> None:
    results = known_results(known_experiment())
    noise = KnownRun(0.0).noise.mean()
    for cell, k in zip(results.cells, (1, 2), strict=True):
        assert_allclose(cell.ours["MAML"].estimate, 10.5 + noise - k)
        assert_allclose(cell.ours["Meta-SGD"].estimate, 10.0 + noise - k)
        difference = cell.differences["MAML"]
        # The noise is far wider than this, but it is the same for both.
        assert_allclose((difference.mean, difference.low, difference.high), 0.5)
        assert (difference.n, cell.tasks) == (200, 200)


def test_the_page_puts_published_and_our_numbers_side_by_side() -> None:
    experiment = known_experiment()
    results = known_results(experiment)
    page = render_page(experiment, results, record(quick=False))
    first, second = results.cells
    assert (
        f"| only row | after 1 | 9.50 ± 0.25 | {first.ours['MAML']} | 9.25 ± 0.25 | "
        f"{first.ours['Meta-SGD']} | 0.50 [0.50, 0.50] | yes |" in page
    )
    assert f"4.25 ± 0.25† | {second.ours['Meta-SGD']} | 0.50 [0.50, 0.50] | no |" in page
    assert "MAML minus Meta-SGD" in page and "Above zero, Meta-SGD is the better one" in page
    assert "Target met in 1 of 2 cells" in page
    assert "| MAML, only row | 1:01 | trained |" in page
    assert "without the 1 of 2 trainings that were found finished" in page
    for part in ("`mtrl reproduce table`", "Commit: unknown", "python 3", "CPU cores: 2", "0:03"):
        assert part in page
    assert "scaled-down" not in page


def test_of_returns_a_difference_below_zero_is_good() -> None:
    experiment = known_experiment("higher")
    page = render_page(experiment, known_results(experiment), record(quick=False))
    assert "Below zero, Meta-SGD is the better one" in page


@pytest.mark.parametrize(
    ("better", "ours", "difference", "met"),
    [
        ("lower", 9.25, (0.1, 0.2), True),
        ("lower", 9.26, (0.1, 0.2), False),
        ("lower", 9.0, (-0.01, 0.2), False),
        ("lower", 9.0, (-0.2, -0.1), False),
        ("higher", 9.25, (-0.2, -0.1), True),
        ("higher", 9.24, (-0.2, -0.1), False),
        ("higher", 9.5, (-0.2, 0.01), False),
        ("higher", 9.5, (0.1, 0.2), False),
    ],
)
def test_a_target_needs_the_published_number_and_a_paired_interval_without_zero(
    better: str, ours: float, difference: tuple[float, float], met: bool
) -> None:
    low, high = difference
    pair = PairedDifference(mean=low, low=low, high=high, n=9, share_above=0.5, p_value=0.5)
    estimate = Interval(estimate=ours, low=ours, high=ours)
    cell = Cell(
        row="only row",
        column="after 1",
        ours={"MAML": estimate, "Meta-SGD": estimate},
        differences={"MAML": pair},
        tasks=9,
    )
    assert is_met(known_experiment(better), cell) is met


def test_a_table_of_our_own_sets_the_adapted_policy_against_itself_unadapted() -> None:
    base = known_experiment()
    experiment = replace(
        base,
        paper="",
        published={},
        trainings={"only row": {"Meta-SGD": CONFIG}},
        against_unadapted=True,
    )
    results = measure(experiment, {("only row", "Meta-SGD"): KnownRun(10.0)}, 0)
    assert results.met(experiment) == [True, True]
    assert [cell.differences[UNADAPTED].mean for cell in results.cells] == pytest.approx([1, 2])
    page = render_page(experiment, results, record(quick=False))
    assert "2 of 2 cells**: our Meta-SGD ahead of no adaptation by a paired" in page
    assert "aper" not in page
    worse = replace(experiment, better="higher")
    assert results.met(worse) == [False, False]


@pytest.mark.parametrize(
    "name", ["cartpole", "pendulum", "halfcheetah_direction", "halfcheetah_velocity"]
)
def test_tables_of_our_own_have_the_settings_of_the_scripts(name: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / f"train_{name}.py"))
    assert getattr(adaptation, name.upper()) == script["CONFIG"]


def test_a_quick_run_says_so_in_page_scores_and_figure() -> None:
    experiment = known_experiment()
    results = known_results(experiment)
    page = render_page(experiment, results, record(quick=True))
    assert page.splitlines()[0] == "# A table (scaled-down run)"
    assert "not a reproduction" in page and "one of two." in page
    assert "Target met" not in page and page.count("not judged |") == 2
    figures = [draw_figure(experiment, results, record(quick)).get_suptitle() for quick in (0, 1)]
    assert figures == ["A table", "A table (scaled-down run)"]
    for quick, mark in ((True, "quick"), (False, "full")):
        rows = list(csv.DictReader(render_scores(experiment, results, record(quick)).splitlines()))
        assert {row["run"] for row in rows} == {mark}


def test_quick_files_never_replace_full_ones() -> None:
    place = Place(name="x", output=Path("out"), work=Path("runs"), quick=False, seed=0)
    quick = replace(place, quick=True)
    assert place.file("md") == Path("out/x.md")
    assert quick.file("md") == Path("out/x-quick.md")
    assert (place.command, quick.command) == ("mtrl reproduce x", "mtrl reproduce x --quick")
    assert replace(place, seed=4).command == "mtrl reproduce x --seed 4"


# From end to end, tiny

SIZES = RegressionSize(iterations=6, test_curves=20, shots=("5-shot",))
TINY = NavigationSize(
    iterations=2,
    test_tasks=3,
    starts=("varying start",),
    tasks_per_batch=2,
    episodes=2,
    horizon=8,
)
EXPERIMENTS = {
    "meta-sgd-regression": lambda: meta_sgd_grid(SIZES, 0),
    "meta-sgd-navigation": lambda: both_starts(TINY, 0),
    "maml-regression": lambda: one_maml(SIZES, 0),
    "maml-navigation": lambda: point_mass(TINY, 0),
}


def reproduce(name: str, folder: Path) -> Outcome:
    place = Place(
        name=name, output=folder / "results", work=folder / "runs", quick=True, seed=0, processes=2
    )
    return carry_out(EXPERIMENTS[name](), place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduce")


@pytest.fixture(scope="module", params=EXPERIMENTS)
def reproduced(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, Outcome]]:
    yield request.param, reproduce(request.param, folder)


def scores_of(outcome: Outcome) -> list[dict[str, str]]:
    return list(csv.DictReader(outcome.scores.read_text(encoding="utf-8").splitlines()))


def run_directories(name: str, folder: Path) -> list[Path]:
    return sorted((folder / "runs" / f"reproduce-{name}-quick").iterdir())


def sessions(directory: Path) -> int:
    return len(json.loads((directory / "manifest.json").read_bytes())["sessions"])


def test_page_scores_and_figure_agree(reproduced: tuple[str, Outcome]) -> None:
    name, outcome = reproduced
    assert {path.name for path in (outcome.page, outcome.scores, outcome.figure)} == {
        f"{name}-quick.{suffix}" for suffix in ("md", "csv", "png")
    }
    assert outcome.met is None
    assert outcome.page.read_text(encoding="utf-8") == outcome.text
    assert f"({outcome.figure.name})" in outcome.text
    assert outcome.figure.read_bytes().startswith(b"\x89PNG")
    lines = outcome.text.splitlines()
    for row in scores_of(outcome):
        if row["source"] in ("ours", "paired difference"):
            numbers = (float(row[key]) for key in ("estimate", "low", "high"))
            shown = str(Interval(**dict(zip(("estimate", "low", "high"), numbers, strict=True))))
        else:
            shown = f"{float(row['estimate']):.2f}"
        where = [part for part in (row["row"], row["column"]) if part]
        assert any(shown in line and line.startswith("| " + " | ".join(where)) for line in lines)


def test_scores_are_the_means_of_the_runs(reproduced: tuple[str, Outcome], folder: Path) -> None:
    name, outcome = reproduced
    rows = [row for row in scores_of(outcome) if row["source"] == "ours"]
    columns = EXPERIMENTS[name]().columns
    for directory in run_directories(name, folder):
        run = load_run(directory)
        for row in rows:
            if row["learner"] == run.config.learner.name:
                column = columns[row["column"]]
                scores = run.scores(run.unseen_tasks(column.settings), column.settings)
                assert_allclose(float(row["estimate"]), scores[:, column.steps].mean())
                assert int(row["tasks"]) == len(scores)


def test_a_second_run_repeats_no_training(reproduced: tuple[str, Outcome], folder: Path) -> None:
    name, outcome = reproduced
    before = outcome.scores.read_bytes()
    again = reproduce(name, folder)
    assert again.scores.read_bytes() == before
    directories = run_directories(name, folder)
    assert [sessions(directory) for directory in directories] == [1] * len(directories)
    count = len(directories)
    assert f"without the {count} of {count} trainings that were found finished" in again.text


# Trainings

SMALL = SupervisedConfig(
    learner=MAML(step_size=0.01), iterations=30, log_every=10, compile="off", test_tasks=4
)


def training(folder: Path, **changes: Any) -> Training:
    config = replace(SMALL, **changes)
    return Training(name="MAML, a row", config=config, folder=folder, code={"mtrl": "0"})


def wait_until_it_trains(directory: Path) -> None:
    """Wait for the first row of metrics."""
    path = directory / "metrics.csv"
    while not path.exists() or len(path.read_bytes().splitlines()) < 2:
        time.sleep(0.05)


def test_an_interrupted_training_continues_and_ends_where_an_uninterrupted_one_does(
    tmp_path: Path,
) -> None:
    whole, halved = training(tmp_path / "whole"), training(tmp_path / "halved")
    with Run.open(halved.directory, config=SMALL, kind="supervised") as run:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            meta_train_supervised(SMALL, run)
    assert halved.iterations_done == 1
    with Run.open(whole.directory, config=SMALL, kind="supervised") as run:
        meta_train_supervised(SMALL, run)
    train_all([whole, halved], 2)
    assert (sessions(whole.directory), sessions(halved.directory)) == (1, 2)
    expected, found = (load_run(each.directory).meta.named() for each in (whole, halved))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert whole.seconds > 0


def test_another_configuration_or_other_code_starts_afresh(tmp_path: Path) -> None:
    one = training(tmp_path)
    others = [training(tmp_path, seed=1), replace(one, code={"mtrl": "1"})]
    assert len({each.directory for each in (one, training(tmp_path), *others)}) == 3
    assert re.fullmatch("maml-a-row-[0-9a-f]{8}", one.directory.name)


def test_a_failed_training_is_reported_by_name_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(MtrlError, match="MAML, a row failed with exit code 1: .* is (nan|inf)"):
        train_all([training(tmp_path, learning_rate=1e30)], 1)


def test_a_signal_saves_what_is_running(tmp_path: Path) -> None:
    endless = training(tmp_path, iterations=10**9)

    def interrupt_once_it_runs() -> None:
        wait_until_it_trains(endless.directory)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_once_it_runs, daemon=True).start()
    with pytest.raises(Interrupted, match="the same command continues") as raised:
        train_all([endless], 1)
    assert raised.value.exit_code == 130
    assert 0 < endless.iterations_done < 10**9


def test_a_training_ends_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    request = {
        "kind": "supervised",
        "directory": str(tmp_path),
        "config": {"iterations": 10**9, "compile": "off", "log_every": 10},
    }
    command = [sys.executable, "-m", "mtrl.reproduce.worker", json.dumps(request)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        wait_until_it_trains(tmp_path)
        # The end of its standard input is what a worker sees of the death of its parent.
        worker.communicate()
    assert worker.returncode == 128 + signal.SIGTERM
    assert load_run(tmp_path).iteration >= 10
