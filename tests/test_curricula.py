"""Facts about curricula over a list of tasks."""

import copy
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chisquare

from mtrl.agents.objectives import TaskObjective
from mtrl.envs.curricula import (
    Adversary,
    Curriculum,
    FiniteCurriculum,
    Learnability,
    LearningProgress,
    LevelReplay,
    Proposal,
    ReplaySettings,
    Staged,
    StageSettings,
    TeacherSettings,
    TeacherStudent,
    Uniform,
    WorstRegret,
)
from mtrl.envs.curricula.learning_progress import progress_distribution, reweighted
from mtrl.envs.curricula.measured import learnability
from mtrl.envs.curricula.teacher_student import largest_sample, slope
from mtrl.envs.task import Task
from mtrl.errors import CheckpointError, MtrlError, UsageError

TASKS = [Task(family="toy", params={"x": float(place)}) for place in range(4)]
A, B, C, D = TASKS
STRANGER = Task(family="toy", params={"x": 17.0})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def teacher(**settings: Any) -> TeacherStudent:
    return TeacherStudent(TASKS, rng(), TeacherSettings(**settings))


MAKERS: dict[str, Callable[[], FiniteCurriculum]] = {
    "uniform": lambda: Uniform(TASKS, rng()),
    "staged": lambda: Staged(
        [[A, B], [C, D]],
        rng(),
        StageSettings(window=6, promote_at=0.6, demote_below=0.3, rehearsal=0.2),
    ),
    "progress": lambda: LearningProgress(TASKS, rng(), window=7),
    "online": teacher,
    "naive": lambda: teacher(variant="naive", window=3),
    "window": lambda: teacher(variant="window", window=4),
    "sampling": lambda: teacher(variant="sampling", window=3),
    "boltzmann": lambda: teacher(temperature=0.1),
    "replay": lambda: LevelReplay(TASKS, rng()),
    "robust": lambda: LevelReplay(TASKS, rng(), ReplaySettings(robust=True, replay=0.5)),
    "learnability": lambda: Learnability(TASKS, rng(), keep=2, window=5),
    "regret": lambda: WorstRegret(TASKS, rng(), Adversary(step_size=0.3, window=5), best=[1.0] * 4),
}


@pytest.fixture(params=MAKERS)
def curriculum(request: pytest.FixtureRequest) -> FiniteCurriculum:
    return MAKERS[request.param]()


