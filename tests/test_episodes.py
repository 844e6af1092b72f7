"""Facts about batches of episodes made of Gymnasium environments, one per slot."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from mtrl.envs.batched import BatchedEnv, BatchedFamily
from mtrl.envs.cartpole import CartPole
from mtrl.envs.contexts.family import ContextFamily
from mtrl.envs.distributions import Choice
from mtrl.envs.episode_envs import EpisodeEnvs
from mtrl.envs.episodes import episode_batch
from mtrl.envs.family import TaskFamily, TaskSource
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.task import Split, Task
from mtrl.errors import MtrlError, UsageError


@dataclass
class Unbatched:
    """A family of ours as a third party's would be: environments, and no batch."""

    family: BatchedFamily
    splits_overlap: bool = False
    made: list[Any] = field(default_factory=list)
    closed: int = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("name", "observation_space", "action_space", "horizon", "context"):
            return getattr(self.family, name)
        raise AttributeError(name)

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        return self.family.sample(n, rng, split)

    def make(self, task: TaskSource, render_mode: str | None = None) -> gym.Env[Any, Any]:
        env = self.family.make(task, render_mode)
        env.close = self._count  # type: ignore[method-assign]
        self.made.append(task)
        return env

    def _count(self) -> None:
        self.closed += 1

    def make_vec(self, tasks: Sequence[TaskSource], seed: int | None = None) -> Any:
        return self.family.make_vec(tasks, seed)


FAMILIES = [
    CartPole(ranges={"length": (0.1, 0.5), "step_limit": Choice([5.0, 40.0])}),
    Navigation2D(varying_start=True, terminate_at_goal=True, horizon=12),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_it_equals_the_batch_of_tensor_dynamics_slot_by_slot(family: BatchedFamily) -> None:
    tasks = family.sample(3, np.random.default_rng(0), "train")
    ours, theirs = (
        episode_batch(Unbatched(family), tasks, repeats=2),
        family.batch(tasks, repeats=2),
    )
    assert isinstance(ours, EpisodeEnvs) and isinstance(theirs, BatchedEnv)
    assert ours.horizon == theirs.horizon
    family.action_space.seed(0)
    for first in (0, 100):
        seeds = torch.arange(first, first + 6)
        assert_array_equal(ours.reset(seeds), theirs.reset(seeds))
        for _ in range(45):  # beyond the end of every episode: ended slots stand still
            action = torch.from_numpy(np.array([family.action_space.sample() for _ in range(6)]))
            mine, peer = ours.step(action), theirs.step(action)
            for one, other in zip(mine, peer, strict=True):
                assert_array_equal(one, other)
            assert mine[0].dtype == mine[1].dtype == torch.float32
        assert bool((mine[2] | mine[3]).all())
    assert not bool(mine[1].any())


def test_what_it_returned_does_not_change_later() -> None:
    family = Unbatched(Navigation2D())
    batch = episode_batch(family, family.sample(2, np.random.default_rng(0), "train"))
    first = batch.reset(torch.arange(2))
    kept = first.clone()
    stepped = batch.step(torch.ones(2, 2))
    copies = [each.clone() for each in stepped]
    batch.step(torch.ones(2, 2))
    assert_array_equal(first, kept)
    for each, copied in zip(stepped, copies, strict=True):
        assert_array_equal(each, copied)


def test_environments_are_reused_by_resets_and_closed_with_the_batch() -> None:
    family = Unbatched(Navigation2D())
    tasks = family.sample(2, np.random.default_rng(0), "train")
    batch = episode_batch(family, tasks, repeats=2)
    for first in (0, 10):
        batch.reset(torch.arange(first, first + 4))
    assert family.made == [tasks[0], tasks[0], tasks[1], tasks[1]]
    assert family.closed == 0
    del batch
    gc.collect()
    assert family.closed == 4


def test_a_context_family_keeps_its_environments_for_the_next_batch() -> None:
    family = ContextFamily(name="pole", env="CartPole-v1", ranges={"length": (0.25, 1.0)})
    tasks = family.sample(4, np.random.default_rng(0), "train")
    batch = family.batch(tasks[:2])
    first = {id(env) for env in batch._envs}
    batch.reset(torch.arange(2))
    del batch
    gc.collect()
    other = family.batch(tasks[2:])
    assert {id(env) for env in other._envs} == first
    obs, fresh = other.reset(torch.arange(2)), family.make(tasks[2])
    assert_array_equal(obs[0], fresh.reset(seed=0)[0])
    mine, theirs = other.step(torch.tensor([1, 1])), fresh.step(1)
    assert_array_equal(mine[0][0], theirs[0])  # the new task, not the one it was made for


def test_a_failing_slot_is_named_with_its_task() -> None:
    family = Unbatched(Navigation2D())
    tasks = family.sample(2, np.random.default_rng(0), "train")
    batch = EpisodeEnvs(family, tasks)
    batch.reset(torch.arange(2))
    batch._envs[1].step = lambda action: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(MtrlError, match=f"'navigation2d', task {tasks[1].id}.*ZeroDivisionError"):
        batch.step(torch.zeros(2, 2))


def test_wrong_requests_are_refused() -> None:
    family = Unbatched(Navigation2D())
    assert isinstance(family, TaskFamily)
    with pytest.raises(UsageError, match="tasks is empty"):
        episode_batch(family, [])
    batch = episode_batch(family, family.sample(2, np.random.default_rng(0), "train"))
    with pytest.raises(UsageError, match=r"seeds has shape \(3,\); give 2"):
        batch.reset(torch.arange(3))
    lake = ContextFamily(
        name="lake", env="FrozenLake-v1", ranges={"desc": 1.0}, split_rule="shared", horizon=3
    )
    with pytest.raises(UsageError, match="'lake' are Discrete.*flatten"):
        lake.batch(lake.sample(1, np.random.default_rng(0), "train"))
