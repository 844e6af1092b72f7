"""The trainings behind `mtrl reproduce multitask-pretraining`: a shared Q-network, from five tasks to five new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from mtrl.agents.experts import Expert, TaskExperts, model_expert, restart, scripted_expert
from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.networks import MLP, NetworkConfig, Shared, TaskSpec
from mtrl.agents.policies import MultiTaskQPolicy
from mtrl.agents.q_learning import (
    Aqil,
    Budget,
    CarryOver,
    DeepQOptions,
    GradedReward,
    QImitation,
)
from mtrl.envs.physics import PhysicsFamily
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task
from mtrl.seeding import numpy_generator

__all__ = [
    "Curve",
    "Settings",
    "Start",
    "all_tasks",
    "greedy_returns",
    "make_agent",
    "task_env",
    "train",
    "train_start",
]

Array = NDArray[np.float64]
Start = Literal["scratch", "pretrained"]
"""Whether the Q-network begins with what the experts of the other tasks taught it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides a training, but its start and its seed."""

    family: str = "cartpole"
    """Of all tasks."""
    preset: str = "default-physics"
    """Ranges of their physics."""
    old_tasks: int = 5
    """Those with experts."""
    new_tasks: int = 5
    """Those that are to be solved."""
    teaching_steps: int = 15_000
    """Of imitation, of all old tasks together."""
    steps: int = 60_000
    """Of reinforcement learning, of all new tasks together."""
    evaluate_every: int = 2_000
    """Steps between two evaluations."""
    test_episodes: int = 4
    """Greedy ones of each task, of the same first states always."""
    environments_per_task: int = 2
    """Side by side."""
    updates_per_round: int = 2
    """Updates after each step of all environments."""
    learning_rate: float = 5e-4
    """Of Adam."""
    gamma: float = 0.99
    """Discount."""
    batch_size: int = 128
    """Transitions of an update."""
    buffer_size: int = 100_000
    """Transitions that are kept."""
    target_rate: float = 0.005
    """By how much the target network follows at each update."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the trunk's layers."""
    exploration: tuple[float, float] = (1.0, 0.02)
    """First and last chance of a random action from scratch; later ones begin at the last."""
    exploration_share: float = 0.2
    """Of all steps from scratch, over which it falls."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Greedy evaluations of one agent on the new tasks while it learned them.

    Attributes:
        steps: (evaluations,), of the new tasks, from 0 on.
        returns: (evaluations, new tasks), means over test episodes.
        old_returns: (old tasks,), at the end of pretraining; none from scratch.
    """

    steps: Array
    returns: Array
    old_returns: Array

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, from which `from_json` makes an equal one."""
        return {name: value.tolist() for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        names = ("steps", "returns", "old_returns")
        return cls(**{name: np.array(values[name], np.float64) for name in names})

    def solved(self, level: float) -> Array:
        """Return after how many steps each task's return, (new tasks,), is first `level`; NaN for never."""
        there = self.returns >= level
        return np.where(there.any(0), self.steps[there.argmax(0)], np.nan)

    def all_solved(self, level: float) -> float:
        """Return after how many steps the mean return of all tasks is first `level`; NaN for never."""
        there = np.flatnonzero(self.returns.mean(1) >= level)
        return float(self.steps[there[0]]) if len(there) else float("nan")


def all_tasks(settings: Settings, seed: int) -> list[Task]:
    """Return the old tasks and then the new ones."""
    family = _family(settings)
    rng = numpy_generator(seed, "tasks of multitask-pretraining")
    old = family.sample(settings.old_tasks, rng, "train")
    return [*old, *family.sample(settings.new_tasks, rng, "test")]


def task_env(settings: Settings, tasks: Sequence[Task], played: Sequence[Task]) -> MultiTaskVecEnv:
    """Return environments that play some of `tasks`, and tell which of them all."""
    family = _family(settings)
    slots = list(played) * settings.environments_per_task
    return MultiTaskVecEnv(family.make_sb3(slots), list(tasks), assign=False)


