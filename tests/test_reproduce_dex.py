"""`mtrl reproduce dex`: what each row is, what is counted and flagged, and that nothing is done twice."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mtrl.agents.incremental import TaskSwitch
from mtrl.envs.hexagon import LEVELS
from mtrl.envs.hexagon_players import greedy_actions
from mtrl.errors import MtrlError, UsageError
from mtrl.reproduce import REPRODUCTIONS
from mtrl.reproduce.carry_out import Outcome, Place
from mtrl.reproduce.dex import experiment, results
from mtrl.reproduce.dex.courses import FULL, QUICK_SETTINGS, Course, DexSettings, courses
from mtrl.reproduce.dex.jobs import Job, carry_out_jobs, jobs_of
from mtrl.reproduce.dex.ledger import budget, ledger, stages_within
from mtrl.reproduce.dex.playing import hexagon_family, random_survival, survival
from mtrl.reproduce.dex.results import (
    PAPER,
    Results,
    check_networks,
    claims,
    flagged,
    ratio_interval,
)
from mtrl.reproduce.dex.training import Taken, make_agent, network_digest, take

pytest.importorskip("matplotlib")

LEVEL_NAMES = ("three gates", "two gates", "one gate")
FIRST, SECOND, LAST = LEVEL_NAMES
TINY = DexSettings(
    levels=LEVEL_NAMES,
    goals=(LAST,),
    steps=64,
    environments=8,
    rollout=4,
    batch_size=32,
    epochs=2,
    hidden=(8,),
    episodes=4,
    curve_episodes=2,
    curve_points=2,
)
CHAIN = Course("chain", LEVEL_NAMES)


def taken(course: Course, after: Sequence[float], **changes: Any) -> Taken:
    """Return what a course of 10 steps and 2 seconds a stage might have come to."""
    stages = len(course.stages)
    names = [f"{course.stages[0]} {stage}" for stage in range(stages + 1)]
    made = {
        "steps": [10] * stages,
        "seconds": [2.0] * stages,
        "before": [20.0] * stages,
        "after": list(after),
        "longest_before": [30.0] * stages,
        "longest_after": [500.0] * stages,
        "curves": [[20.0, value, value] for value in after],
        "begun": names[:-1],
        "ended": names[1:],
        "last": dict.fromkeys(course.stages, after[-1]),
    }
    return Taken(**{**made, **changes})


# The courses


def test_the_scratch_rows_have_the_steps_of_the_rows_they_are_compared_with() -> None:
    for settings in (FULL, QUICK_SETTINGS, TINY):
        made = courses(settings)
        chain = next(each for each in made if each.kind == "chain")
        assert chain.stages == settings.levels
        scratch = {each.stages[0]: each.stages for each in made if each.kind == "scratch"}
        assert set(scratch) == set(settings.levels)
        for place, level in enumerate(settings.levels):
            wanted = place + 1 if level in settings.goals else 1
            assert scratch[level] == (level,) * wanted
        pairs = {each.stages for each in made if each.kind == "pair"}
        assert pairs == set(pairwise(settings.levels))
        assert len(set(made)) == len(made)


def test_the_full_page_has_all_ten_levels() -> None:
    assert FULL.levels == tuple(LEVELS) and len(FULL.levels) == len(PAPER) == 10
    assert FULL.goals[-1] == FULL.levels[-1]


def test_only_the_network_is_handed_on_and_a_level_goes_on_with_everything() -> None:
    reset = TaskSwitch(optimiser="reset", normalisers="reset")
    assert Course("pair", (FIRST, SECOND)).switch == CHAIN.switch == reset
    kept = TaskSwitch(optimiser="keep", normalisers="keep")
    assert Course("scratch", (FIRST, FIRST)).switch == kept


def test_steps_that_part_a_rollout_are_refused() -> None:
    with pytest.raises(UsageError, match="give a multiple of 64"):
        replace(TINY, steps=96)


# What the rows are


@pytest.fixture(scope="module")
def made() -> dict[Course, Taken]:
    return {course: take(course, TINY, 3) for course in courses(TINY)}


def test_from_scratch_is_plain_training_of_a_new_agent(made: dict[Course, Taken]) -> None:
    agent = make_agent(TINY, 3)
    fresh = network_digest(agent)
    agent.get_env().env_method("set_task_source", LEVELS[FIRST])  # type: ignore[union-attr]
    agent.learn(TINY.steps)
    row = made[Course("scratch", (FIRST,))]
    assert (row.begun, row.ended) == ([fresh], [network_digest(agent)])
    assert fresh != row.ended[0]
    found = survival(agent, TINY, FIRST, TINY.episodes)
    assert (row.after, row.longest_after) == ([found.mean()], [found.max()])
    # What this agent does on the next level is the initial row of the pair, and of the chain.
    on_next = survival(agent, TINY, SECOND, TINY.episodes).mean()
    assert made[Course("pair", (FIRST, SECOND))].before[1] == on_next == made[CHAIN].before[1]


def test_every_stage_begins_with_the_network_before(made: dict[Course, Taken]) -> None:
    assert len({each.begun[0] for each in made.values()}) == 1
    pair = made[Course("pair", (FIRST, SECOND))]
    assert pair.begun[1] == made[Course("scratch", (FIRST,))].ended[0] == made[CHAIN].ended[0]
    assert pair.ended[1] == made[CHAIN].ended[1] != pair.begun[1]
    # The third level is where the pair's network and the chain's part.
    last = made[Course("pair", (SECOND, LAST))]
    assert last.begun[1] == made[Course("scratch", (SECOND,))].ended[0] != made[CHAIN].begun[2]
    check_networks({course: [each] for course, each in made.items()})


def test_all_rows_have_equal_steps_on_a_level(made: dict[Course, Taken]) -> None:
    for course, each in made.items():
        assert each.steps == [TINY.steps] * len(course.stages)
        assert [curve[0] for curve in each.curves] == each.before
        assert [curve[-1] for curve in each.curves] == each.after
        for stage, curve in enumerate(each.curves):
            assert len(curve) == len(course.curve_steps(stage, TINY))
    assert set(made[CHAIN].last) == set(LEVEL_NAMES)


def test_training_longer_from_scratch_begins_as_the_row(made: dict[Course, Taken]) -> None:
    long = made[Course("scratch", (LAST,) * 3)]
    short = take(Course("scratch", (LAST,)), TINY, 3)
    assert (long.ended[0], long.after[0]) == (short.ended[0], short.after[0])
    assert long.before[1:] == long.after[:-1]


def test_a_network_that_was_not_handed_on_is_found(made: dict[Course, Taken]) -> None:
    pair = Course("pair", (FIRST, SECOND))
    other = take(pair, TINY, 4)
    mixed = {course: [each] for course, each in made.items()} | {pair: [other]}
    with pytest.raises(MtrlError, match="three gates then two gates: an initial network is not"):
        check_networks(mixed)


class Greedy:
    """Plays as `greedy_actions`, from observations with the context behind."""

    def __init__(self, level: str) -> None:
        self.params = hexagon_family().tensors([LEVELS[level]])

    def predict(self, observations: Any, deterministic: bool) -> tuple[Any, None]:
        assert deterministic
        params = {name: value.numpy() for name, value in self.params.items()}
        return greedy_actions(params, observations[:, :12]), None


def test_survival_is_the_length_of_episodes_in_gymnasiums_face() -> None:
    found = survival(Greedy("storm"), FULL, "storm", 3)
    start = results_start("storm")
    env = hexagon_family().make(LEVELS["storm"])
    agent, lengths = Greedy("storm"), []
    for episode in range(3):
        observation, _ = env.reset(seed=start + episode)
        total, over = 0.0, False
        while not over:
            action, _ = agent.predict(observation[None], deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(int(action[0]))
            total, over = total + float(reward), terminated or truncated
        lengths.append(total)
    assert_array_equal(found, lengths)
    assert len(set(lengths)) > 1


def results_start(level: str) -> int:
    """Return the seed of the first episode, as the page's measurements have it."""
    from mtrl.seeding import numpy_generator

    return int(numpy_generator(0, f"dex: episodes of {level}").integers(2**31))


