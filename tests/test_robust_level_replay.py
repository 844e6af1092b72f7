"""Robust level replay: what is not replayed is scored, and no gradient knows of it."""

from typing import Any

import numpy as np
import pytest
import torch
from counting_family import Counting, task
from numpy.testing import assert_array_equal
from stable_baselines3 import PPO
from torch.testing import assert_close

from mtrl.agents.level_scores import LevelScores
from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.multitask.ppo import MultiTaskPPO
from mtrl.envs.curricula import LevelReplay, ReplaySettings
from mtrl.envs.curricula.sb3_source import CurriculumVecEnv
from mtrl.errors import UsageError

LEVELS = [task(1.0, lasts=2), task(2.0, lasts=3), task(3.0, lasts=5)]
SLOTS, STEPS = 2, 8
REPLAYED = 1


class Followed(MultiTaskPPO):
    """Notes the observations of every minibatch, and the label of what was played at every step."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.rounds: list[tuple[np.ndarray, np.ndarray]] = []
        self.labels: list[list[int | None]] = []

    def train(self) -> None:
        buffer, drawn = self.rollout_buffer, [np.zeros((0, *self.rollout_buffer.obs_shape))]
        plain = buffer.get

        def noting(size: int | None = None) -> Any:
            for batch in plain(size):
                drawn.append(batch.observations.numpy())
                yield batch

        buffer.get = noting
        super().train()
        buffer.get = plain
        replayed = np.array(self.labels) == REPLAYED
        self.rounds.append((np.concatenate(drawn), buffer.observations[replayed]))
        self.labels = []


class Labels(LevelScores):
    """Notes what every environment plays, before each step."""

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        self._note()

    def _on_step(self) -> bool:
        super()._on_step()
        if len(self.model.labels) < STEPS:  # type: ignore[attr-defined]
            self._note()
        return True

    def _note(self) -> None:
        played = [None if one is None else one.label for one in self._env.played]
        self.model.labels.append(played)  # type: ignore[attr-defined]


def agent(kind: Any = Followed, **settings: Any) -> Any:
    replay = LevelReplay(LEVELS, np.random.default_rng(3), ReplaySettings(**settings))
    env = CurriculumVecEnv(Counting().make_sb3(LEVELS[:SLOTS]), replay)
    common = {"n_steps": STEPS, "batch_size": 4, "n_epochs": 1, "seed": 0, "device": "cpu"}
    if not issubclass(kind, MultiTaskPPO):
        return kind("MlpPolicy", env, **common)
    told = MultiTaskVecEnv(env, LEVELS, assign=False)
    buffer = {"rollout_buffer_kwargs": {"equal": False}}
    return kind("MultiTaskPolicy", told, **common, **buffer)


def rows(observations: np.ndarray) -> np.ndarray:
    # Every observation holds the step and a number of the episode: it is met once.
    return np.unique(observations, axis=0)


def test_minibatches_hold_the_steps_of_replays_and_no_others() -> None:
    robust = agent(robust=True, replay=0.5)
    robust.learn(12 * SLOTS * STEPS, callback=Labels())
    shares = [len(replayed) / (SLOTS * STEPS) for _, replayed in robust.rounds]
    assert min(shares) < 0.5 and max(shares) == 1
    for drawn, replayed in robust.rounds:
        assert len(drawn) == len(replayed)
        assert_array_equal(rows(drawn), rows(replayed))
    assert robust.num_timesteps == 12 * SLOTS * STEPS
    plain = agent(robust=False, replay=0.5)
    plain.learn(2 * SLOTS * STEPS, callback=Labels())
    assert all(len(drawn) == SLOTS * STEPS for drawn, _ in plain.rounds)


@pytest.mark.parametrize("robust", [True, False])
def test_a_rollout_without_a_replay_changes_no_parameter(robust: bool) -> None:
    long = [task(1.0, lasts=1000), task(2.0, lasts=1000)]
    replay = LevelReplay(long, np.random.default_rng(0), ReplaySettings(robust=robust))
    env = CurriculumVecEnv(Counting(horizon=1000).make_sb3(long), replay)
    told = MultiTaskVecEnv(env, long, assign=False)
    made: Any = MultiTaskPPO(
        "MultiTaskPolicy", told, n_steps=STEPS, batch_size=4, seed=0, device="cpu"
    )
    before = {name: value.clone() for name, value in made.policy.state_dict().items()}
    made.learn(SLOTS * STEPS, callback=LevelScores())
    after = made.policy.state_dict()
    # Scored it is all the same.
    assert (replay.scores > 0).any()
    if robust:
        assert_close(after, before, rtol=0, atol=0)
    else:
        assert any(not torch.equal(after[name], before[name]) for name in before)


def test_an_algorithm_that_trains_on_everything_is_refused() -> None:
    with pytest.raises(UsageError, match=r"PPO trains on every step; use MultiTaskPPO"):
        agent(PPO, robust=True).learn(SLOTS * STEPS, callback=LevelScores())
    agent(PPO, robust=False).learn(SLOTS * STEPS, callback=LevelScores())


def test_a_rollout_buffer_that_keeps_everything_is_refused() -> None:
    made = agent(MultiTaskPPO, robust=True)
    made.use_sde = True
    with pytest.raises(UsageError, match="use_sde False"):
        made.learn(SLOTS * STEPS, callback=LevelScores())
