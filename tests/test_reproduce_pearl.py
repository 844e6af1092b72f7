"""`mtrl reproduce pearl-navigation`: what is counted, what is compared, and the page that says it."""

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtrl.agents.pearl.settings import PEARL
from mtrl.meta.kinds import KINDS
from mtrl.reproduce import REPRODUCTIONS, pearl_navigation
from mtrl.reproduce.carry_out import Outcome
from mtrl.reproduce.pearl_navigation import FULL, TARGET, Curve, steps_until, training_configs
from mtrl.reproduce.trainings import Training
from mtrl.runs import Run

pytest.importorskip("matplotlib")

# What is counted


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([-30, -14, -12, -9], 20),  # from the second evaluation on
        ([-30, -14, -20, -9], 40),  # a dip below starts the count anew
        ([-5, -4, -4, -4], 10),  # from the first evaluation
        ([-30, -14, -12, -16], math.inf),  # not to the end
        ([-30, -15, -15, -15], 20),  # at the level itself
    ],
)
def test_steps_count_until_the_return_stays(returns: list[float], expected: float) -> None:
    assert steps_until(Curve([10, 20, 30, 40], returns), -15.0) == expected


def curve(reached: float) -> Curve:
    return Curve([0, reached, 1e6], [-40, TARGET, TARGET])


@pytest.mark.parametrize(
    ("pearl", "rl2", "met"),
    [
        ([10, 20], [30, 40], True),
        ([10, 30], [30, 40], False),  # the slowest of one against the quickest of the other
        ([10, 50], [30, 40], False),
        ([10, 20], [2e6, 2e6], True),
    ],
)
def test_the_target_needs_every_training(
    pearl: Sequence[float], rl2: Sequence[float], met: bool
) -> None:
    never: Any = Curve([0, 1], [-40, -40])
    curves = {
        "PEARL": [curve(reached) for reached in pearl],
        "RL2": [never if reached > 1e6 else curve(reached) for reached in rl2],
    }
    unused: Any = None
    made = pearl_navigation.Made(
        trainings={},
        curves=curves,
        returns={},
        anchors={},
        scale=FULL,
        place=unused,
        record=unused,
    )
    assert made.met == met


# What is compared


def test_both_learners_meet_the_same_tasks_and_episodes() -> None:
    pearl, recurrent = training_configs(FULL, 3).values()
    for name in ("family", "preset", "family_options", "seed", "test_tasks", "test_steps"):
        assert getattr(pearl, name) == getattr(recurrent, name), name
    assert pearl.episodes_per_task == recurrent.episodes_per_task == 1
    assert pearl.max_episode_steps is None and recurrent.max_episode_steps is None


# The whole, tiny


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    place = tmp_path_factory.mktemp("pearl-navigation")
    configs = pearl_navigation.training_configs

    def tiny(scale: pearl_navigation.Scale, seed: int) -> dict[str, Any]:
        pearl, recurrent = configs(scale, seed).values()
        options = {"horizon": 5}
        small = PEARL(latent=2, hidden=(8,), encoder_hidden=(8,))
        sparing: dict[str, Any] = {"learner": small, "gradient_steps": 2, "replay_size": 500}
        return {
            "PEARL": replace(pearl, family_options=options, **sparing),
            "RL2": replace(recurrent, family_options=options, tasks_per_batch=8),
        }

    def train_here(trainings: Sequence[Training], processes: int) -> None:
        for training in trainings:
            with Run.open(training.directory, config=training.config, kind=training.kind) as run:
                KINDS[training.kind].train(training.config, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)
        patch.setattr(pearl_navigation, "training_configs", tiny)
        patch.setattr(pearl_navigation, "train_all", train_here)
        return REPRODUCTIONS["pearl-navigation"].run(place, quick=True, work=place / "runs")


def test_a_quick_run_is_not_judged_and_says_so(outcome: Outcome) -> None:
    assert outcome.met is None
    assert outcome.text.startswith("# PEARL and RL² on 2-D navigation (scaled-down run)")
    assert "Target" not in outcome.text
    assert outcome.page.name == "pearl-navigation-quick.md" and outcome.figure.stat().st_size > 0


def test_the_scores_have_every_training_and_point(outcome: Outcome) -> None:
    with outcome.scores.open() as file:
        rows = list(csv.DictReader(file))
    seeds = {(row["learner"], row["seed"]) for row in rows if row["seed"]}
    assert seeds == {(name, seed) for name in ("PEARL", "RL2") for seed in ("0", "1")}
    logged = [row for row in rows if row["quantity"].startswith("held-out")]
    assert len(logged) == 2 * 2 * 2
    episodes = {row["quantity"] for row in rows if row["quantity"].endswith("unseen tasks")}
    assert len(episodes) == pearl_navigation.EPISODES
    exact = {row["learner"]: float(row["value"]) for row in rows if not row["seed"]}
    assert exact["standing still"] < exact["best possible"] < 0


@pytest.mark.slow
def test_pearl_needs_fewer_environment_steps_than_rl2(tmp_path: Path) -> None:
    """The evidence, some ten minutes on two cores: `mtrl reproduce pearl-navigation`."""
    outcome = REPRODUCTIONS["pearl-navigation"].run(tmp_path, work=tmp_path / "runs")
    assert outcome.met