def live(curriculum: Curriculum, rounds: int, seed: int = 3) -> list[str]:
    """Play `rounds` proposals two at a time, credited in reverse; return the tasks' ids."""
    draws, ids = rng(seed), []
    for _ in range(rounds // 2):
        pair = curriculum.propose(2)
        ids += [one.task.id for one in pair]
        for one in reversed(pair):
            place = TASKS.index(one.task)
            curriculum.update(one, float(draws.random() < 0.9 - 0.2 * place))
    return ids


def test_every_curriculum_keeps_the_protocol(curriculum: FiniteCurriculum) -> None:
    assert isinstance(curriculum, Curriculum)
    assert curriculum.propose(0) == []


def test_probabilities_sum_to_one_at_any_time(curriculum: FiniteCurriculum) -> None:
    for round_ in range(40):
        shares = curriculum.probabilities()
        assert shares.shape == (4,) and shares.min() >= 0, round_
        assert_allclose(shares.sum(), 1, rtol=1e-12)
        live(curriculum, 2, seed=round_)


def test_draws_follow_the_probabilities(curriculum: FiniteCurriculum) -> None:
    live(curriculum, 60)
    shares, before = curriculum.probabilities(), curriculum.state_dict()
    counts = np.zeros(4)
    for _ in range(1500):
        # What one draw changes besides the generator must not change the distribution tested.
        state = copy.deepcopy(before[1]) | {"rng": curriculum.rng.bit_generator.state}
        curriculum.load_state_dict({}, state)
        counts[TASKS.index(curriculum.propose(1)[0].task)] += 1
    possible = shares > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert chisquare(counts[possible], 1500 * shares[possible]).pvalue > 1e-3


def test_many_draws_at_once_are_those_one_by_one(curriculum: FiniteCurriculum) -> None:
    live(curriculum, 40)
    other = copy.deepcopy(curriculum)
    assert curriculum.propose(9) == [other.propose(1)[0] for _ in range(9)]


def test_a_saved_curriculum_goes_on_as_if_never_stopped() -> None:
    for name, make in MAKERS.items():
        first, second = make(), make()
        live(first, 33)
        tensors, values = first.state_dict()
        text = json.dumps(values, allow_nan=False)
        second.rng.random(5)
        second.load_state_dict(tensors, json.loads(text))
        assert live(first, 200) == live(second, 200), name
        assert_array_equal(first.probabilities(), second.probabilities())
        assert json.dumps(first.state_dict()[1]) == json.dumps(second.state_dict()[1]), name


def test_a_saved_state_does_not_change_afterwards(curriculum: FiniteCurriculum) -> None:
    live(curriculum, 20)
    state = curriculum.state_dict()[1]
    text = json.dumps(state)
    live(curriculum, 40)
    assert json.dumps(state) == text


def test_checkpoints_of_others_are_refused(curriculum: FiniteCurriculum) -> None:
    values = curriculum.state_dict()[1]
    with pytest.raises(CheckpointError, match="has kind 'other'"):
        curriculum.load_state_dict({}, values | {"kind": "other"})
    with pytest.raises(CheckpointError, match="has tasks"):
        curriculum.load_state_dict({}, values | {"tasks": values["tasks"][::-1]})


def test_an_unknown_task_is_refused_by_name(curriculum: FiniteCurriculum) -> None:
    with pytest.raises(UsageError, match=rf"{STRANGER.id} .*17\.0.* none of the 4 tasks"):
        curriculum.update(Proposal(task=STRANGER), 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(curriculum: FiniteCurriculum, value: float) -> None:
    live(curriculum, 10)
    before = json.dumps(curriculum.state_dict()[1])
    with pytest.raises(MtrlError, match=rf"task {B.id} .*not finite"):
        curriculum.update(B, value)
    assert json.dumps(curriculum.state_dict()[1]) == before


def test_bad_task_lists_are_refused() -> None:
    with pytest.raises(UsageError, match="tasks is empty"):
        Uniform([], rng())
    with pytest.raises(UsageError, match=f"tasks has {A.id} more than once"):
        Uniform([A, B, A], rng())


def test_uniform_is_uniform() -> None:
    assert_array_equal(Uniform(TASKS, rng()).probabilities(), [0.25] * 4)


# --- stages


def stages(**settings: Any) -> Staged:
    return Staged([[A], [B, C], [D]], rng(), StageSettings(**settings))


def test_a_full_window_at_the_threshold_promotes() -> None:
    staged = stages(window=5, promote_at=0.8)
    assert staged.lag == 4
    for outcome in (1, 1, 1, 0):
        staged.update(A, outcome)
        assert_array_equal(staged.probabilities(), [1, 0, 0, 0])
    staged.update(A, 1)
    assert staged.stage == 1
    assert_array_equal(staged.probabilities(), [0, 0.5, 0.5, 0])


def test_below_the_threshold_the_window_slides() -> None:
    staged = stages(window=5, promote_at=0.8)
    for outcome in (0, 0, 0, 1, 1, 1):
        staged.update(A, outcome)
        assert staged.stage == 0
    staged.update(A, 1)  # the last five hold one zero
    assert staged.stage == 1


def test_only_results_of_the_present_visit_count() -> None:
    staged = stages(window=2, promote_at=0.9, demote_below=0.5)
    early = staged.propose(1)[0]
    staged.update(A, 1)
    staged.update(A, 1)
    assert staged.stage == 1
    for _ in range(2):
        staged.update(B, 0)
    assert staged.stage == 0
    for _ in range(5):
        staged.update(early, 1)  # of the first visit: too late
        staged.update(D, 1)  # of another stage
    assert staged.stage == 0
    for _ in range(2):
        staged.update(staged.propose(1)[0], 1)
    assert staged.stage == 1


def test_a_stage_lasts_its_least_number_of_episodes_and_the_last_one_for_ever() -> None:
    staged = stages(window=2, min_episodes=4)
    moves = []
    for _ in range(12):
        staged.update(staged.propose(1)[0], 1)
        moves.append(staged.stage)
    assert moves == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]


def test_rehearsal_shares_its_part_among_earlier_tasks() -> None:
    staged = stages(window=1, rehearsal=0.2)
    assert_array_equal(staged.probabilities(), [1, 0, 0, 0])
    staged.update(A, 1)
    assert_allclose(staged.probabilities(), [0.2, 0.4, 0.4, 0])
    staged.update(B, 1)
    assert_allclose(staged.probabilities(), [0.2 / 3, 0.2 / 3, 0.2 / 3, 0.8])


def test_bad_stages_are_refused() -> None:
    with pytest.raises(UsageError, match=r"stages \[1\] are empty"):
        Staged([[A], []], rng())
    with pytest.raises(UsageError, match="at least 0.2 lower"):
        StageSettings(promote_at=0.8, demote_below=0.7)
    with pytest.raises(UsageError, match="window is 0"):
        StageSettings(window=0)


# --- learning progress


def test_reweighting_has_its_fixed_points_and_lifts_small_rates() -> None:
    assert_allclose(reweighted(np.array([0.0, 0.1, 1.0]), 0.1), [0, 0.5, 1])
    assert_allclose(reweighted(np.array([0.25, 0.6]), 0.5), [0.25, 0.6])


def test_progress_is_what_one_computes_by_hand() -> None:
    curriculum = LearningProgress([A, B], rng(), window=4, uniform=0.0)
    # Rates 0.5 and 0: baselines 0.5 and 0, gains 0.
    for task, outcome in ((A, 1), (A, 0), (B, 0), (B, 0)):
        curriculum.update(task, outcome)
    assert_array_equal(curriculum.progress, [0, 0])
    # A alone, at rate 1: gain 1; fast 0.1, slow 0.01. B keeps its rate.
    for _ in range(4):
        curriculum.update(A, 1)
    f = [p * 0.9 / (p + 0.1 * (1 - 2 * p)) for p in (0.1, 0.01)]
    assert_allclose(curriculum.progress, [f[0] - f[1], 0], rtol=1e-12)
    # B has never succeeded and does not move: it is never drawn without a share of uniform.
    assert_array_equal(curriculum.probabilities(), [1, 0])
    curriculum.uniform = 0.25
    assert_allclose(curriculum.probabilities(), [0.875, 0.125])
    # Both now at rate 1: A's gain stays 1, B's becomes 1.
    for task in (A, B, A, B):
        curriculum.update(task, 1)
    fast = [0.1 + 0.9 * 0.1, 0.1]
    slow = [0.1 * fast[0] + 0.9 * 0.01, 0.01]
    by_hand = [
        abs(p * 0.9 / (p + 0.1 - 0.2 * p) - q * 0.9 / (q + 0.1 - 0.2 * q))
        for p, q in zip(fast, slow, strict=True)
    ]
    assert_allclose(curriculum.progress, by_hand, rtol=1e-12)


def test_a_baseline_is_at_most_three_quarters() -> None:
    curriculum = LearningProgress([A], rng(), window=1)
    curriculum.update(A, 1)  # gain 1 from the start: both averages are there already
    assert_array_equal(curriculum.progress, [0])
    curriculum.update(A, 0)
    fast, slow = 0.9, 0.1 * 0.9 + 0.9
    wanted = abs(np.diff(reweighted(np.array([fast, slow]), 0.1)))
    assert_allclose(curriculum.progress, wanted, rtol=1e-12)


def test_the_distribution_of_progress() -> None:
    none = np.zeros(3)
    assert_allclose(progress_distribution(none, none), [1 / 3] * 3)
    # One living task: its deviation is 0.
    assert_array_equal(progress_distribution(none, np.array([0, 1.0, 0])), [0, 1, 0])
    # Two: z-scores 1 and -1.
    high, low = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))
    shares = progress_distribution(np.array([0.4, 0, 0.2]), none)
    assert_allclose(shares, [high, 0, low], rtol=1e-12)


