"""With and without an expert first: what counts as used, as reached and as kept, and pages that say it."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.agents.experts import PolicyExpert
from mtrl.reproduce import REPRODUCTIONS, find_reproduction, q_pretraining
from mtrl.reproduce.carry_out import Place, record_of
from mtrl.reproduce.q_pretraining import jobs_of
from mtrl.reproduce.q_pretraining_results import Comparison, claims, on_grid
from mtrl.reproduce.q_pretraining_training import (
    SETUPS,
    Curve,
    Setup,
    expert_of,
    greedy_returns,
    random_player,
    train,
)


def tiny(task: str) -> Setup:
    return replace(
        SETUPS[task],
        teaching_episodes=4,
        offline_updates=5 * (SETUPS[task].method == "dqfd"),
        scratch_episodes=8,
        later_episodes=4,
        evaluate_every=2,
        settling_updates=3,
        test_episodes=2,
        environments=2,
        updates_per_episode=2,
        hidden=(8,),
    )


def curve(used: Sequence[float], returns: Sequence[float], switch: int = -1) -> Curve:
    return Curve(
        used=np.array(used, float),
        returns=np.array(returns, float),
        expert=100.0,
        switch=switch,
        training_returns=np.zeros(3),
    )


def compared(
    scratch: Sequence[float], pretrained: Sequence[float], after: float = 90.0
) -> Comparison:
    """Return a comparison whose seeds reach the level after these episodes, of at most 100 and 30."""
    setup = replace(SETUPS["cart-pole"], teaching_episodes=10, scratch_episodes=100)
    return Comparison(
        task="cart-pole",
        setup=replace(setup, later_episodes=20),
        expert=100.0,
        random=0.0,
        curves={
            "scratch": [
                curve([1, each, each + 1, each + 2, 100], [0, 96, 96, 96, 50]) for each in scratch
            ],
            "pretrained": [
                curve([each, 8.5, 9, 10, 20, 30], [96, 96, 96, 80, after, 95], switch=3)
                for each in pretrained
            ],
        },
    )


# Trainings


def test_players_are_paid_by_the_environment_alone() -> None:
    setup = SETUPS["cart-pole"]
    assert_array_equal(greedy_returns(setup, expert_of(setup), episodes=3, seed=0), 500.0)
    falling = greedy_returns(setup, random_player(setup, 0), episodes=20, seed=0)
    assert 10 < falling.mean() < 35
    car = SETUPS["mountain car"]
    still = PolicyExpert(lambda seen: np.ones(len(seen), int))
    assert_array_equal(greedy_returns(car, still, episodes=2, seed=0), -200.0)
    assert (greedy_returns(car, expert_of(car), episodes=5, seed=0) > -135).all()


def test_from_scratch_every_episode_is_the_agents_own() -> None:
    made = train(tiny("cart-pole"), "scratch", 100)
    assert made.switch == -1
    assert made.used[-1] == 8
    assert (np.diff(made.used) > 0).all()
    assert len(made.training_returns) == 8


@pytest.mark.parametrize("task", ["cart-pole", "mountain car"])
def test_what_the_expert_teaches_with_counts_as_used(task: str) -> None:
    setup = tiny(task)
    made = train(setup, "pretrained", 100)
    assert made.used[made.switch] == 4
    assert made.used[-1] == 8
    # Imitation of demonstrations takes no episode of the agent's own.
    own = 4 if setup.method == "dqfd" else 8
    assert len(made.training_returns) == own
    assert (made.switch == 0) == (setup.method == "dqfd")


def test_the_same_seed_trains_alike_and_survives_json() -> None:
    made = [train(tiny("mountain car"), "pretrained", seed).to_json() for seed in (100, 100)]
    assert made[0] == made[1]
    assert Curve.from_json(made[0]).to_json() == made[0]


# Results


def test_a_level_is_reached_at_the_first_of_three_evaluations_that_have_it() -> None:
    made = curve([10, 20, 30, 40, 50, 60], [99, 50, 95, 96, 95, 99])
    assert made.reached(95.0) == 30
    assert np.isnan(made.reached(95.5))
    assert made.reached(50.0) == 10
    assert np.isnan(curve([10, 20], [99, 99]).reached(95.0))


def test_a_seed_that_never_gets_there_counts_with_all_of_its_episodes() -> None:
    made = compared([60, 80], [5, 8])
    never = replace(made, expert=200.0, curves=made.curves, random=0.0)
    assert_array_equal(made.episodes("scratch"), [60, 80])
    assert_array_equal(made.episodes("pretrained"), [5, 8])
    assert made.ratio.estimate == pytest.approx(6.5 / 70)
    high = replace(
        never, curves={k: [replace(c, expert=200.0) for c in v] for k, v in made.curves.items()}
    )
    assert np.isnan(high.reached("scratch")).all()
    assert_array_equal(high.episodes("scratch"), [100, 100])
    assert_array_equal(high.episodes("pretrained"), [30, 30])


def test_the_level_is_of_the_experts_own_return_on_the_same_episodes() -> None:
    made = replace(compared([60, 80], [5, 8]), random=-100.0)
    assert made.level(100.0) == pytest.approx(80.0)
    assert made.level(0.0) == pytest.approx(-10.0)


def test_what_is_kept_is_counted_from_random_actions_on() -> None:
    made = replace(compared([60, 80], [5, 8], after=30.0), random=-20.0)
    assert_allclose(made.kept, [50 / 100, 50 / 100])


@pytest.mark.parametrize(
    ("scratch", "pretrained", "after", "holds"),
    [
        ([60, 80, 70], [5, 8, 6], 90.0, [True, True]),
        ([60, 80, 70], [5, 8, 6], 39.0, [True, False]),
        ([10, 14, 12], [5, 8, 6], 90.0, [False, True]),
        # The estimate is below a third, and the interval is not.
        ([20, 20, 20], [2, 2, 14], 90.0, [False, True]),
    ],
)
def test_claims_are_those_of_the_curves(
    scratch: list[float], pretrained: list[float], after: float, holds: list[bool]
) -> None:
    assert list(claims([compared(scratch, pretrained, after)]).values()) == holds


def test_curves_are_read_at_their_latest_evaluation() -> None:
    made = on_grid([curve([2, 4], [10, 20])], np.array([1.0, 2.0, 3.0, 4.0, 9.0]))
    assert_array_equal(made, [[np.nan, 10, 10, 20, 20]])


# The page


def test_every_training_is_its_own_file(tmp_path: Path) -> None:
    made = jobs_of(SETUPS, range(3), tmp_path, {})
    assert len({job.file for job in made.values()}) == len(made) == 12
    assert {job.name for job in made.values()} >= {"mountain car, from scratch, seed 2"}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a quick outcome of tiny trainings of one seed and one task."""
    folder = tmp_path_factory.mktemp("q-pretraining")
    place = Place(
        name="q-pretraining",
        output=folder / "out",
        work=folder / "work",
        quick=True,
        seed=0,
        processes=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(q_pretraining, "QUICK_SETUPS", {"cart-pole": tiny("cart-pole")})
        patch.setattr(q_pretraining, "QUICK_SEEDS", 1)
        patch.setattr(q_pretraining, "REFERENCE_EPISODES", 4)
        yield q_pretraining.q_pretraining_table(place)


def test_a_quick_run_says_so_and_is_not_judged(outcome: Any) -> None:
    assert outcome.met is None
    assert outcome.page.name == "q-pretraining-quick.md"
    assert "scaled-down run" in outcome.text
    assert "claims hold" not in outcome.text
    assert outcome.figure.stat().st_size > 10_000


def test_the_pages_numbers_are_those_of_the_trainings(outcome: Any) -> None:
    made = train(tiny("cart-pole"), "scratch", 0)
    rows = list(csv.DictReader(io.StringIO(outcome.scores.read_text())))
    found = [
        (float(row["used"]), float(row["value"]))
        for row in rows
        if row["start"] == "scratch" and row["quantity"] == "greedy return"
    ]
    assert_array_equal(np.array(found), np.stack([made.used, made.returns], 1))
    line = next(line for line in outcome.text.splitlines() if line.startswith("| cart-pole | "))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[2:4] == ["500", "AQIL"]
    assert re.findall(r"\d+", cells[4])[0] == "8"
    assert "0 of 1 seeds get there" in cells[4]


def test_the_full_page_states_claims_ratio_and_what_is_kept() -> None:
    place = Place(name="q-pretraining", output=Path(), work=Path(), quick=False, seed=0)
    record = record_of(place, "abc", 1.0)
    page = q_pretraining._page([compared([60, 80], [5, 8], after=39.0)], record)
    assert "**1 of 2 claims hold.**" in page
    assert page.count("- NO: ") == 1
    assert "70 [60, 80]" in page
    assert "| 49% |" in page


def test_the_reproduction_is_registered() -> None:
    assert "q-pretraining" in REPRODUCTIONS
    assert find_reproduction("q-pretraining").builder.endswith(":q_pretraining_table")
