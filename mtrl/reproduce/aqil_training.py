"""The trainings behind `mtrl reproduce aqil`: cart-pole, a PID expert, one Q-network.

Source: Zhang and Agarwal 2020 (arXiv:2004.00993). What the paper leaves open is a field of
`AqilSettings`.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor

from mtrl.agents.experts import CartPoleExpert, Derivative, Expert, model_expert, restart
from mtrl.agents.q_learning import (
    Aqil,
    Budget,
    CarryOver,
    DeepQOptions,
    GradedReward,
    QImitation,
)
from mtrl.agents.q_learning.graded_reward import bell
from mtrl.agents.q_learning.value_scale import transform_values
from mtrl.envs.cartpole import CartPole
from mtrl.envs.registry import get_family

__all__ = [
    "AqilSettings",
    "Part",
    "Trained",
    "UprightReward",
    "carry_over",
    "make_agent",
    "modes",
    "paper_family",
    "play",
    "train",
    "train_part",
    "training_env",
    "upright_rewards",
]

Array = NDArray[np.float64]
Part = Literal["reinforcement", "imitation"]
"""A training of its own: from scratch by the true reward, or from the expert and all that follows."""

ANGLE_WIDTH = 10.0
"""sigma_1 of both rewards, in degrees."""
POLE = 2
"""Where the observation has the pole's angle."""


@dataclass(frozen=True, kw_only=True)
class AqilSettings:
    """Everything that decides a training; the defaults are those of the full table."""

    episodes: int = 500
    """Of every mode in all."""
    imitation_episodes: int = 250
    """Before the switch, where there is one."""
    step_limit: int = 3_000
    """Technical: an episode is cut off here, as truncated, so that its last value is still estimated."""
    derivative: Derivative = "difference"
    """What the D term of the expert takes."""
    environments: int = 20
    """Episodes side by side; the paper's number of trajectories of an epoch, which it does not give."""
    updates_per_episode: int = 30
    """Updates that follow each episode, however long it was."""
    learning_rate: float = 1e-3
    """Of Adam."""
    gamma: float = 0.99
    """Discount."""
    double: bool = True
    """Whether the online network chooses the action that the target network values."""
    optimistic: bool = True
    """Whether values begin at those of an expert that never errs, the highest there are, and not near 0."""
    batch_size: int = 128
    """Transitions of an update."""
    buffer_size: int = 300_000
    """Transitions that are kept."""
    target_rate: float = 0.005
    """By how much the target network follows at each update."""
    learning_starts: int = 400
    """Random steps before the first update."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the Q-network's layers."""
    exploration: tuple[float, float] = (1.0, 0.02)
    """First and last chance of a random action, where learning starts from scratch."""
    exploration_share: float = 0.04
    """Of all episodes, over which it falls."""
    learning_rate_factor: float = 0.1
    """At the switch: of the learning rate."""
    margin: float = 0.8
    """At the switch: by how much the imitating policy's action is to lead."""
    anchor_weight: float = 0.5
    """At the switch: of that margin in the loss."""
    anchor_weight_end: float = 0.5
    """The same at the end."""
    settling_updates: int = 5_000
    """At the switch: last updates of imitation, with a learning rate that falls to 0."""
    value_updates: int = 1_000
    """At the switch: updates that learn the imitating policy's values before it may change."""
    test_episodes: int = 20
    """Of the final greedy policy of every mode."""
    test_step_limit: int = 10_000
    """Technical, of test episodes."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one mode did in one training.

    Attributes:
        returns: (episodes,), the true return of every training episode, exploration included.
        lengths: (episodes,), in steps.
        test_returns: (test episodes,), of the greedy policy at the end.
        agreement: share of the test's steps in which it does what the expert would.
        switch: what happened at the switch, where there was one: the Q-values' level before and after.
    """

    returns: Array
    lengths: Array
    test_returns: Array
    agreement: float
    switch: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, from which `from_json` makes an equal one."""
        values = asdict(self)
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: these are no such values.
        """
        arrays = {
            name: np.array(values[name], np.float64)
            for name in ("returns", "lengths", "test_returns")
        }
        agreement, switch = float(values["agreement"]), dict(values["switch"])
        return cls(agreement=agreement, switch=switch, **arrays)


