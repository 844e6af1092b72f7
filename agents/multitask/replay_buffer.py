"""A replay buffer in which each task has a part of its own, and an equal share of every minibatch."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from mtrl.agents.multitask.statistics import RewardScale
from mtrl.agents.q_learning.n_step import NO_STEP, n_step_returns, paths
from mtrl.errors import UsageError

__all__ = ["MultiTaskReplayBuffer"]

Index = NDArray[np.int64]


class MultiTaskReplayBuffer(ReplayBuffer):
    """Transitions of many tasks; the oldest of a task makes room for that task's newest.

    A transition's task is the one-hot context at the end of its observation. Each task owns an equal
    part of the capacity, so that none is crowded out by another. A minibatch has equal shares of the
    tasks that are present; what is left over goes to tasks drawn at random. With one task, it stores and
    draws what Stable-Baselines3's `ReplayBuffer` does. What is drawn comes from numpy's global stream,
    as there, which an algorithm's `seed` decides.

    The arrays are those of `ReplayBuffer`; in their first two axes taken as one, task i has the places
    from i * `capacity` to (i + 1) * `capacity`.

    Args:
        buffer_size: number of transitions, of all tasks together; the rest of its division by the
            tasks stays unused.
        observation_space: a Box of vectors that end in the one-hot context.
        *others: as of `ReplayBuffer`.
        tasks: how many tasks there are.
        n_steps: steps of the returns that are drawn, as by `NStepReplayBuffer`: as many, or up to the end
            of the episode or to the newest step.
        gamma: discount inside such a return; must be the algorithm's.
        **other: as of `ReplayBuffer`; `optimize_memory_usage` is not possible.

    Attributes:
        tasks: as given.
        capacity: transitions that a task has room for.
        counts: (tasks,), transitions stored of each task.
        positions: (tasks,), where in its part each task's next transition goes.
        successors: where the transition after each one lies, laid out as the other arrays; only with more
            than one step.
        newest: (environments,), where each one's transition before the next lies, if its episode goes on.
        reward_scale: what scales rewards as they are drawn, by what is known of their tasks then; it
            learns from the rewards that are stored, which stay as they are. None scales nothing. Its
            bound is on what a return of several steps adds up to.
        included: (tasks,), which tasks minibatches are drawn from; all at first.

    Raises:
        UsageError: less room than tasks, an observation space without the context, or arguments that
            the buffer has no use for.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: gym.Space[Any],
        *others: Any,
        tasks: int,
        n_steps: int = 1,
        gamma: float = 0.99,
        **other: Any,
    ) -> None:
        _check(observation_space, tasks, other)
        super().__init__(buffer_size, observation_space, *others, **other)
        self.tasks, self.n_steps, self.gamma = tasks, n_steps, gamma
        self.capacity = self.buffer_size * self.n_envs // tasks
        if self.capacity < 1:
            raise UsageError(
                f"buffer_size is {buffer_size} for {tasks} tasks; it must have room for at least one "
                "transition of each"
            )
        _check_several(n_steps, gamma, self.capacity, self.n_envs)
        if n_steps > 1:
            self.successors = np.empty((self.buffer_size, self.n_envs), np.int64)
            self.newest = np.empty(self.n_envs, np.int64)
        self.included = np.ones(tasks, np.bool_)
        self.reward_scale: RewardScale | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all transitions."""
        super().reset()
        self.counts = np.zeros(self.tasks, np.int64)
        self.positions = np.zeros(self.tasks, np.int64)
        self.cut()

    def cut(self) -> None:
        """Declare that the next transitions do not continue the newest ones."""
        if self.n_steps > 1:
            self.newest[:] = NO_STEP

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store a transition of each environment.

        Raises:
            UsageError: an observation does not end in a one-hot context.
        """
        tasks = self._tasks_of(obs)
        places = self._places(tasks)
        self._flat(self.observations)[places] = obs
        self._flat(self.next_observations)[places] = next_obs
        self._flat(self.actions)[places] = action.reshape(self.n_envs, self.action_dim)
        self._flat(self.rewards)[places] = reward
        self._flat(self.dones)[places] = done
        if self.handle_timeout_termination:
            late = [info.get("TimeLimit.truncated", False) for info in infos]
            self._flat(self.timeouts)[places] = late
        if self.n_steps > 1:
            self._continue(places, np.asarray(done, np.bool_))
        if self.reward_scale is not None:
            self.reward_scale.update(reward, tasks)
            self.reward_scale.begin(np.flatnonzero(done))

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw transitions with replacement, equally many of each task that is present.

        Args:
            batch_size: how many.
            env: what normalises observations and rewards; the policies refuse a context that is
                normalised.

        Raises:
            UsageError: no transition is stored of any task that is included.
        """
        return self._gather(self._draw(batch_size), env)

    def _draw(self, batch_size: int) -> Index:
        """Return places of the flattened arrays."""
        present = np.flatnonzero((self.counts > 0) & self.included)
        if len(present) == 0:
            raise UsageError(
                "there is nothing to draw: no task that is included has a transition; raise "
                "learning_starts"
            )
        # Stable-Baselines3 draws from this stream too: one seed decides all of an algorithm.
        if self.tasks == 1:
            rows = np.random.randint(0, self.size(), size=batch_size)  # noqa: NPY002
            slots = np.random.randint(0, self.n_envs, size=batch_size)  # noqa: NPY002
            return rows * self.n_envs + slots
        owners = _shares(present, batch_size)
        return owners * self.capacity + np.random.randint(0, self.counts[owners])  # noqa: NPY002

    def _continue(self, places: Index, done: NDArray[np.bool_]) -> None:
        """Note that these transitions follow each environment's newest, where an episode goes on.

        No link outlives its end: what follows a transition lies in the same task's part, which is
        overwritten in the order of time.
        """
        successors, running = self.successors.reshape(-1), self.newest != NO_STEP
        successors[places] = NO_STEP
        successors[self.newest[running]] = places[running]
        self.newest = np.where(done, NO_STEP, places)

    def _gather(self, places: Index, env: VecNormalize | None) -> ReplayBufferSamples:
        """Return the transitions at these places of the flattened arrays, and what follows them."""
        rewards, last, discounts = self._flat(self.rewards)[places], places, None
        if self.n_steps > 1:
            way, cuts = paths(self.successors.reshape(-1), places, self.n_steps)
            made = n_step_returns(self._flat(self.rewards)[way], cuts, self.gamma)
            rewards, last = made.returns, way[np.arange(len(way)), made.lengths - 1]
            discounts = torch.as_tensor(made.discounts.reshape(-1, 1), device=self.device)
        # Time that is up ends no task, and the value of what comes after counts.
        over = self._flat(self.dones)[last] * (1 - self._flat(self.timeouts)[last])
        if self.reward_scale is not None:
            rewards = self.reward_scale(rewards, places // self.capacity)
        found = (
            self._normalize_obs(self._flat(self.observations)[places], env),
            self._flat(self.actions)[places],
            self._normalize_obs(self._flat(self.next_observations)[last], env),
            over.reshape(-1, 1),
            self._normalize_reward(rewards.reshape(-1, 1), env),
        )
        # Indexing has made copies already.
        tensors = (torch.as_tensor(part, device=self.device) for part in found)
        return ReplayBufferSamples(*tensors)._replace(discounts=discounts)

    def _flat(self, stored: NDArray[Any]) -> NDArray[Any]:
        return stored.reshape(-1, *stored.shape[2:])

    def _tasks_of(self, obs: NDArray[Any]) -> Index:
        context = obs[:, -self.tasks :]
        tasks: Index = context.argmax(1)
        bad = (context != np.eye(self.tasks, dtype=context.dtype)[tasks]).any(1)
        if bad.any():
            place = int(bad.argmax())
            raise UsageError(
                f"the context of environment {place} is {context[place].tolist()}, which is not "
                "one-hot; wrap the environments in MultiTaskVecEnv or TaskContext with one-hot mode"
            )
        return tasks

    def _places(self, tasks: Index) -> Index:
        """Return where the next transitions of these tasks go, and note that they are there."""
        added = np.bincount(tasks, minlength=self.tasks)
        order = tasks.argsort(kind="stable")
        # The how-manieth of its task each one is.
        rank = np.empty_like(order)
        rank[order] = np.arange(len(tasks)) - (added.cumsum() - added)[tasks[order]]
        places = tasks * self.capacity + (self.positions[tasks] + rank) % self.capacity
        self.positions = (self.positions + added) % self.capacity
        self.counts = np.minimum(self.counts + added, self.capacity)
        # What Stable-Baselines3 reads of a buffer: steps of all environments together.
        self.full = bool((self.counts == self.capacity).all())
        self.pos = int((self.positions if self.full else self.counts).sum()) // self.n_envs
        return places


def _shares(present: Index, batch_size: int) -> Index:
    """Return the task of each of a minibatch's transitions: they take turns, which a layer of heads uses."""
    if batch_size % len(present):
        present = np.random.permutation(present)  # noqa: NPY002  # who gets one more
    return np.resize(present, batch_size)


def _check_several(n_steps: int, gamma: float, capacity: int, n_envs: int) -> None:
    if n_steps < 1 or not 0 <= gamma <= 1:
        raise UsageError(
            f"n_steps is {n_steps} and gamma {gamma}; a return has at least 1 step and a discount "
            "from 0 to 1"
        )
    if n_steps > 1 and capacity < 2 * n_envs:
        raise UsageError(
            f"buffer_size gives each task room for {capacity} transitions; returns of several steps "
            f"need room for two of each of {n_envs} environments, make it larger"
        )


def _check(space: gym.Space[Any], tasks: int, other: dict[str, Any]) -> None:
    if tasks < 1:
        raise UsageError(f"tasks is {tasks}; there must be at least 1")
    if not (isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.shape[0] > tasks):
        raise UsageError(
            f"the observation space is {space}; it must be a vector that ends in the one-hot context "
            f"of {tasks} tasks, wrap the environments in MultiTaskVecEnv"
        )
    if other.get("optimize_memory_usage"):
        raise UsageError(
            "optimize_memory_usage is True; a transition's successor lies nowhere else in a buffer "
            "of many tasks, leave it False"
        )
