"""Facts about how curricula reach environments and how results reach curricula."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from noisy_walk import NoisyWalk
from scipy.stats import chisquare
from scripted_env import MODES, Episode, ScriptedEnv

from mtrl.envs.curricula import (
    CurriculumSource,
    LevelReplay,
    OutcomeKind,
    Proposal,
    Staged,
    StageSettings,
    Uniform,
    VectorCurriculumSource,
)
from mtrl.envs.task import Task
from mtrl.errors import MtrlError, UsageError

FAMILY = NoisyWalk()
TASKS = FAMILY.sample(3, np.random.default_rng(0), "train")
STEPS = 3


class Ledger(Uniform):
    """Uniform, and writes down what it proposes and is told."""

    def __init__(self, tasks: Sequence[Task] = TASKS, outcome: OutcomeKind = "return") -> None:
        super().__init__(tasks, np.random.default_rng(5))
        self.outcome = outcome
        self.proposed: list[str] = []
        self.told: list[tuple[str, float]] = []

    def propose(self, n: int) -> list[Proposal]:
        drawn = super().propose(n)
        self.proposed += [one.task.id for one in drawn]
        return drawn

    def _learn(self, place: int, outcome: float, label: int | None) -> None:
        self.told.append((self.tasks[place].id, outcome))


class NumberedEnv(gym.Env[Any, Any]):
    """Episodes of `STEPS` steps whose return is the place of the task in `TASKS`."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.source = TASKS[0]

    def set_task_source(self, source: Task) -> None:
        self.source = source

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.task, self.steps = (options or {}).get("task") or self.source, 0
        return np.zeros(1, np.float32), {"task_id": self.task.id}

    def step(self, action: Any) -> Any:
        self.steps += 1
        over = self.steps == STEPS
        reward = TASKS.index(self.task) * float(over)
        return np.zeros(1, np.float32), reward, over, False, {"task_id": self.task.id}


def play(env: gym.Env[Any, Any], episodes: int) -> list[str]:
    played = []
    for _ in range(episodes):
        _, info = env.reset()
        played.append(info["task_id"])
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(0)
            over = terminated or truncated
    return played


def vector(mode: AutoresetMode, slots: int = 2) -> SyncVectorEnv:
    return SyncVectorEnv([NumberedEnv] * slots, autoreset_mode=mode)


def play_vector(envs: Any, steps: int) -> None:
    envs.reset(seed=1)
    for _ in range(steps):
        _, _, terminated, truncated, _ = envs.step(np.zeros(envs.num_envs, int))
        ended = terminated | truncated
        if envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended.copy()})


def returns_of(ids: Sequence[str]) -> list[tuple[str, float]]:
    places = {task.id: place for place, task in enumerate(TASKS)}
    return [(task_id, float(places[task_id])) for task_id in ids]


def test_a_reset_plays_what_is_proposed_and_credits_it() -> None:
    ledger = Ledger()
    env = RecordEpisodeStatistics(TimeLimit(CurriculumSource(NumberedEnv(), ledger), 10))
    played = play(env, 20)
    assert played == ledger.proposed
    assert ledger.told == returns_of(played)
    assert len(set(played)) == 3


def test_a_task_from_outside_and_an_episode_cut_off_are_not_credited() -> None:
    ledger = Ledger()
    env = CurriculumSource(NumberedEnv(), ledger)
    _, info = env.reset(options={"task": TASKS[2]})
    assert info["task_id"] == TASKS[2].id and ledger.proposed == []
    for _ in range(STEPS):
        env.step(0)
    env.reset()
    env.step(0)
    env.reset()
    assert ledger.told == [] and len(ledger.proposed) == 2


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_result_is_credited_to_its_task_in_every_mode(mode: AutoresetMode) -> None:
    ledger = Ledger()
    play_vector(VectorCurriculumSource(vector(mode), ledger), 60)
    assert len(ledger.told) >= 2 * 60 // (STEPS + 1)
    # Slots end together here: in the order of the draws.
    assert ledger.told == returns_of(ledger.proposed[: len(ledger.told)])


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_vector_is_one_episode_and_one_draw_ahead(mode: AutoresetMode) -> None:
    ledger = Ledger()
    play_vector(VectorCurriculumSource(vector(mode), ledger), 60)
    waiting = len(ledger.proposed) - len(ledger.told)
    assert waiting <= 2 * 2


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_environments_of_a_vector_may_share_a_curriculum(mode: AutoresetMode) -> None:
    ledger = Ledger()
    makers = [lambda: CurriculumSource(NumberedEnv(), ledger)] * 2
    play_vector(SyncVectorEnv(makers, autoreset_mode=mode), 60)
    assert len(ledger.told) >= 2 * 60 // (STEPS + 1)
    assert ledger.told == returns_of(ledger.proposed[: len(ledger.told)])


