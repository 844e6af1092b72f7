"""From five tasks to five new ones: tasks, trainings, what counts as solved, and pages that say it."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mtrl.agents.experts import TaskExperts, scripted_expert
from mtrl.reproduce import REPRODUCTIONS, find_reproduction, multitask_pretraining
from mtrl.reproduce.carry_out import Place, record_of
from mtrl.reproduce.multitask_pretraining import jobs_of
from mtrl.reproduce.multitask_pretraining_results import Comparison, claims
from mtrl.reproduce.multitask_pretraining_training import (
    Curve,
    Settings,
    all_tasks,
    greedy_returns,
    make_agent,
    task_env,
    train,
)

TINY = Settings(
    old_tasks=2,
    new_tasks=2,
    teaching_steps=80,
    steps=80,
    evaluate_every=40,
    test_episodes=1,
    environments_per_task=1,
    hidden=(8,),
)


def curve(steps: Sequence[float], returns: Sequence[Sequence[float]]) -> Curve:
    return Curve(
        steps=np.array(steps, float), returns=np.array(returns, float), old_returns=np.zeros(2)
    )


def compared(scratch: Sequence[float], pretrained: Sequence[float]) -> Comparison:
    """Return a comparison whose seeds solve their tasks after these steps, of at most 1,000."""
    settings = replace(Settings(), steps=1_000, teaching_steps=100)
    made = {
        start: [curve([0, max(each, 1), 1_000], [[0, 0], [400, 560], [500, 500]]) for each in steps]
        for start, steps in (("scratch", scratch), ("pretrained", pretrained))
    }
    return Comparison(settings=settings, experts=np.full(len(scratch), 500.0), curves=made)  # type: ignore[arg-type]


def test_new_tasks_are_of_the_other_split_and_seeds_have_their_own() -> None:
    one, other = (all_tasks(TINY, seed) for seed in (0, 1))
    assert [task.split for task in one] == ["train", "train", "test", "test"]
    assert len({task.id for task in one + other}) == 8
    assert [task.id for task in all_tasks(TINY, 0)] == [task.id for task in one]


def test_environments_play_some_tasks_and_tell_which_of_all() -> None:
    tasks = all_tasks(TINY, 0)
    env = task_env(TINY, tasks, tasks[2:])
    assert_array_equal(np.asarray(env.reset())[:, 4:], np.eye(4)[2:])


def test_the_network_cannot_see_which_task_it_plays() -> None:
    tasks = all_tasks(TINY, 0)
    agent = make_agent(TINY, 0, task_env(TINY, tasks, tasks[2:]))
    state = np.tile(np.array([0.1, -0.2, 0.05, 0.3], np.float32), (4, 1))
    seen = agent.policy.obs_to_tensor(np.concatenate([state, np.eye(4, dtype=np.float32)], 1))[0]
    values = agent.q_net(seen).detach().numpy()
    assert_array_equal(values, np.repeat(values[:1], 4, 0))


def test_experts_solve_their_tasks_and_a_wrong_one_does_not() -> None:
    tasks = all_tasks(TINY, 0)
    experts = TaskExperts([scripted_expert(task) for task in tasks])
    assert_array_equal(greedy_returns(TINY, tasks, tasks[2:], experts, 0), [500, 500])
    swapped = TaskExperts([_Left() for _ in tasks])
    assert (greedy_returns(TINY, tasks, tasks[2:], swapped, 0) < 15).all()


class _Left:
    def actions(self, observations: Any) -> Any:
        return np.zeros(len(observations), np.int64)


def test_both_starts_are_evaluated_on_the_new_tasks_after_the_same_steps() -> None:
    made = {start: train(TINY, start, 100) for start in ("scratch", "pretrained")}  # type: ignore[arg-type]
    assert_array_equal(made["scratch"].steps, made["pretrained"].steps)
    assert made["scratch"].steps[0] == 0
    assert made["scratch"].steps[-1] == 80
    assert made["scratch"].returns.shape == (len(made["scratch"].steps), 2)
    assert len(made["pretrained"].old_returns) == 2
    assert len(made["scratch"].old_returns) == 0
    again = train(TINY, "pretrained", 100)
    assert again.to_json() == made["pretrained"].to_json()
    assert Curve.from_json(again.to_json()).to_json() == again.to_json()


def test_tasks_are_solved_together_at_the_first_mean_that_is_high_enough() -> None:
    made = curve([0, 10, 20, 30], [[0, 0], [500, 300], [480, 470], [500, 500]])
    assert made.all_solved(475) == 20
    assert made.all_solved(500) == 30
    assert np.isnan(made.all_solved(501))
    assert_array_equal(made.solved(475), [10, 30])
    assert_array_equal(made.solved(501), [np.nan, np.nan])


def test_a_seed_that_never_gets_there_counts_with_all_of_its_steps() -> None:
    made = replace(compared([400, 600], [100, 50]), experts=np.array([500.0, 540.0]))
    assert_array_equal(made.reached("scratch"), [400, np.nan])
    assert_array_equal(made.steps("scratch"), [400, 1_000])
    assert_array_equal(made.steps("pretrained"), [100, 1_000])


def test_steps_of_imitation_are_counted_where_asked() -> None:
    made = compared([400, 600], [100, 50])
    assert_array_equal(made.steps("pretrained"), [100, 50])
    assert_array_equal(made.steps("pretrained", with_teaching=True), [200, 150])
    assert_array_equal(made.steps("scratch", with_teaching=True), [400, 600])
    assert made.ratio().estimate == pytest.approx(75 / 500)
    assert made.ratio(with_teaching=True).estimate == pytest.approx(175 / 500)


@pytest.mark.parametrize(
    ("scratch", "pretrained", "holds"),
    [
        ([400, 600, 500], [100, 50, 60], [True]),
        ([400, 600, 500], [450, 500, 550], [False]),
        ([100, 50, 60], [400, 600, 500], [False]),
    ],
)
def test_the_claim_is_that_of_the_paired_interval(
    scratch: list[float], pretrained: list[float], holds: list[bool]
) -> None:
    assert list(claims(compared(scratch, pretrained)).values()) == holds


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a quick outcome of tiny trainings of two seeds."""
    folder = tmp_path_factory.mktemp("multitask-pretraining")
    place = Place(
        name="multitask-pretraining",
        output=folder / "out",
        work=folder / "work",
        quick=True,
        seed=0,
        processes=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multitask_pretraining, "QUICK_SETTINGS", TINY)
        yield multitask_pretraining.multitask_pretraining_table(place)


