"""The trainings behind `mtrl reproduce q-pretraining`: deep Q-learning with and without an expert first."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from mtrl.agents.demonstrations import record
from mtrl.agents.experts import Expert, PolicyExpert, model_expert, restart, scripted_expert
from mtrl.agents.q_learning import (
    Aqil,
    Budget,
    CarryOver,
    DeepQOptions,
    Dqfd,
    GradedReward,
    Method,
    QImitation,
    ScaledFeatures,
)
from mtrl.envs.physics import PhysicsFamily
from mtrl.envs.registry import get_family

__all__ = [
    "IN_A_ROW",
    "SETUPS",
    "Curve",
    "Setup",
    "Start",
    "expert_of",
    "greedy_returns",
    "random_player",
    "train",
    "train_start",
]

Array = NDArray[np.float64]
Start = Literal["scratch", "pretrained"]
"""Whether reinforcement learning begins with a network that knows nothing."""


IN_A_ROW = 3
"""Evaluations at a level that count as reaching it: Q-learning from scratch is often there once, by luck."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A task, and how it is learned; all but `episodes` and what is about imitation is shared by both starts."""

    family: str
    """Of the task; its physics are Gymnasium's."""
    method: Literal["aqil", "dqfd"]
    """Of pretraining."""
    teaching_episodes: int
    """Of imitation, or of demonstrations; they count as used."""
    offline_updates: int = 0
    """On demonstrations alone, where there are some."""
    scratch_episodes: int
    """Of reinforcement learning from scratch."""
    later_episodes: int
    """Of reinforcement learning after pretraining."""
    evaluate_every: int = 5
    """Training episodes between two evaluations."""
    test_episodes: int = 20
    """Greedy ones of an evaluation, of the same first states always."""
    environments: int = 4
    """Training episodes side by side."""
    updates_per_episode: int
    """Updates that follow each."""
    learning_rate: float
    """Of Adam."""
    gamma: float = 0.99
    """Discount."""
    batch_size: int = 64
    """Transitions of an update."""
    buffer_size: int = 100_000
    """Transitions that are kept."""
    settling_updates: int = 1_000
    """At the switch: last updates of imitation, with a learning rate that falls to 0."""
    target_rate: float = 0.01
    """By how much the target network follows at each update."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the Q-network's layers."""
    factors: tuple[float, ...]
    """What observations are multiplied by in the network."""
    exploration: tuple[float, float] = (1.0, 0.02)
    """First and last chance of a random action from scratch; later ones begin at the last."""
    exploration_share: float = 0.2
    """Of all episodes from scratch, over which it falls."""