def test_successes_are_between_zero_and_one() -> None:
    for curriculum in (LearningProgress(TASKS, rng()), Learnability(TASKS, rng(), keep=1)):
        with pytest.raises(UsageError, match=rf"success of task {A.id} is 2\.0"):
            curriculum.update(A, 2)


# --- teacher and student


def test_slope_is_that_of_least_squares() -> None:
    times, scores = [1.0, 4.0, 6.0, 7.0], [2.0, -1.0, 3.0, 0.5]
    assert_allclose(slope(times, scores), np.polyfit(times, scores, 1)[0], rtol=1e-12)
    assert slope([3.0], [5.0]) == 0


def test_online_is_a_moving_average_of_differences() -> None:
    online = teacher()
    online.update(A, 2.0)
    online.update(A, 5.0)
    online.update(B, -4.0)
    assert_allclose(online.estimates, [0.9 * 0.2 + 0.1 * 3, -0.4, 0, 0], rtol=1e-12)
    # A's |Q| of 0.48 is the largest.
    assert_allclose(online.probabilities(), [0.925, 0.025, 0.025, 0.025])
    online.update(B, -9.0)
    assert_allclose(online.estimates[1], -0.36 - 0.5)
    assert_allclose(online.probabilities()[1], 0.925)  # forgetting counts as much as learning


