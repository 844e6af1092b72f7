"""The trainings behind `mtrl reproduce aqil`: cart-pole, a PID expert, one Q-network.

Source: Zhang and Agarwal 2020 (arXiv:2004.00993). What the paper leaves open is a field of
`AqilSettings`.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from mtrl.agents.experts import CartPoleExpert, Derivative, Expert, model_expert, restart
from mtrl.agents.q_learning import Aqil, Budget, CarryOver, GradedReward, QImitation
from mtrl.agents.q_learning.graded_reward import bell
from mtrl.envs.cartpole import CartPole
from mtrl.envs.registry import get_family

__all__ = [
    "AqilSettings",
    "Part",
    "Trained",
    "UprightReward",
    "make_agent",
    "modes",
    "paper_family",
    "play",
    "train",
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
    learning_rate: float = 5e-4
    """Of Adam."""
    gamma: float = 0.99
    """Discount."""
    batch_size: int = 128
    """Transitions of an update."""
    buffer_size: int = 200_000
    """Transitions that are kept."""
    train_every: int = 4
    """Steps between two updates."""
    target_every: int = 1_000
    """Steps between two copies to the target network."""
    learning_starts: int = 100
    """Random steps before the first update."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the Q-network's layers."""
    exploration: tuple[float, float] = (1.0, 0.02)
    """First and last chance of a random action, where learning starts from scratch."""
    exploration_share: float = 0.1
    """Of all episodes, over which it falls; after the switch, of those that are left."""
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


class UprightReward(gym.Wrapper[Any, Any, Any, Any]):
    """Pays exp(-(angle / 10 degrees)^2 / 2) per step, the angle being that in which the step is taken.

    So both rewards of AQIL are of the same state.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._seen: NDArray[Any] = np.zeros((1, 4))

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        obs, info = self.env.reset(**arguments)
        self._seen = obs[None]
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        reward = float(upright_rewards(self._seen)[0])
        obs, _, terminated, truncated, info = self.env.step(action)
        self._seen = obs[None]
        return obs, reward, terminated, truncated, info


def make_agent(settings: AqilSettings, seed: int) -> QImitation:
    """Return an untrained agent on the paper's cart-pole."""
    family = paper_family(settings.step_limit)
    first, last = settings.exploration
    return QImitation(
        "MlpPolicy",
        UprightReward(family.make(family.task())),
        method=Aqil(reward=GradedReward(angle_width=ANGLE_WIDTH)),
        learning_rate=settings.learning_rate,
        gamma=settings.gamma,
        batch_size=settings.batch_size,
        buffer_size=settings.buffer_size,
        train_freq=settings.train_every,
        target_update_interval=settings.target_every,
        learning_starts=settings.learning_starts,
        exploration_initial_eps=first,
        exploration_final_eps=last,
        exploration_fraction=settings.exploration_share,
        policy_kwargs={"net_arch": list(settings.hidden)},
        seed=seed,
        device="cpu",
    )


def train(part: Part, settings: AqilSettings, seed: int) -> dict[str, Trained]:
    """Carry out one training and return what each of its modes did.

    "imitation" makes three: its first episodes are imitation alone, and both the longer imitation and
    reinforcement learning go on from there, each with a copy of the whole agent.
    """
    scratch, short, long, aqil = modes(settings)
    agent, book = make_agent(settings, seed), _Episodes(settings.imitation_episodes)
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
    carry_over = CarryOver(value_updates=settings.value_updates)
    book.copied.finetune(rest, carry_over=carry_over, callback=later)
    made[aqil] = _trained(book.copied, first.then(later), settings, seed)
    return made


class _Episodes(BaseCallback):
    """Writes down every episode, and copies the agent once `copy_after` of them are over."""

    def __init__(self, copy_after: int | None = None) -> None:
        super().__init__()
        self.returns: list[float] = []
        self.lengths: list[float] = []
        self.copied: QImitation | None = None
        self._copy_after = copy_after

    def _on_rollout_start(self) -> None:
        # Here the last step is stored and learnt from; in `_on_step` it is not yet.
        if self._copy_after is not None and len(self.returns) >= self._copy_after:
            self.copied, self._copy_after = copy.deepcopy(self.model), None  # type: ignore[assignment]

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.returns.append(float(info["episode"]["r"]))
                self.lengths.append(float(info["episode"]["l"]))
        return True

    def first(self, episodes: int) -> "_Episodes":
        """Return the first episodes of these."""
        made = _Episodes()
        made.returns, made.lengths = self.returns[:episodes], self.lengths[:episodes]
        return made

    def then(self, later: "_Episodes") -> "_Episodes":
        """Return these episodes and the later ones."""
        made = _Episodes()
        made.returns = self.returns + later.returns
        made.lengths = self.lengths + later.lengths
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