def test_all_modes_draw_the_same_tasks() -> None:
    proposed = []
    for mode in MODES:
        ledger = Ledger()
        play_vector(VectorCurriculumSource(vector(mode), ledger), 50)
        proposed.append(ledger.proposed[:20])
    assert proposed[0] == proposed[1] == proposed[2]


def test_the_batched_vector_plays_what_is_proposed() -> None:
    ledger = Ledger()
    envs = VectorCurriculumSource(FAMILY.make_vec(["train"] * 2), ledger)
    _, info = envs.reset(seed=3)
    begun = list(enumerate(info["task_id"]))
    finished, now, totals = [], list(info["task_id"]), np.zeros(2)
    for _ in range(200):
        _, reward, terminated, truncated, info = envs.step(np.zeros(2, int))
        totals += reward
        for slot in (terminated | truncated).nonzero()[0].tolist():
            finished.append((now[slot], pytest.approx(totals[slot])))
            now[slot], totals[slot] = info["task_id"][slot], 0
            begun.append((slot, now[slot]))
    assert len(finished) > 10
    assert ledger.told == finished
    ahead, later = ledger.proposed[:2], iter(ledger.proposed[2:])
    for slot, task_id in begun:
        assert task_id == ahead[slot]
        ahead[slot] = next(later)


def test_stages_reach_a_vector_and_are_drawn_as_published() -> None:
    staged = Staged(
        [[TASKS[0], TASKS[1]], [TASKS[2]]],
        np.random.default_rng(0),
        StageSettings(window=200, promote_at=2.0),
    )
    counts = dict.fromkeys((task.id for task in TASKS), 0)
    envs = VectorCurriculumSource(
        vector(AutoresetMode.SAME_STEP, 4), staged, judge=lambda total, success: float(total > 9)
    )
    envs.reset()
    for _ in range(300):
        _, _, ended, _, info = envs.step(np.zeros(4, int))
        for task_id in info["task_id"][ended]:
            counts[task_id] += 1
    first, second, never = counts.values()
    assert never == 0 and first + second == 400
    assert chisquare([first, second]).pvalue > 1e-3


def scripted(successes: Sequence[bool] | None) -> ScriptedEnv:
    script = [Episode(observations=[(0, 0), (1, 0)], rewards=[7.0], successes=successes)] * 9
    return ScriptedEnv(script)


def test_success_is_what_the_environment_reports() -> None:
    ledger = Ledger(outcome="success")
    for successes in ([True], [False]):
        play(CurriculumSource(scripted(successes), ledger), 1)
    assert [outcome for _, outcome in ledger.told] == [1.0, 0.0]


def test_an_environment_without_success_needs_a_judge() -> None:
    ledger = Ledger(outcome="success")
    with pytest.raises(UsageError, match="asks for success.*give judge"):
        play(CurriculumSource(scripted(None), ledger), 1)
    judged = CurriculumSource(scripted(None), ledger, judge=lambda total, _: float(total > 5))
    play(judged, 1)
    assert [outcome for _, outcome in ledger.told] == [1.0]


def test_scores_are_left_to_the_learner() -> None:
    replay = LevelReplay(TASKS, np.random.default_rng(0))
    env = CurriculumSource(NumberedEnv(), replay)
    play(env, 5)
    assert replay.replay_probability == 0
    assert env.played is not None
    replay.update(env.played, 1.0)
    assert replay.replay_probability == 1 / 3


def test_an_environment_that_plays_something_else_is_found_out() -> None:
    class Deaf(NumberedEnv):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return super().reset(seed=seed, options={"task": TASKS[0]})

    with pytest.raises(MtrlError, match=f"played task {TASKS[0].id}, the curriculum proposed"):
        play(CurriculumSource(Deaf(), Ledger(TASKS[1:])), 1)


def test_a_vector_that_cannot_be_told_is_refused() -> None:
    envs = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    with pytest.raises(UsageError, match="cannot give one sub-environment a task"):
        VectorCurriculumSource(envs, Ledger())