def test_a_quick_run_says_so_and_is_not_judged(outcome: Any) -> None:
    assert outcome.met is None
    assert outcome.page.name == "multitask-pretraining-quick.md"
    assert "scaled-down run" in outcome.text
    assert "claims hold" not in outcome.text
    assert outcome.figure.stat().st_size > 10_000


def test_the_pages_numbers_are_those_of_the_trainings(outcome: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(outcome.scores.read_text())))
    solved = [
        float(row["value"])
        for row in rows
        if row["start"] == "scratch" and row["quantity"] == "steps until solved"
    ]
    assert solved == [80, 80]
    line = next(line for line in outcome.text.splitlines() if line.startswith("| steps of the new"))
    assert line.split("|")[2].strip() == "80 [80, 80], 0 of 2 seeds get there"
    made = train(TINY, "scratch", 1)
    found = [
        float(row["value"])
        for row in rows
        if (row["start"], row["seed"], row["task"]) == ("scratch", "1", "new 0")
    ]
    assert_array_equal(found, made.returns[:, 0])


def test_the_full_page_states_the_claim_and_each_seed(tmp_path: Path) -> None:
    place = Place(name="multitask-pretraining", output=tmp_path, work=tmp_path, quick=False, seed=0)
    page = multitask_pretraining._page(
        compared([400, 600, 500], [100, 50, 60]), record_of(place, "abc", 1.0)
    )
    assert "**1 of 1 claims hold.**" in page
    assert "| 0 | 500 | 0 | 0 | 400 | 100 | 500 | 500 |" in page


def test_every_training_is_its_own_file_and_the_reproduction_is_registered(tmp_path: Path) -> None:
    made = jobs_of(TINY, range(3), tmp_path, {})
    assert len({job.file for job in made.values()}) == 6
    assert "multitask-pretraining" in REPRODUCTIONS
    found = find_reproduction("multitask-pretraining")
    assert found.builder.endswith(":multitask_pretraining_table")