SETUPS: Mapping[str, Setup] = MappingProxyType(
    {
        "cart-pole": Setup(
            family="cartpole",
            method="aqil",
            teaching_episodes=20,
            scratch_episodes=200,
            later_episodes=60,
            updates_per_episode=100,
            learning_rate=1e-3,
            factors=(1.0, 1.0, 5.0, 1.0),
        ),
        "mountain car": Setup(
            family="mountaincar",
            method="dqfd",
            teaching_episodes=10,
            offline_updates=10_000,
            scratch_episodes=300,
            later_episodes=60,
            updates_per_episode=100,
            learning_rate=1e-3,
            factors=(1.0, 15.0),
            exploration_share=0.5,
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Greedy evaluations of one agent while it learned.

    Attributes:
        used: (evaluations,), training episodes so far, of imitation and demonstrations as well.
        returns: (evaluations,), mean return.
        expert: the expert's mean return on the evaluations' episodes.
        switch: which evaluation is that of the policy at the switch; -1 from scratch.
        training_returns: (episodes,), of all training episodes that count, exploration included.
    """

    used: Array
    returns: Array
    expert: float
    switch: int
    training_returns: Array

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, from which `from_json` makes an equal one."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        arrays = {
            name: np.array(values[name], np.float64)
            for name in ("used", "returns", "training_returns")
        }
        return cls(expert=float(values["expert"]), switch=int(values["switch"]), **arrays)

    def reached(self, level: float) -> float:
        """Return the episodes before the first of `IN_A_ROW` evaluations at `level`; NaN for none such."""
        if len(self.returns) < IN_A_ROW:
            return float("nan")
        there = np.lib.stride_tricks.sliding_window_view(self.returns >= level, IN_A_ROW).all(1)
        return float(self.used[there.argmax()]) if there.any() else float("nan")

    @property
    def pretrained(self) -> float:
        """The return at the switch."""
        return float(self.returns[self.switch])

    @property
    def worst_after(self) -> float:
        """The lowest return of all evaluations after the switch."""
        return float(self.returns[self.switch + 1 :].min())


# Playing ----------------------------------------------------------------------------------------------


def expert_of(setup: Setup) -> Expert:
    """Return the scripted expert of the task."""
    return scripted_expert(_family(setup).task())


def random_player(setup: Setup, seed: int) -> Expert:
    """Return a player whose actions are all equally probable."""
    rng, space = np.random.default_rng(seed), _family(setup).action_space
    count = int(getattr(space, "n", 0))
    return PolicyExpert(lambda seen: rng.integers(0, count, size=len(seen)))


def greedy_returns(setup: Setup, player: Expert, *, episodes: int, seed: int) -> Array:
    """Return the returns, (episodes,), of `player`, all episodes side by side."""
    family = _family(setup)
    envs = family.make_vec([family.task()] * episodes)
    obs, _ = envs.reset(seed=seed)
    restart(player, np.ones(episodes, np.bool_))
    returns, running = np.zeros(episodes), np.ones(episodes, np.bool_)
    while running.any():
        obs, rewards, terminated, truncated, _ = envs.step(player.actions(obs))
        returns += np.where(running, rewards, 0.0)
        over = terminated | truncated
        restart(player, over)
        running &= ~over
    return returns


def _family(setup: Setup) -> PhysicsFamily:
    family = get_family(setup.family, "gymnasium")
    assert isinstance(family, PhysicsFamily)
    return family


# Learning ---------------------------------------------------------------------------------------------


def train_start(start: Start, setup: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Carry out one training, told as JSON values, and return its curve as such."""
    pairs = {name: tuple(value) for name, value in setup.items() if isinstance(value, list)}
    return train(Setup(**{**setup, **pairs}), start, seed).to_json()


def train(setup: Setup, start: Start, seed: int) -> Curve:
    """Carry out one training."""
    agent = make_agent(setup, seed)
    curve = _Evaluations(partial(_mean_return, setup, seed), setup.evaluate_every)
    curve.expert = _mean_return(setup, seed, expert_of(setup))
    if start == "scratch":
        agent.finetune(Budget(episodes=setup.scratch_episodes), callback=curve)
        curve.evaluate(agent, setup.scratch_episodes)
        return curve.made()
    _pretrain(agent, setup, seed, curve)
    curve.begin(setup.teaching_episodes, setup.evaluate_every)
    curve.evaluate(agent)
    curve.switch = len(curve.used) - 1
    carry_over = CarryOver(
        settling_updates=setup.settling_updates, exploration=setup.exploration[1]
    )
    agent.finetune(Budget(episodes=setup.later_episodes), carry_over=carry_over, callback=curve)
    curve.evaluate(agent, setup.later_episodes)
    return curve.made()


def make_agent(setup: Setup, seed: int) -> QImitation:
    """Return an untrained agent."""
    first, last = setup.exploration
    return QImitation(
        "MlpPolicy",
        _training_env(setup),
        method=_method(setup),
        updates_per_episode=setup.updates_per_episode,
        learning_rate=setup.learning_rate,
        gamma=setup.gamma,
        batch_size=setup.batch_size,
        buffer_size=setup.buffer_size,
        train_freq=1,
        target_update_interval=setup.environments,
        tau=setup.target_rate,
        learning_starts=200,
        exploration_initial_eps=first,
        exploration_final_eps=last,
        exploration_fraction=setup.exploration_share,
        policy_kwargs={
            "net_arch": list(setup.hidden),
            "features_extractor_class": ScaledFeatures,
            "features_extractor_kwargs": {"factors": setup.factors},
            "optimizer_kwargs": {"fused": True},
        },
        seed=seed,
        device="cpu",
    )


def _training_env(setup: Setup) -> VecEnv:
    family = _family(setup)
    return VecMonitor(family.make_sb3([family.task()] * setup.environments))


def _method(setup: Setup) -> Method:
    if setup.method == "dqfd":
        return Dqfd()
    double = DeepQOptions(double=True)
    return Aqil(reward=GradedReward(), imitation=double, reinforcement=double)


def _pretrain(agent: QImitation, setup: Setup, seed: int, curve: "_Evaluations") -> None:
    if setup.method == "aqil":
        curve.begin(0, setup.evaluate_every)
        budget = Budget(episodes=setup.teaching_episodes)
        agent.pretrain(budget, expert=expert_of(setup), callback=curve)
        return
    shown = record(
        expert_of(setup), _training_env(setup), episodes=setup.teaching_episodes, seed=seed
    )
    agent.pretrain(Budget(updates=setup.offline_updates), demonstrations=shown)


def _mean_return(setup: Setup, seed: int, player: Expert) -> float:
    # The same first states for the expert and at every evaluation: noise is then no difference of policies.
    returns = greedy_returns(setup, player, episodes=setup.test_episodes, seed=10_000 + seed)
    return float(returns.mean())


class _Evaluations(BaseCallback):
    """Evaluates the agent every so many episodes."""

    def __init__(self, evaluate: Callable[[Expert], float], every: int) -> None:
        super().__init__()
        self.used: list[int] = []
        self.returns: list[float] = []
        self.expert = float("nan")
        self.switch = -1
        self.training: list[float] = []
        self._evaluate = evaluate
        self.begin(0, every)

    def begin(self, before: int, every: int) -> None:
        """Count from `before` episodes on, in a new phase."""
        self._before, self._every, self._due = before, every, every

    def evaluate(self, agent: QImitation, episodes: int = 0) -> None:
        """Evaluate after `episodes` of the phase."""
        self.used.append(self._before + episodes)
        self.returns.append(self._evaluate(model_expert(agent)))

    def made(self) -> Curve:
        """Return the curve."""
        return Curve(
            used=np.array(self.used, np.float64),
            returns=np.array(self.returns),
            expert=self.expert,
            switch=self.switch,
            training_returns=np.array(self.training),
        )

    def _on_step(self) -> bool:
        assert isinstance(self.model, QImitation) and self.model.progress.phase is not None
        phase = self.model.progress.phase
        for slot in np.flatnonzero(self.locals["dones"]).tolist():
            if phase.counts(slot):
                self.training.append(float(self.locals["infos"][slot]["episode"]["r"]))
        return True

    def _on_rollout_start(self) -> None:
        # Here the last step is stored and learnt from; in `_on_step` it is not yet.
        assert isinstance(self.model, QImitation) and self.model.progress.phase is not None
        episodes = self.model.progress.phase.episodes
        if episodes >= self._due:
            self.evaluate(self.model, episodes)
            self._due = episodes - episodes % self._every + self._every
