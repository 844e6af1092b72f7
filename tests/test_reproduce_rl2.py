"""`mtrl reproduce rl2-bandits`: what is measured, what is judged, and that nothing is done twice."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from resumption import no_matplotlib

from mtrl.agents.bandits import gittins
from mtrl.agents.bandits.policies import BanditAgent, Greedy
from mtrl.errors import MtrlError
from mtrl.evaluation.statistics import Interval
from mtrl.meta import watching
from mtrl.meta.kinds import get_kind
from mtrl.reproduce import REPRODUCTIONS, rl2_bandits, rl2_results, rl2_trainings
from mtrl.reproduce.carry_out import Outcome, Place
from mtrl.reproduce.rl2_bandits import PUBLISHED, rl2_bandits_table
from mtrl.reproduce.rl2_results import Rewards, Row, ratio_interval
from mtrl.reproduce.rl2_trainings import (
    FULL,
    SETTINGS,
    Scale,
    Setting,
    training_config,
    trainings_of,
)
from mtrl.reproduce.trainings import Training
from mtrl.runs import MANIFEST, Run

pytest.importorskip("matplotlib")

TWO = (SETTINGS[0], SETTINGS[3])
TINY = Scale(iterations=dict(zip(TWO, (2, 1), strict=True)), seeds=2, bandits=30, tuning=10)


# What is measured


def test_a_ratio_is_of_means_and_pairs_cancel() -> None:
    rng = np.random.default_rng(0)
    reference = rng.uniform(1.0, 100.0, 200)
    exact = ratio_interval(0.97 * reference[None], reference, rng)
    assert_allclose([exact.estimate, exact.low, exact.high], 0.97, rtol=1e-12)
    # Not the mean of the ratios, which rare small references would rule.
    two = ratio_interval(np.array([[1.0, 3.0]]), np.array([2.0, 4.0]), rng)
    assert_allclose(two.estimate, 4 / 6)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        reference = rng.normal(10.0, 3.0, 120)
        values = (0.9 * reference + rng.normal(0.0, 1.0, 120))[None]
        found = ratio_interval(values, reference, rng, resamples=200)
        held += found.low <= 0.9 <= found.high
    assert 178 <= held <= 199


def test_the_interval_counts_the_trainings() -> None:
    rng = np.random.default_rng(2)
    reference = np.full(500, 10.0)
    apart = ratio_interval(np.stack([reference, 0.9 * reference]), reference, rng)
    assert_allclose([apart.low, apart.estimate, apart.high], [0.9, 0.95, 1.0])


def test_policies_meet_the_same_payments() -> None:
    """Whatever they draw for themselves: a policy that ties in other ways meets the same noise."""

    class Wasteful(Greedy):
        def scores(
            self,
            payments: np.ndarray,
            failures: np.ndarray,
            pulled: int,
            rng: np.random.Generator,
        ) -> np.ndarray:
            # The first arm always.
            rng.random(1000)
            return np.eye(1, payments.shape[1]) + np.zeros(payments.shape)

    setting = Setting(10, 5)
    tasks = setting.family.sample(50, np.random.default_rng(0), "test")
    first, second = (
        rl2_results._rewards(setting, tasks, 0, BanditAgent(policy, 5))
        for policy in (Wasteful(), Wasteful("other"))
    )
    assert_array_equal(first, second)


def rewards(estimate: float, low: float) -> Rewards:
    def interval(estimate: float, low: float) -> Interval:
        return Interval(estimate=estimate, low=low, high=estimate + 0.01)

    row = Row(reward=interval(78.0 * estimate, 70.0), share=interval(estimate, low))
    return Rewards(
        setting=SETTINGS[2],
        bandits=10,
        rows={"RL2": row},
        seeds=[1.0],
        shares=[1.0],
        width=0.2,
        best_arm=80.0,
        optimal=None,
    )


def test_the_target_needs_the_whole_interval_and_the_papers_number() -> None:
    assert rewards(0.97, 0.955).met(None)
    assert not rewards(0.97, 0.949).met(None)
    assert rewards(0.97, 0.955).met(78.3)
    assert not rewards(0.97, 0.955).met(80.0)


def test_published_numbers_are_of_the_settings() -> None:
    for numbers in PUBLISHED.values():
        assert set(numbers) < set(SETTINGS)


def test_trainings_differ_in_seed_and_bandits_only(tmp_path: Path) -> None:
    made = trainings_of(FULL, 0, tmp_path, "abc")
    directories = {each.directory for group in made.values() for each in group}
    assert len(directories) == FULL.seeds * len(SETTINGS)
    for setting, group in made.items():
        first, *others = (each.config for each in group)
        assert all(replace(other, seed=first.seed) == first for other in others)
        assert first.family_options == {"arms": setting.arms, "horizon": setting.pulls}
        # An episode is a trial: the agent forgets at its end.
        assert training_config(setting, FULL, 0).episodes_per_trial == 1


# The whole, tiny


def table(directory: Path, patch: pytest.MonkeyPatch, trained: list[str], stop: int) -> Outcome:
    def here(trainings: Sequence[Training], processes: int) -> None:
        for training in trainings:
            if training.finished:
                continue
            if len(trained) == stop:
                raise MtrlError("stopped here")
            trained.append(training.name)
            resume = (training.directory / MANIFEST).exists()
            opened = Run.open(
                training.directory, config=training.config, kind=training.kind, resume=resume
            )
            with opened as run:
                get_kind(training.kind).train(training.config, run)

    for module in (rl2_bandits, rl2_trainings):
        patch.setattr(module, "SETTINGS", TWO)
    patch.setattr(rl2_bandits, "FULL", TINY)
    patch.setattr(watching, "find_spec", no_matplotlib)
    # Coarser indices take a fraction of the time.
    patch.setattr(gittins, "CHARGES", 65)
    patch.setattr(rl2_bandits, "train_all", here)
    place = Place(
        name="rl2-bandits",
        output=directory / "out",
        work=directory / "work",
        quick=False,
        seed=0,
        processes=1,
    )
    return rl2_bandits_table(place)


def test_stopped_and_continued_it_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[str] = []
    with pytest.raises(MtrlError, match="stopped here"):
        table(tmp_path, monkeypatch, first, stop=3)
    rest: list[str] = []
    outcome = table(tmp_path, monkeypatch, rest, stop=100)
    assert len(first) == 3
    assert len(rest) == 1
    assert not set(first) & set(rest)
    nothing: list[str] = []
    again = table(tmp_path, monkeypatch, nothing, stop=0)
    numbers, _, _ = outcome.text.partition("## How this was made")
    assert again.text.startswith(numbers)
    assert again.met is False
    assert "**Target met in 0 of 2 settings**" in numbers
    _check_scores(again)


def _check_scores(outcome: Outcome) -> None:
    with outcome.scores.open() as file:
        lines = list(csv.DictReader(file))
    keys = [
        (row["pulls"], row["arms"], row["policy"], row["quantity"], row["seed"]) for row in lines
    ]
    assert len(set(keys)) == len(keys)
    by_key = {key: float(row["estimate"]) for key, row in zip(keys, lines, strict=True)}
    for pulls, arms in (("10", "5"), ("100", "10")):
        each = [by_key[pulls, arms, "RL2", "reward", seed] for seed in ("0", "1")]
        mean = by_key[pulls, arms, "RL2", "reward", ""]
        assert_allclose(np.mean(each), mean)
        gittins = by_key[pulls, arms, "Gittins", "reward", ""]
        assert_allclose(by_key[pulls, arms, "RL2", "share of Gittins", ""], mean / gittins)
    assert_allclose(by_key["10", "5", "Bayes-optimal", "reward", ""], 6.66, atol=0.001)


def test_it_is_a_reproduction() -> None:
    assert REPRODUCTIONS["rl2-bandits"]._load() is rl2_bandits_table