def test_random_actions_survive_as_long_as_the_documentation_says() -> None:
    assert_allclose(random_survival("storm", 1000, 0).mean(), 18, atol=1)
    assert (random_survival("storm", 50, 0) != random_survival("storm", 50, 1)).any()


# The ledger


def test_ledger_adds_up_steps_and_seconds_by_hand() -> None:
    both = [
        taken(CHAIN, [100.0, 50.0, 30.0], seconds=[1.0, 2.0, 4.0]),
        taken(CHAIN, [200.0, 70.0, 10.0], seconds=[3.0, 2.0, 2.0]),
    ]
    first, second, last = ledger(CHAIN, both)
    assert (first.level, first.steps, first.seconds) == (FIRST, 10, 2.0)
    assert (second.total_steps, second.total_seconds, second.survival) == (20, 4.0, 60.0)
    assert (last.total_steps, last.total_seconds, last.survival) == (30, 7.0, 20.0)


def test_seeds_that_took_other_steps_are_not_averaged() -> None:
    both = [taken(CHAIN, [1.0] * 3), taken(CHAIN, [1.0] * 3, steps=[10, 10, 20])]
    with pytest.raises(ValueError, match="seeds must take equal steps"):
        ledger(CHAIN, both)


def test_what_a_budget_pays_for() -> None:
    assert budget(CHAIN, SECOND, [10, 20, 40]) == 30
    assert budget(Course("scratch", (LAST,) * 3), LAST, [10, 20, 40]) == 70
    assert [stages_within([10, 10, 10], money) for money in (9.0, 10.0, 29.9, 30.0, 99.0)] == [
        0,
        1,
        2,
        3,
        3,
    ]
    # 0.1 + 0.1 + 0.1 is more than 0.3 in binary.
    assert stages_within([0.1] * 3, 0.3) == 3