def modes(settings: AqilSettings) -> tuple[str, str, str, str]:
    """Return the names of the four modes, in the order of the paper's table."""
    first, total = settings.imitation_episodes, settings.episodes
    return (
        f"RL {total}",
        f"imitation {first}",
        f"imitation {total}",
        f"imitation {first} + RL {total - first} (AQIL)",
    )


def paper_family(step_limit: int) -> CartPole:
    """Return the paper's cart-pole: Gymnasium's, failing at 50 degrees, cut off at `step_limit`."""
    ranges = {"failure_angle": 50.0, "step_limit": float(step_limit)}
    family = get_family("cartpole", "aqil", ranges=ranges)
    assert isinstance(family, CartPole)
    return family


def upright_rewards(observations: NDArray[Any]) -> Array:
    """Return the true reward, (slots,), of a step taken in each of `observations` (slots, 4)."""
    return bell(np.degrees(np.asarray(observations, np.float64)[:, POLE]), ANGLE_WIDTH)


class UprightReward(VecEnvWrapper):
    """Pays exp(-(angle / 10 degrees)^2 / 2) per step, the angle being that in which the step is taken.

    So both rewards of AQIL are of the same state.
    """

    _seen: NDArray[Any]

    def reset(self) -> NDArray[Any]:
        """Begin an episode everywhere."""
        self._seen = np.asarray(self.venv.reset())
        return self._seen

    def step_wait(self) -> Any:
        """Take the step, and pay for the states before it."""
        rewards = upright_rewards(self._seen).astype(np.float32)
        obs, _, dones, infos = self.venv.step_wait()
        self._seen = np.asarray(obs)
        return obs, rewards, dones, infos


def training_env(settings: AqilSettings) -> VecEnv:
    """Return the paper's cart-pole with the true reward, many times side by side."""
    family = paper_family(settings.step_limit)
    return VecMonitor(UprightReward(family.make_sb3([family.task()] * settings.environments)))


def make_agent(settings: AqilSettings, seed: int) -> QImitation:
    """Return an untrained agent on the paper's cart-pole.

    Where its values begin at the highest there are, what was not tried looks good, and values need
    not climb a hundred steps of rewards first.
    """
    env = training_env(settings)
    first, last = settings.exploration
    options = DeepQOptions(double=settings.double)
    reward = GradedReward(angle_width=ANGLE_WIDTH)
    agent = QImitation(
        "MlpPolicy",
        env,
        method=Aqil(reward=reward, imitation=options, reinforcement=options),
        updates_per_episode=settings.updates_per_episode,
        learning_rate=settings.learning_rate,
        gamma=settings.gamma,
        batch_size=settings.batch_size,
        buffer_size=settings.buffer_size,
        train_freq=1,
        target_update_interval=settings.environments,
        tau=settings.target_rate,
        learning_starts=settings.learning_starts,
        exploration_initial_eps=first,
        exploration_final_eps=last,
        exploration_fraction=settings.exploration_share,
        policy_kwargs={"net_arch": list(settings.hidden), "optimizer_kwargs": {"fused": True}},
        seed=seed,
        device="cpu",
    )
    if settings.optimistic:
        start = torch.zeros((1, *(env.observation_space.shape or ())))
        for network in (agent.q_net, agent.q_net_target):
            transform_values(network, (1.0, 1 / (1 - settings.gamma)), start)
    return agent


def carry_over(settings: AqilSettings) -> CarryOver:
    """Return what passes over at the switch."""
    return CarryOver(
        learning_rate_factor=settings.learning_rate_factor,
        exploration=settings.exploration[1],
        settling_updates=settings.settling_updates,
        value_updates=settings.value_updates,
        margin=settings.margin,
        anchor_weight=settings.anchor_weight,
        anchor_weight_end=settings.anchor_weight_end,
    )