def test_equal_estimates_share_the_greedy_part() -> None:
    assert_allclose(teacher().probabilities(), [0.25] * 4)


def test_boltzmann_is_a_softmax_of_absolute_estimates() -> None:
    curriculum = teacher(temperature=0.5)
    curriculum.update(A, 10.0)
    curriculum.update(B, -20.0)
    weights = np.exp(np.array([1.0, 2.0, 0, 0]) / 0.5)
    assert_allclose(curriculum.probabilities(), weights / weights.sum(), rtol=1e-12)


def test_window_takes_the_slope_over_the_time_of_all_outcomes() -> None:
    curriculum = teacher(variant="window", window=3)
    scores = [(A, 1.0), (B, 0.0), (A, 3.0), (A, 2.0), (B, 0.0), (A, 7.0)]
    for task, score in scores:
        curriculum.update(task, score)
    estimate = 0.0
    for times, values in (([1], [1]), ([1, 3], [1, 3]), ([1, 3, 4], [1, 3, 2])):
        estimate += 0.1 * ((np.polyfit(times, values, 1)[0] if len(times) > 1 else 0) - estimate)
    estimate += 0.1 * (np.polyfit([3, 4, 6], [3, 2, 7], 1)[0] - estimate)
    assert_allclose(curriculum.estimates, [estimate, 0, 0, 0], rtol=1e-12)


def test_naive_holds_a_task_for_a_window_and_drops_late_results() -> None:
    curriculum = teacher(variant="naive", window=3)
    held = curriculum.propose(4)
    assert held == held[:1] * 4
    other = next(task for task in TASKS if task != held[0].task)
    for score in (1.0, 5.0):
        curriculum.update(held[0], score)
        curriculum.update(other, 100.0)
    assert curriculum.propose(1) == held[:1]
    curriculum.update(held[0], 3.0)
    wanted = np.zeros(4)
    wanted[TASKS.index(held[0].task)] = 0.1 * 1.0  # slope of 1, 5, 3
    assert_allclose(curriculum.estimates, wanted)
    assert_allclose(curriculum.probabilities().max(), 0.925)


def test_the_largest_of_one_sample_each_is_counted_exactly() -> None:
    samples = [[1.0, 3.0], [3.0, 3.0, 0.0], [2.0], [3.0, 1.0, 1.0]]
    wins = np.zeros(4)
    for drawn in itertools.product(*samples):
        best = np.equal(drawn, max(drawn))
        wins += best / best.sum()
    assert_allclose(largest_sample(samples), wins / wins.sum(), rtol=1e-12)


def test_sampling_begins_with_one_and_keeps_the_last_rewards() -> None:
    curriculum = teacher(variant="sampling", window=2)
    assert_allclose(curriculum.probabilities(), [0.25] * 4)
    for score in (-5.0, -5.0, -2.0):
        curriculum.update(A, score)  # rewards -5, 0 and 3; the last two stay
    assert_allclose(curriculum.probabilities(), [0.5, 1 / 6, 1 / 6, 1 / 6])