# What is compared


def compared(incremental: Sequence[float], scratch: Sequence[float]) -> Results:
    """Return results of as many seeds, in which both pairs and the chain are equal."""
    found: dict[Course, list[Taken]] = {}
    for course in courses(TINY):
        values = scratch if course.kind == "scratch" else incremental
        found[course] = [taken(course, [value] * len(course.stages)) for value in values]
    return Results(TINY, range(len(scratch)), found)


WORSE, BETTER = [30.0, 35.0, 40.0, 45.0, 50.0], [130.0, 100.0, 120.0, 110.0, 140.0]


def test_negative_transfer_is_flagged_where_it_is_and_nowhere_else() -> None:
    # Every agent from scratch survives longer; then the other way round; then neither.
    worse, better = compared(WORSE, BETTER), compared(BETTER, WORSE)
    assert [each.negative for each in worse.pairs + worse.chain] == [True] * 4
    assert [each.negative for each in better.pairs + better.chain] == [False] * 4
    unclear = compared([30.0, 135.0, 90.0, 145.0, 50.0], BETTER)
    assert unclear.pairs[0].incremental.mean() < unclear.pairs[0].scratch.mean()
    assert not any(each.negative for each in unclear.pairs)


def test_ratios_and_gains_are_those_of_the_means() -> None:
    each = compared(WORSE, BETTER).pairs[0]
    assert (each.source, each.level) == (FIRST, SECOND)
    assert_allclose(each.ratio.estimate, 40 / 120)
    assert each.ratio.low < 1 / 3 < each.ratio.high < 0.45
    assert_allclose(each.gain.mean, -80)
    assert each.gain.high < 0
    # The height of a curve 20, v, v with equal parts is (20 + 3 v) / 4.
    assert_allclose(each.areas[0], [(20 + 3 * 130) / 4, (20 + 3 * 30) / 4])
    assert_allclose(ratio_interval(np.full(3, 6.0), np.full(3, 2.0), "equal").low, 3)


def test_claims_follow_the_numbers() -> None:
    assert list(claims(compared(BETTER, WORSE)).values()) == [True, False]
    worse = compared(WORSE, BETTER)
    assert list(claims(worse).values()) == [False, True]
    assert list(flagged(worse).values()) == [[SECOND, LAST], [SECOND, LAST], [LAST]]


def test_equal_total_cost_is_what_the_chain_has_taken_up_to_the_level() -> None:
    found = compared([40.0], [100.0])
    scratch = Course("scratch", (LAST,) * 3)
    # The chain's three stages take 2 + 2 + 1 seconds, in which two of scratch's stages fit.
    found.taken[CHAIN][:] = [taken(CHAIN, [1.0, 2.0, 40.0], seconds=[2.0, 2.0, 1.0])]  # type: ignore[index]
    found.taken[scratch][:] = [taken(scratch, [10.0, 20.0, 90.0])]  # type: ignore[index]
    (each,) = found.total_cost
    assert (each.level, each.steps) == (LAST, 30)
    assert_array_equal(each.incremental, [40.0])
    assert_array_equal(each.scratch, [90.0])
    assert_array_equal(each.scratch_by_seconds, [20.0])


