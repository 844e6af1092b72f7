"""Every curriculum behaves the same wherever it drives: the same draws, credits and continuation."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from counting_family import Counting
from counting_family import task as counted
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.testing import assert_array_equal
from scipy.stats import chisquare
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from mtrl.envs.curricula import (
    Adversary,
    AlpGmm,
    AlpSettings,
    DomainRandomization,
    FiniteCurriculum,
    Gaussian,
    Learnability,
    LearningProgress,
    LevelReplay,
    Proposal,
    RandomizationSettings,
    SelfPaced,
    SelfPacedSettings,
    Staged,
    StageSettings,
    TaskBox,
    TeacherSettings,
    TeacherStudent,
    Uniform,
    VectorCurriculumSource,
    WorstRegret,
)
from mtrl.envs.curricula.sb3_source import CurriculumVecEnv
from mtrl.envs.parameters import ParameterSpace, Range
from mtrl.envs.task import Task
from mtrl.errors import CheckpointError, MtrlError, UsageError

SLOTS, LASTS = 2, 3
TASKS = [counted(float(scale), lasts=LASTS) for scale in range(1, 6)]
"""Action 1 earns `scale` in each of three steps: the return is the task's number times three."""
FAMILY = Counting()


class BoxedCounting(Counting):
    """All scales in [1, 5]."""

    @property
    def parameters(self) -> ParameterSpace:  # type: ignore[override]
        fixed = {
            name: Range(at, at)
            for name, at in (("lasts", LASTS), ("breaks", 1000), ("sours", 1000))
        }
        return ParameterSpace(self.name, {"scale": Range(1, 5), **fixed}, split_rule="shared")


BOXED = BoxedCounting()


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def box() -> TaskBox:
    return TaskBox(BOXED.parameters)


def replay() -> LevelReplay:
    made = LevelReplay(TASKS, rng())
    made.outcome = "return"  # the return stands for the score that a learner computes
    return made


def randomization() -> DomainRandomization:
    settings = RandomizationSettings(widen_at=6.0, narrow_at=3.0, queue=4, step=0.1)
    return DomainRandomization(box(), rng(), settings, box().task(np.array([0.5])))


def self_paced() -> SelfPaced:
    ends = {
        "start": Gaussian.diagonal([0.5], [0.1]),
        "target": Gaussian.diagonal([0.9], [0.05]),
    }
    return SelfPaced(box(), rng(), SelfPacedSettings(performance=5.0, episodes=5000), **ends)


MAKERS: dict[str, Callable[[], Any]] = {
    "uniform": lambda: Uniform(TASKS, rng()),
    "staged": lambda: Staged(
        [TASKS[:2], TASKS[2:]],
        rng(),
        StageSettings(window=8, promote_at=0.4, demote_below=0.1, rehearsal=0.2),
    ),
    "learning progress": lambda: LearningProgress(TASKS, rng(), window=7),
    "teacher-student": lambda: TeacherStudent(TASKS, rng()),
    "naive": lambda: TeacherStudent(
        TASKS, rng(), TeacherSettings(variant="naive", window=3, exploration=0.5)
    ),
    "sampling": lambda: TeacherStudent(TASKS, rng(), TeacherSettings(variant="sampling")),
    "level replay": replay,
    "learnability": lambda: Learnability(TASKS, rng(), keep=2, window=5),
    "worst regret": lambda: WorstRegret(
        TASKS, rng(), Adversary(step_size=0.01, window=9), best=[15.0] * 5
    ),
}
BOXES: dict[str, Callable[[], Any]] = {
    "ALP-GMM": lambda: AlpGmm(
        box(), rng(), AlpSettings(lowest=0.0, highest=15.0, fit_every=300, most_components=2)
    ),
    "self-paced": self_paced,
    "domain randomisation": randomization,
}
EVERY = MAKERS | BOXES


def judge(total: float, success: bool | None) -> float:
    return float(total > 7)


class Log:
    """Writes down what a curriculum proposes, with which probabilities, and what it is told."""

    def __init__(self, curriculum: Any) -> None:
        self.curriculum = curriculum
        self.proposed: list[str] = []
        self.shares: list[Any] = []
        self.told: list[tuple[str, float]] = []
        self._propose, self._update = curriculum.propose, curriculum.update
        curriculum.propose, curriculum.update = self.propose, self.update

    def propose(self, n: int) -> list[Proposal]:
        drawn = []
        for _ in range(n):
            if isinstance(self.curriculum, FiniteCurriculum):
                self.shares.append(self.curriculum.probabilities())
            drawn += self._propose(1)
        self.proposed += [one.task.id for one in drawn]
        return drawn

    def update(self, played: Proposal, outcome: float) -> None:
        self.told.append((played.task.id, outcome))
        self._update(played, outcome)


def judged(curriculum: Any) -> Any:
    return judge if curriculum.outcome == "success" else None


def family_of(curriculum: Any) -> Counting:
    return FAMILY if isinstance(curriculum, FiniteCurriculum) else BOXED