def train_part(part: Part, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Carry out one training, told as JSON values; return them of what each of its modes did."""
    pairs = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
    made = train(part, AqilSettings(**{**settings, **pairs}), seed)
    return {mode: each.to_json() for mode, each in made.items()}


def train(part: Part, settings: AqilSettings, seed: int) -> dict[str, Trained]:
    """Carry out one training and return what each of its modes did.

    "imitation" makes three: its first episodes are imitation alone, and both the longer imitation and
    reinforcement learning go on from there, each with a copy of the whole agent.
    """
    scratch, short, long, aqil = modes(settings)
    agent, book = make_agent(settings, seed), _Episodes(settings)
    total = Budget(episodes=settings.episodes)
    if part == "reinforcement":
        agent.finetune(total, callback=book)
        return {scratch: _trained(agent, book, settings, seed)}
    agent.pretrain(total, expert=CartPoleExpert.of_paper(settings.derivative), callback=book)
    assert book.copied is not None
    first, later = book.first(settings.imitation_episodes), _Episodes()
    made = {
        short: _trained(book.copied, first, settings, seed),
        long: _trained(agent, book, settings, seed),
    }
    rest = Budget(episodes=settings.episodes - settings.imitation_episodes)
    book.copied.finetune(rest, carry_over=carry_over(settings), callback=later)
    made[aqil] = _trained(book.copied, first.then(later), settings, seed)
    return made


class _Episodes(BaseCallback):
    """Writes down every episode that counts; with `settings`, copies the agent after the first part of imitation."""

    def __init__(self, settings: AqilSettings | None = None) -> None:
        super().__init__()
        self.found: dict[int, tuple[float, float]] = {}
        self.copied: QImitation | None = None
        self._to_copy = settings

    @property
    def returns(self) -> list[float]:
        """True returns, in the order in which the episodes began."""
        return [self.found[number][0] for number in sorted(self.found)]

    @property
    def lengths(self) -> list[float]:
        """In steps, likewise."""
        return [self.found[number][1] for number in sorted(self.found)]

    def _on_rollout_start(self) -> None:
        # Here the last step is stored and learnt from; in `_on_step` it is not yet.
        settings = self._to_copy
        if settings and all(number in self.found for number in range(settings.imitation_episodes)):
            assert isinstance(self.model, QImitation)
            # Its environments are its own, and begin anew.
            own = {id(self.model.env): training_env(settings)}
            self.copied, self._to_copy = copy.deepcopy(self.model, own), None

    def _on_step(self) -> bool:
        assert isinstance(self.model, QImitation) and self.model.progress.phase is not None
        phase = self.model.progress.phase
        for slot in np.flatnonzero(self.locals["dones"]).tolist():
            if phase.counts(slot):
                episode = self.locals["infos"][slot]["episode"]
                self.found[phase.numbers[slot]] = (float(episode["r"]), float(episode["l"]))
        return True

    def first(self, episodes: int) -> "_Episodes":
        """Return the first episodes of these."""
        made = _Episodes()
        made.found = {number: self.found[number] for number in range(episodes)}
        return made

    def then(self, later: "_Episodes") -> "_Episodes":
        """Return these episodes and the later ones."""
        made, count = _Episodes(), len(self.found)
        made.found = self.found | {count + number: each for number, each in later.found.items()}
        return made


def _trained(agent: QImitation, book: _Episodes, settings: AqilSettings, seed: int) -> Trained:
    returns, agreement = play(
        model_expert(agent),
        settings.test_episodes,
        step_limit=settings.test_step_limit,
        seed=seed,
        expert=CartPoleExpert.of_paper(settings.derivative),
    )
    switch = {
        name: value for name, value in agent.progress.switch.items() if isinstance(value, float)
    }
    return Trained(
        returns=np.array(book.returns),
        lengths=np.array(book.lengths),
        test_returns=returns,
        agreement=agreement,
        switch=switch,
    )


def play(
    actor: Expert, episodes: int, *, step_limit: int, seed: int, expert: Expert
) -> tuple[Array, float]:
    """Return the true returns (episodes,) of `actor`, and how often `expert` would have done the same.

    All episodes are played side by side.
    """
    family = paper_family(step_limit)
    envs = family.make_vec([family.task()] * episodes)
    obs, _ = envs.reset(seed=seed)
    for one in (actor, expert):
        restart(one, np.ones(episodes, np.bool_))
    returns, running = np.zeros(episodes), np.ones(episodes, np.bool_)
    steps = agreed = 0
    while running.any():
        actions, wanted = actor.actions(obs), expert.actions(obs)
        returns += np.where(running, upright_rewards(obs), 0.0)
        steps += int(running.sum())
        agreed += int((running & (actions == wanted)).sum())
        obs, _, terminated, truncated, _ = envs.step(actions)
        over = terminated | truncated
        for one in (actor, expert):
            restart(one, over)
        running &= ~over
    return returns, agreed / steps