def make_agent(settings: Settings, seed: int, env: MultiTaskVecEnv) -> QImitation:
    """Return an untrained agent that is not told which task it plays: trunk and head are shared."""
    first, last = settings.exploration
    double = DeepQOptions(double=True)
    network = NetworkConfig(trunk=MLP(hidden=settings.hidden), head=Shared())
    return QImitation(
        MultiTaskQPolicy,
        env,
        method=Aqil(reward=GradedReward(), imitation=double, reinforcement=double),
        learning_rate=settings.learning_rate,
        gamma=settings.gamma,
        batch_size=settings.batch_size,
        buffer_size=settings.buffer_size,
        train_freq=1,
        gradient_steps=settings.updates_per_round,
        target_update_interval=env.num_envs,
        tau=settings.target_rate,
        learning_starts=500,
        exploration_initial_eps=first,
        exploration_final_eps=last,
        exploration_fraction=settings.exploration_share,
        policy_kwargs={
            "network": network,
            "spec": TaskSpec(tasks=len(env.tasks)),
            "optimizer_kwargs": {"fused": True},
        },
        seed=seed,
        device="cpu",
    )


def train_start(start: Start, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Carry out one training, told as JSON values, and return its curve as such."""
    pairs = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
    return train(Settings(**{**settings, **pairs}), start, seed).to_json()


def train(settings: Settings, start: Start, seed: int) -> Curve:
    """Carry out one training: with "pretrained" on the old tasks first, then on the new ones."""
    tasks = all_tasks(settings, seed)
    old, new = tasks[: settings.old_tasks], tasks[settings.old_tasks :]
    env = task_env(settings, tasks, new)
    if start == "scratch":
        agent = make_agent(settings, seed, env)
        log, taught, carry_over = _Evaluations(settings, tasks, new, seed), np.zeros(0), None
    else:
        agent = make_agent(settings, seed, task_env(settings, tasks, old))
        experts = TaskExperts([scripted_expert(task) for task in tasks])
        agent.pretrain(Budget(steps=settings.teaching_steps), expert=experts)
        taught = greedy_returns(settings, tasks, old, model_expert(agent), seed)
        agent.set_env(env)
        log = _Evaluations(settings, tasks, new, seed)
        carry_over = CarryOver(exploration=settings.exploration[1])
    log.evaluate(agent, 0)
    agent.finetune(Budget(steps=settings.steps), carry_over=carry_over, callback=log)
    log.evaluate(agent, settings.steps)
    return Curve(
        steps=np.array(log.steps, np.float64), returns=np.array(log.returns), old_returns=taught
    )


def greedy_returns(
    settings: Settings, tasks: Sequence[Task], played: Sequence[Task], player: Expert, seed: int
) -> Array:
    """Return the mean returns, (played,), of `player`, who is told which of `tasks` it is."""
    family = _family(settings)
    slots = [task for task in played for _ in range(settings.test_episodes)]
    envs = family.make_vec(slots)
    ids = [task.id for task in tasks]
    contexts = np.eye(len(tasks), dtype=np.float32)[[ids.index(task.id) for task in slots]]
    # The same first states at every evaluation: its noise is then no drop of the policy's.
    obs, _ = envs.reset(seed=10_000 + seed)
    returns, running = np.zeros(len(slots)), np.ones(len(slots), np.bool_)
    restart(player, running)
    while running.any():
        actions = player.actions(np.concatenate([obs, contexts], 1))
        obs, rewards, terminated, truncated, _ = envs.step(actions)
        returns += np.where(running, rewards, 0.0)
        over = terminated | truncated
        restart(player, over)
        running &= ~over
    means: Array = returns.reshape(len(played), -1).mean(1)
    return means


def _family(settings: Settings) -> PhysicsFamily:
    family = get_family(settings.family, settings.preset)
    assert isinstance(family, PhysicsFamily)
    return family


class _Evaluations(BaseCallback):
    """Evaluates the agent on the new tasks every so many steps."""

    def __init__(
        self, settings: Settings, tasks: Sequence[Task], played: Sequence[Task], seed: int
    ) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.returns: list[Array] = []
        self._settings, self._tasks, self._played, self._seed = settings, tasks, played, seed

    def evaluate(self, agent: QImitation, steps: int) -> None:
        """Evaluate after `steps` of the new tasks."""
        player = model_expert(agent)
        self.steps.append(steps)
        self.returns.append(
            greedy_returns(self._settings, self._tasks, self._played, player, self._seed)
        )

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # Here the last step is stored and learnt from; in `_on_step` it is not yet.
        assert isinstance(self.model, QImitation) and self.model.progress.phase is not None
        steps = self.num_timesteps - self.model.progress.phase.first_step
        if steps >= self.steps[-1] + self._settings.evaluate_every:
            self.evaluate(self.model, steps)