def batched(curriculum: Any) -> VecEnv:
    family = family_of(curriculum)
    return CurriculumVecEnv(family.make_sb3(TASKS[:SLOTS]), curriculum, judge=judged(curriculum))


def step(envs: Any, steps: int) -> None:
    """Take action 1 everywhere, in whichever kind of vector."""
    vector = not isinstance(envs, VecEnv)
    for _ in range(steps):
        if not vector:
            envs.step(np.ones(envs.num_envs, np.int64))
            continue
        _, _, terminated, truncated, _ = envs.step(np.ones(envs.num_envs, np.int64))
        ended = terminated | truncated
        if envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended.copy()})


@pytest.fixture(scope="module")
def processes() -> Iterator[SubprocVecEnv]:
    made = SubprocVecEnv([lambda: BOXED.make(TASKS[0])] * SLOTS)
    yield made
    made.close()


def gymnasium_vector(curriculum: Any, mode: AutoresetMode) -> VectorCurriculumSource:
    family = family_of(curriculum)
    envs = SyncVectorEnv([lambda: family.make(TASKS[0])] * SLOTS, autoreset_mode=mode)
    return VectorCurriculumSource(envs, curriculum, judge=judged(curriculum))


FACES: dict[str, Callable[[Any, VecEnv], Any]] = {
    "dummy": lambda c, _: CurriculumVecEnv(
        DummyVecEnv([lambda: family_of(c).make(TASKS[0])] * SLOTS), c, judge=judged(c)
    ),
    "subproc": lambda c, processes: CurriculumVecEnv(processes, c, judge=judged(c)),
    "batched vector": lambda c, _: VectorCurriculumSource(
        family_of(c).make_vec(TASKS[:SLOTS]), c, judge=judged(c)
    ),
    "same step": lambda c, _: gymnasium_vector(c, AutoresetMode.SAME_STEP),
    "next step": lambda c, _: gymnasium_vector(c, AutoresetMode.NEXT_STEP),
    "disabled": lambda c, _: gymnasium_vector(c, AutoresetMode.DISABLED),
}
SHOWN = 40
"""Episodes that faces are compared over."""


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", EVERY)
def test_a_seed_gives_the_same_tasks_and_credits_everywhere(
    name: str, face: str, processes: SubprocVecEnv
) -> None:
    logs = [Log(EVERY[name]()) for _ in range(2)]
    for envs in (batched(logs[0].curriculum), FACES[face](logs[1].curriculum, processes)):
        envs.reset()
        step(envs, (LASTS + 1) * SHOWN // SLOTS)
    assert min(len(log.told) for log in logs) >= SHOWN
    assert logs[0].told[:SHOWN] == logs[1].told[:SHOWN]
    assert logs[0].proposed[:SHOWN] == logs[1].proposed[:SHOWN]


@pytest.mark.parametrize("name", MAKERS)
def test_drawn_tasks_have_the_published_probabilities(name: str) -> None:
    log = Log(MAKERS[name]())
    envs = batched(log.curriculum)
    envs.reset()
    step(envs, 3000)
    places = {task.id: place for place, task in enumerate(log.curriculum.tasks)}
    drawn = np.array([places[task_id] for task_id in log.proposed])
    shares = np.array(log.shares)
    # What has probability zero is never drawn.
    assert (shares[np.arange(len(drawn)), drawn] > 0).all()
    # Draws of unequal shares vary less than the statistic allows for: the test errs to the safe side.
    expected = shares.sum(0)
    counts = np.bincount(drawn, minlength=len(TASKS))
    some = expected > 5
    assert_array_equal(counts[expected == 0], 0)
    rest = expected[some] * counts[some].sum() / expected[some].sum()
    assert some.sum() > 1
    assert chisquare(counts[some], rest).pvalue > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_each_result_is_credited_to_the_task_that_gave_it(name: str) -> None:
    log = Log(EVERY[name]())
    scales: dict[str, float] = {}
    propose = log.curriculum.propose

    def noting(n: int) -> list[Proposal]:
        drawn: list[Proposal] = propose(n)
        scales.update({one.task.id: float(one.task.params["scale"]) for one in drawn})
        return drawn

    log.curriculum.propose = noting
    envs = batched(log.curriculum)
    envs.reset()
    step(envs, 150)
    assert len(log.told) == SLOTS * 150 // LASTS
    for task_id, outcome in log.told:
        total = LASTS * scales[task_id]
        wanted = judge(total, None) if log.curriculum.outcome == "success" else total
        assert outcome == pytest.approx(wanted, rel=1e-6)
    # One episode under way and one task drawn ahead, for each slot.
    assert len(log.proposed) - len(log.told) == 2 * SLOTS


@pytest.mark.parametrize("name", EVERY)
def test_a_saved_run_makes_the_same_next_thousand_draws(name: str) -> None:
    first: Any = batched(EVERY[name]())
    first.reset()
    step(first, 47)  # in the middle of an episode
    saved, inner = first.state_dict(), first.venv.state_dict()
    second: Any = batched(EVERY[name]())
    second.load_state_dict(*saved)
    second.venv.load_state_dict(*inner)
    logs = [Log(envs.curriculum) for envs in (first, second)]
    for envs in (first, second):
        step(envs, 1000 * LASTS // SLOTS + LASTS)
    assert len(logs[0].proposed) >= 1000
    assert logs[0].proposed == logs[1].proposed and logs[0].told == logs[1].told


HEARD = {
    # In later stages, what rehearses earlier ones is no result of the present one.
    "staged": (0,),
    "learning progress": (0, 10, 13),
    "teacher-student": (0, 3, 40),
    "naive": (40,),
    "sampling": (0, 3, 40),
    "level replay": (10, 40),
    "learnability": (20,),
    "worst regret": (3, 10, 13),
    "ALP-GMM": (3, 10, 13),
    "self-paced": (0, 3, 40),
    "domain randomisation": (10, 13),
}
"""Results that come before the one that counts, where it can make a difference."""


@pytest.mark.parametrize(("name", "before"), [(n, b) for n in HEARD for b in HEARD[n]])
def test_results_count_after_the_declared_lag(name: str, before: int) -> None:
    middle, best = (6.0, 15.0) if name in BOXES else (1.0, 1.0)
    one, other = EVERY[name](), EVERY[name]()
    for curriculum, outcome in ((one, 0.0), (other, best)):
        for turn in range(before):
            # What always succeeds and what always fails are both of no use to learn from.
            earlier = 0.0 if name == "learnability" else middle * (turn % 2)
            curriculum.update(curriculum.propose(1)[0], earlier)
        for _ in range(curriculum.lag + 1):
            curriculum.update(curriculum.propose(1)[0], outcome)
    if name in MAKERS:
        assert np.abs(one.probabilities() - other.probabilities()).max() > 0
    else:
        drawn = [[proposal.task.id for proposal in each.propose(400)] for each in (one, other)]
        assert drawn[0] != drawn[1]


def test_the_lag_of_every_curriculum_is_tested_but_that_of_uniform_tasks() -> None:
    assert set(HEARD) == set(EVERY) - {"uniform"}


# What else the wrapper of Stable-Baselines3 promises


def test_a_task_from_outside_a_cut_and_a_single_reset_are_not_credited() -> None:
    log = Log(Uniform(TASKS, rng()))
    envs: Any = batched(log.curriculum)
    envs.set_options({"task": TASKS[4]})
    envs.reset()
    assert envs.played == [None, None]
    step(envs, LASTS)
    assert log.told == []
    step(envs, 1)
    envs.reset()
    step(envs, 1)
    envs.env_method("reset", indices=[0])
    step(envs, LASTS - 1)
    assert len(log.told) == 1
    step(envs, 1)
    assert len(log.told) == 2
    ends = [log.proposed.index(task_id) for task_id, _ in log.told]
    assert len(ends) == 2 and log.told == [
        (task_id, LASTS * (1.0 + [task.id for task in TASKS].index(task_id)))
        for task_id, _ in log.told
    ]


def test_another_choice_of_tasks_is_refused_and_found_out() -> None:
    envs: Any = batched(Uniform(TASKS, rng()))
    with pytest.raises(UsageError, match="assign=False"):
        envs.env_method("set_task_source", TASKS[0])
    envs.reset()
    envs.venv.env_method("set_task_source", counted(77.0, lasts=LASTS))
    with pytest.raises(MtrlError, match="the curriculum proposed"):
        step(envs, 3 * LASTS)


def test_states_of_other_environments_and_curricula_are_refused() -> None:
    envs: Any = batched(Uniform(TASKS, rng()))
    envs.reset()
    more: Any = CurriculumVecEnv(FAMILY.make_sb3(TASKS[:3]), Uniform(TASKS, rng()))
    with pytest.raises(CheckpointError, match="2 environments, and there are 3"):
        more.load_state_dict(*envs.state_dict())
    other: Any = batched(MAKERS["teacher-student"]())
    with pytest.raises(CheckpointError, match="teacher-student"):
        other.load_state_dict(*envs.state_dict())


def test_episodes_that_cannot_go_on_are_left_out_and_tasks_drawn_ahead_are_next() -> None:
    def make(curriculum: Any) -> Any:
        return CurriculumVecEnv(DummyVecEnv([lambda: FAMILY.make(TASKS[0])] * SLOTS), curriculum)

    first = make(Uniform(TASKS, rng()))
    first.reset()
    step(first, LASTS + 1)
    ahead = [Task.from_json(one["task"]).id for one in first.state_dict()[1]["ahead"]]
    second = make(Uniform(TASKS, rng()))
    second.load_state_dict(*first.state_dict())
    log = Log(second.curriculum)
    second.reset()
    step(second, LASTS)
    assert [task_id for task_id, _ in log.told] == ahead


def test_environments_that_take_no_task_are_refused() -> None:
    import gymnasium as gym

    with pytest.raises(UsageError, match="cannot be given a task"):
        CurriculumVecEnv(DummyVecEnv([lambda: gym.make("CartPole-v1")]), Uniform(TASKS, rng()))