def test_bad_teachers_are_refused() -> None:
    with pytest.raises(UsageError, match="variant is 'offline'.*'sampling'"):
        TeacherSettings(variant="offline")  # type: ignore[arg-type]  # a typing error, made
    with pytest.raises(UsageError, match="window is 1"):
        TeacherSettings(window=1)


# --- learnability and regret


def test_learnability_is_largest_at_one_half() -> None:
    assert_allclose(learnability(np.array([0, 0.25, 0.5, 1])), [0, 0.1875, 0.25, 0])


def test_the_most_learnable_tasks_are_kept() -> None:
    curriculum = Learnability(TASKS, rng(), keep=2, window=4, uniform=0.2)
    for task, results in zip(TASKS, ((0, 1, 1, 1), (1, 1), (1, 0), (0,)), strict=True):
        assert curriculum.probabilities()[TASKS.index(task)] > 0.2  # without a result, it is due
        for result in results:
            curriculum.update(task, result)
    assert_allclose(curriculum.scores, [0.1875, 0, 0.25, 0])
    assert_allclose(curriculum.probabilities(), [0.45, 0.05, 0.45, 0.05])
    for _ in range(4):
        curriculum.update(C, 1)  # only the last four count
    assert_allclose(curriculum.scores[2], 0)
    assert_allclose(curriculum.probabilities(), [0.45, 0.45, 0.05, 0.05])
    with pytest.raises(UsageError, match=r"keep must be in \[1, 4\]"):
        Learnability(TASKS, rng(), keep=5)


@pytest.mark.parametrize("scaled", [False, True])
def test_regret_weights_are_those_of_the_objective(scaled: bool) -> None:
    best, random = [3.0, 2.0, 5.0, 4.0], [0.0, 1.0, 0.0, 2.0] if scaled else None
    name = "normalised-worst-regret" if scaled else "worst-regret"
    adversary = Adversary(step_size=0.4, window=8, uniform=0.0)
    curriculum = WorstRegret(TASKS, rng(), adversary, best=best, random=random)
    objective = TaskObjective(
        name,  # type: ignore[arg-type]  # one of its literals
        [task.id for task in TASKS],
        step_size=0.4,
        best=best,
        random=random,
    )
    for returns in rng().normal(size=(6, 2, 4)):
        for row in returns:
            for task, value in zip(TASKS, row, strict=True):
                curriculum.update(task, value)
        objective.update(returns.mean(axis=0))
        assert_allclose(curriculum.probabilities(), objective.weights, rtol=1e-12)


def test_a_task_without_an_episode_keeps_its_last_regret() -> None:
    adversary = Adversary(step_size=1.0, window=4, uniform=0.2)
    curriculum = WorstRegret(TASKS, rng(), adversary, best=[0.0] * 4)
    for _ in range(4):
        curriculum.update(A, -1.0)
    assert_allclose(curriculum.probabilities(), [0, 1 / 3, 1 / 3, 1 / 3])  # others are due first
    for task in (B, C, D):
        curriculum.update(task, 0.0)
    weights = np.array([np.e, 1, 1, 1])
    assert_allclose(curriculum.probabilities(), 0.8 * weights / weights.sum() + 0.05, rtol=1e-12)
    for _ in range(4):
        curriculum.update(B, 0.0)
    weights = np.array([np.e**2, 1, 1, 1])
    assert_allclose(curriculum.probabilities(), 0.8 * weights / weights.sum() + 0.05, rtol=1e-12)


def test_bad_regrets_are_refused() -> None:
    adversary = Adversary(step_size=1.0)
    with pytest.raises(UsageError, match="best must hold one finite return for each of 4"):
        WorstRegret(TASKS, rng(), adversary, best=[1.0])
    with pytest.raises(UsageError, match=f"task {C.id}: the best return is not above"):
        WorstRegret(TASKS, rng(), adversary, best=[1.0] * 4, random=[0, 0, 1.0, 0])
    with pytest.raises(UsageError, match=r"step_size is -1"):
        Adversary(step_size=-1)