def test_ratios_of_the_paper() -> None:
    ratios = {each.name: round(each.ratio, 2) for each in PAPER if not np.isnan(each.ratio)}
    assert ratios == {
        "a2": 0.21,
        "a3": 1.38,
        "b2": 0.93,
        "b3": 1.61,
        "b4": 3.30,
        "b5": 0.95,
        "b6": 1.05,
        "b7": 1.24,
    }


# Trainings that are kept


def test_a_process_of_its_own_trains_the_same(tmp_path: Path, made: dict[Course, Taken]) -> None:
    course = Course("scratch", (FIRST,))
    (job,) = [job for job in jobs_of(TINY, [3], tmp_path, {}) if job.course == course]
    carry_out_jobs([job], 1)
    found = job.finished()
    assert found is not None
    assert replace(found, seconds=[0.0]) == replace(made[course], seconds=[0.0])
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_a_training_that_fails_is_named_with_its_reason(tmp_path: Path) -> None:
    stranger = Job(
        course=Course("scratch", ("nowhere",)), seed=0, settings=TINY, folder=tmp_path, code={}
    )
    with pytest.raises(MtrlError, match=r"nowhere from scratch, seed 0 failed .*nowhere.*\.log"):
        carry_out_jobs([stranger], 1)


def test_damage_is_named_and_other_settings_lie_beside(tmp_path: Path) -> None:
    job = jobs_of(TINY, [0], tmp_path, {})[0]
    job.file.write_text("{}")
    with pytest.raises(MtrlError, match="damaged .*delete it"):
        job.finished()
    files = {
        replace(job, settings=replace(TINY, epochs=3)).file,
        replace(job, code={"commit": "other"}).file,
        replace(job, seed=1).file,
        job.file,
    }
    assert len(files) == 4
    # Which levels are goals decides the courses, and not what a course comes to.
    assert replace(job, settings=replace(TINY, goals=())).file == job.file


# The whole, tiny


SHORT = replace(TINY, levels=(FIRST, SECOND), goals=(SECOND,))


class Here:
    """Trains in this process what is not finished, and fails where it is told to."""

    def __init__(self, fails_after: int = 10**6) -> None:
        self.trained: list[str] = []
        self.fails_after = fails_after

    def __call__(self, jobs: Sequence[Job], processes: int) -> None:
        for job in jobs:
            if job.finished() is None:
                if len(self.trained) == self.fails_after:
                    raise MtrlError("stopped here")
                self.trained.append(job.name)
                job.folder.mkdir(parents=True, exist_ok=True)
                job.carry_out()


def table(directory: Path, patch: pytest.MonkeyPatch, here: Here) -> Outcome:
    patch.setattr(experiment, "FULL", SHORT)
    patch.setattr(experiment, "SEEDS", 2)
    patch.setattr(experiment, "carry_out_jobs", here)
    # Two levels instead of ten.
    patch.setattr(results, "HARD", 1)
    place = Place(
        name="dex",
        output=directory / "out",
        work=directory / "work",
        quick=False,
        seed=0,
        processes=1,
    )
    return experiment.dex_table(place)


def test_killed_and_called_again_it_gives_the_same_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = table(tmp_path / "whole", monkeypatch, Here())
    stopped, rest, nothing = Here(fails_after=5), Here(), Here()
    with pytest.raises(MtrlError, match="stopped here"):
        table(tmp_path, monkeypatch, stopped)
    written = table(tmp_path, monkeypatch, rest)
    jobs = 2 * len(courses(SHORT))
    assert len(stopped.trained) == 5 and len(set(stopped.trained + rest.trained)) == jobs
    again = table(tmp_path, monkeypatch, nothing)
    assert nothing.trained == []
    numbers, _, _ = written.text.partition("## How this was made")
    assert again.text.startswith(numbers)
    assert again.scores.read_bytes() == written.scores.read_bytes()
    assert f"{jobs}, of which {jobs} were found finished" in again.text
    # An uninterrupted run differs in the seconds that it took, and in nothing else.
    assert _values(whole) == _values(written)


def _values(outcome: Outcome) -> list[list[str]]:
    with outcome.scores.open() as file:
        return [line for line in csv.reader(file) if "seconds" not in line]


def test_it_is_a_reproduction() -> None:
    assert REPRODUCTIONS["dex"]._load() is experiment.dex_table
