"""`mtrl reproduce lifelong`: what is counted, what is claimed, and that finished lives are kept."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.errors import MtrlError
from mtrl.interrupts import Interrupted
from mtrl.reproduce import REPRODUCTIONS, lifelong, lifelong_claims, lifelong_lives
from mtrl.reproduce.lifelong_claims import (
    LEFT_BIASED,
    LEFT_FREE,
    PAPER,
    PROGRESS_BIASED,
    PROGRESS_FREE,
    Summary,
    claims,
    curve,
    ratio,
    summarise,
)
from mtrl.reproduce.lifelong_lives import (
    CONDITIONS,
    LifeRecord,
    Plan,
    Stopped,
    live,
    load_or_live,
)

SMALL = Plan(steps=30_000, steps_of_q=10_000, probe_every=5_000, lives=2)
LONG = Plan(steps=100, steps_of_q=100, probe_every=10, lives=2)
NAN = float("nan")


def never() -> bool:
    return False


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def record_with(success: Sequence[float], short: Sequence[bool] = ()) -> LifeRecord:
    n = len(success)
    return LifeRecord(
        condition="made up",
        seed=0,
        success=list(success),
        short_way=list(short) or [False] * n,
        left=[place < 6 for place in range(n)],
        completed=[4] * n,
        in_time=list(range(n)),
        heard=[0] * n,
        seconds=0.0,
    )


# What is counted


def test_steps_are_counted_to_the_first_probe_from_which_on_it_holds() -> None:
    record = record_with([1.0])
    assert record.first_lasting([False, True, False, True, True]) == 4
    assert record.first_lasting([True, True]) == 1
    assert record.first_lasting([True, False]) is None
    assert record.first_lasting([]) is None


def test_a_summary_by_hand() -> None:
    late = record_with([0.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [False] * 7 + [True] * 3)
    never_there = record_with([1.0] * 9 + [0.5])
    summary = summarise(PROGRESS_BIASED, [late, never_there], LONG)
    assert_array_equal(summary.success, [40, NAN])
    assert_array_equal(summary.short_way, [80, NAN])
    # The life that succeeds does so at its fourth probe, of which the first six go left.
    assert summary.lured == [True]
    # The last tenth is the last of ten probes: 9 of 4 errands, as made up.
    assert_allclose(summary.in_time, [9 / 4, 9 / 4])
    assert_array_equal(summary.final, [1.0, 0.5])
    assert summary.reached(summary.success) == 1
    assert summary.mean(summary.success, generator()) is None
    both = summarise(PROGRESS_BIASED, [late, late], LONG)
    assert both.mean(both.success, generator()).estimate == 40  # type: ignore[union-attr]  # both are there


def test_a_curve_is_the_mean_over_lives_within_its_bounds() -> None:
    records = [record_with([0.0, 0.5, 1.0]), record_with([0.0, 0.0, 1.0])]
    mean, low, high = curve(records, generator())
    assert_allclose(mean, [0.0, 0.25, 1.0])
    assert_allclose([low, high], [[0.0, 0.0, 1.0], [0.0, 0.5, 1.0]])


def test_the_ratio_of_means_and_its_interval() -> None:
    rng = np.random.default_rng(3)
    fast, slow = rng.normal(10, 1, 200), rng.normal(40, 4, 200)
    found = ratio(slow, fast, generator())
    assert_allclose(found.estimate, slow.mean() / fast.mean())
    # By the delta method the error of the ratio is 4 * sqrt(0.1^2 / 200 + 0.1^2 / 200) = 0.04.
    assert_allclose((found.high - found.low) / 2, 1.96 * 0.04, rtol=0.15)
    assert found.low < 4 < found.high


# What is claimed


def made_up(
    success: Sequence[float], short: Sequence[float], lured: Sequence[bool] = (True,) * 4
) -> Summary:
    return Summary(
        condition=PROGRESS_FREE,
        steps=100,
        success=np.array(success),
        short_way=np.array(short),
        lured=lured,
        final=np.isfinite(success).astype(float),
        in_time=np.zeros(4),
    )


def verdicts(**changes: Summary) -> list[bool]:
    good = {
        "free": made_up([50, 60, 70, NAN], [NAN] * 4),
        "biased": made_up([10, 12, 14, 16], [NAN] * 4),
        "misled": made_up([NAN] * 4, [NAN] * 4, ()),
        "overcoming": made_up([10, 20, 30, 40], [60, 70, 80, 90]),
    } | changes
    keys = PROGRESS_FREE, PROGRESS_BIASED, LEFT_FREE, LEFT_BIASED
    names = "free", "biased", "misled", "overcoming"
    summaries = {key: good[name] for key, name in zip(keys, names, strict=True)}
    return list(claims(summaries, generator())[0].values())


def test_claims_hold_for_what_they_say_and_a_claim_that_fails_is_seen() -> None:
    assert verdicts() == [True] * 6
    assert verdicts(biased=made_up([10, 12, 14, NAN], [NAN] * 4))[0] is False
    # Three times as slow in the mean, but the interval goes below two.
    wide = verdicts(free=made_up([10, 20, 30, 100], [NAN] * 4))
    assert wide == [True, False, True, True, True, True]
    # One life of four that succeeds is not all of them; four are.
    assert verdicts(misled=made_up([NAN, NAN, 99, NAN], [NAN] * 4))[2] is True
    assert verdicts(misled=made_up([99] * 4, [NAN] * 4))[2] is False
    assert verdicts(overcoming=made_up([10, 20, 30, NAN], [60, 70, 80, 90]))[3] is False
    honest = made_up([10, 20, 30, 40], [60, 70, 80, 90], (True, True, False, False))
    assert verdicts(overcoming=honest) == [True, True, True, True, False, True]
    assert verdicts(overcoming=made_up([10, 20, 30, 40], [60, 70, 80, NAN]))[5] is False


def test_a_life_without_success_counts_with_all_of_its_steps() -> None:
    free, biased = made_up([NAN] * 4, [NAN] * 4), made_up([10] * 4, [NAN] * 4)
    other = made_up([NAN] * 4, [NAN] * 4)
    summaries = {PROGRESS_FREE: free, PROGRESS_BIASED: biased, LEFT_FREE: other, LEFT_BIASED: other}
    assert claims(summaries, generator())[1].estimate == 10.0


def test_the_papers_conditions_come_first_and_ours_is_not_compared() -> None:
    assert list(PAPER) == list(CONDITIONS[:4])
    assert len({condition.name for condition in CONDITIONS}) == len(CONDITIONS)


# Lives that are kept


def same(one: LifeRecord, other: LifeRecord) -> bool:
    return replace(one, seconds=0.0) == replace(other, seconds=0.0)


def test_a_life_is_its_conditions_and_its_seeds() -> None:
    first = live(PROGRESS_BIASED, 0, SMALL, never)
    assert same(first, live(PROGRESS_BIASED, 0, SMALL, never))
    assert not same(first, replace(live(PROGRESS_BIASED, 1, SMALL, never), seed=0))
    assert len(first.success) == 6 and sum(first.heard) > 1000
    assert len(live(CONDITIONS[-1], 0, SMALL, never).success) == 2


def test_a_kept_life_is_not_lived_again_unless_it_would_be_another(tmp_path: Path) -> None:
    lived, found = load_or_live(LEFT_BIASED, 3, SMALL, tmp_path, never)
    assert not found
    again, found = load_or_live(LEFT_BIASED, 3, SMALL, tmp_path, never)
    assert found and again == lived
    more = replace(SMALL, lives=50)
    assert load_or_live(LEFT_BIASED, 3, more, tmp_path, never) == (lived, True)
    longer, found = load_or_live(LEFT_BIASED, 3, replace(SMALL, steps=35_000), tmp_path, never)
    assert not found and longer.success[:6] == lived.success
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:40])
    with pytest.raises(MtrlError, match=r"-3\.json is damaged .*; delete it"):
        load_or_live(LEFT_BIASED, 3, SMALL, tmp_path, never)


def test_a_life_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    asked: list[int] = []

    def after_two() -> bool:
        asked.append(0)
        return len(asked) > 2

    with pytest.raises(Stopped):
        load_or_live(PROGRESS_FREE, 0, SMALL, tmp_path, after_two)
    assert list(tmp_path.iterdir()) == []


# The command


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifelong, "QUICK_PLAN", SMALL)
    monkeypatch.setattr(lifelong, "FULL", SMALL)


def test_interrupted_and_called_again_it_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    reproduction = REPRODUCTIONS["lifelong"]
    whole = reproduction.run(tmp_path / "whole", quick=True, work=tmp_path / "a")
    lives = 0

    class Signalled(lifelong.Interrupts):
        def __enter__(self) -> Self:
            self.signal_number = 15
            return self

    def three_lives(*arguments: object) -> object:
        nonlocal lives
        lives += 1
        # The fourth life is asked to stop at its first probe.
        asked = (lambda: False) if lives <= 3 else arguments[4]
        return load_or_live(*arguments[:4], asked)  # type: ignore[arg-type]  # passed on

    with monkeypatch.context() as patch:
        patch.setattr(lifelong, "Interrupts", Signalled)
        patch.setattr(lifelong, "load_or_live", three_lives)
        with pytest.raises(Interrupted, match="the same command goes on") as caught:
            reproduction.run(tmp_path / "cut", quick=True, work=tmp_path / "b")
    assert caught.value.exit_code == 143
    assert not (tmp_path / "cut").exists()
    assert len(list((tmp_path / "b" / "reproduce-lifelong-quick").iterdir())) == 3
    resumed = reproduction.run(tmp_path / "cut", quick=True, work=tmp_path / "b")
    assert resumed.scores.read_bytes() == whole.scores.read_bytes()
    assert "of which 3 were found finished" in resumed.text
    other = reproduction.run(tmp_path / "other", quick=True, seed=1, work=tmp_path / "c")
    assert other.scores.read_bytes() != whole.scores.read_bytes()


def test_a_quick_run_writes_page_numbers_and_figure_and_judges_nothing(
    tmp_path: Path, small: None
) -> None:
    outcome = REPRODUCTIONS["lifelong"].run(tmp_path / "out", quick=True, work=tmp_path)
    assert outcome.met is None and "scaled-down run" in outcome.text
    assert "claims hold" not in outcome.text
    assert outcome.page.read_text() == outcome.text
    assert outcome.figure.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(outcome.scores.read_text().splitlines()))
    kept = sorted((tmp_path / "reproduce-lifelong-quick").iterdir())
    records = [json.loads(path.read_text())["record"] for path in kept]
    assert len(records) == SMALL.lives * len(CONDITIONS)
    table = [line for line in outcome.text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(CONDITIONS) and len({line.count("|") for line in table}) == 1
    for condition in CONDITIONS:
        assert f"| {condition.name} | {PAPER.get(condition, '-')} |" in outcome.text
        mine = [r["success"] for r in records if r["condition"] == condition.name]
        drawn = [
            float(row["value"])
            for row in rows
            if row["condition"] == condition.name and row["quantity"] == "success"
        ]
        assert_allclose(drawn, np.mean(mine, axis=0))


def test_a_full_run_that_misses_a_claim_says_so(tmp_path: Path, small: None) -> None:
    outcome = REPRODUCTIONS["lifelong"].run(tmp_path / "out", work=tmp_path)
    # Nobody learns in so short a life.
    assert outcome.met is False
    assert "- NO: With progress guidance every biased life reaches 100 % success" in outcome.text
    assert "- Yes: With sub-optimal guidance the unbiased lives are not at 100 %" in outcome.text


def test_plans_say_how_many_probes_a_life_has() -> None:
    assert SMALL.probes(CONDITIONS[0]) == 6 and SMALL.probes(CONDITIONS[-1]) == 2
    full = lifelong_lives.FULL
    assert full.lives >= 5 and full.probes(CONDITIONS[0]) == 300
    assert lifelong_claims.RESAMPLES >= 10_000
