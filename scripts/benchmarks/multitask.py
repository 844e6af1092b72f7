"""Multi-task PPO on cart-pole, by us and by Stable-Baselines3 on the same tasks."""

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import nn

from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.multitask.ppo import MultiTaskPPO
from mtrl.agents.networks import MLP, NetworkConfig, OneHot, PerTask
from mtrl.benchmarks.measure import Build, Step
from mtrl.envs.cartpole import CartPole
from mtrl.envs.registry import get_family
from mtrl.envs.task import Task

__all__ = ["Problem", "builds"]

Work = Literal["rollout", "iteration"]
OURS, PEER = "mtrl", "Stable-Baselines3"
PEER_BARE = "Stable-Baselines3, environments without gymnasium.make's wrappers"
PEER_OURS = "Stable-Baselines3, our Gymnasium environments"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Equal for all variants: two hidden layers each for actions and values, told the task."""

    tasks: int = 10
    """Tasks, of wide ranges and with reversed motors; environment i plays task i modulo this."""
    envs: int = 64
    """Environments stepped together."""
    steps: int = 128
    """Steps of each environment in a rollout."""
    batch: int = 1024
    """Samples of a minibatch."""
    epochs: int = 4
    """Passes over a rollout."""
    units: tuple[int, ...] = (64, 64)
    """Of the hidden layers, with tanh."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return what both algorithms take."""
        sizes = {"n_steps": self.steps, "batch_size": self.batch, "n_epochs": self.epochs}
        return {**sizes, "seed": 0, "device": "cpu"}

    def drawn(self) -> tuple[CartPole, list[Task]]:
        """Return the family and the tasks."""
        family = get_family("cartpole", "wide")
        assert isinstance(family, CartPole)
        return family, family.sample(self.tasks, np.random.default_rng(0), "train")


class _Told(gym.ObservationWrapper[Any, Any, Any]):
    """The cheapest way to append a task's unit vector."""

    def __init__(self, env: gym.Env[Any, Any], place: int, tasks: int) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self._unit = np.eye(tasks, dtype=np.float32)[place]
        low, high = (
            np.append(bound, self._unit * 0 + i) for i, bound in enumerate((space.low, space.high))
        )
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: Any) -> Any:
        return np.concatenate((observation, self._unit))


def _peer_env(problem: Problem, variant: str) -> VecEnv:
    """Return a `DummyVecEnv` with monitors, of Gymnasium's environments or of ours."""
    family, tasks = problem.drawn()

    def single(task: Task) -> gym.Env[Any, Any]:
        if variant == PEER_OURS:
            return family.make(task)
        limit = int(task.params["step_limit"])
        if variant == PEER_BARE:
            return gym.wrappers.TimeLimit(family.gymnasium_env(task), limit)
        made = gym.make(family.gymnasium_id, max_episode_steps=limit)
        family.set_attributes(made.unwrapped, task)
        return made

    def told(place: int) -> gym.Env[Any, Any]:
        return _Told(single(tasks[place % len(tasks)]), place % len(tasks), len(tasks))

    places = iter(range(problem.envs))
    return make_vec_env(lambda: told(next(places)), problem.envs, vec_env_cls=DummyVecEnv)


def _peer(problem: Problem, variant: str) -> PPO:
    units = list(problem.units)
    network = {"net_arch": {"pi": units, "vf": units}, "activation_fn": nn.Tanh}
    env = _peer_env(problem, variant)
    return PPO("MlpPolicy", env, policy_kwargs=network, **problem.settings)


def _mtrl(problem: Problem) -> PPO:
    family, tasks = problem.drawn()
    env = MultiTaskVecEnv(family.make_sb3([tasks[0]] * problem.envs), tasks)
    network = NetworkConfig(
        trunk=MLP(hidden=problem.units, activation="tanh"), conditioning=OneHot(), head=PerTask()
    )
    policy = {"network": network, "share_trunk": False}
    return MultiTaskPPO("MultiTaskPolicy", env, policy_kwargs=policy, **problem.settings)


def step_of(problem: Problem, variant: str, work: Work) -> Step:
    """Return what collects one rollout, and trains on it if an iteration is asked for."""
    agent = _mtrl(problem) if variant == OURS else _peer(problem, variant)
    _, callback = agent._setup_learn(10**9, CallbackList([]))
    callback.on_training_start({}, {})

    def step() -> None:
        assert agent.env is not None
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
        if work == "iteration":
            agent.train()

    return step


def builds(problem: Problem, work: Work) -> dict[str, Build]:
    """Return the variants by name, the peer first."""
    return {
        name: Build(step_of, (problem, name, work)) for name in (PEER, PEER_BARE, PEER_OURS, OURS)
    }
