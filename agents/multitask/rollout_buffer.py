"""A rollout of several tasks: advantages on each task's own scale, minibatches of equal shares."""

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

from mtrl.errors import UsageError

__all__ = ["MultiTaskRolloutBuffer", "equal_shares", "normalised_per_task"]

Index = NDArray[np.int64]

_EPSILON = 1e-8
"""Added to deviations, as by Stable-Baselines3's PPO."""


def normalised_per_task(
    values: NDArray[np.float32], tasks: Index, number: int
) -> NDArray[np.float32]:
    """Return (value - mean) / (deviation + 1e-8), with mean and deviation of the value's task.

    A task whose values are all equal, or that has only one, gets zeros. The deviation is the unbiased
    one, as of torch's `std`.

    Args:
        values: of any shape.
        tasks: of the same shape, the number of each value's task.
        number: how many tasks there are.
    """
    flat, index = values.ravel().astype(np.float64), tasks.ravel()
    count = np.bincount(index, minlength=number)
    mean = np.bincount(index, flat, number) / np.maximum(count, 1)
    centred = flat - mean[index]
    variance = np.bincount(index, centred**2, number) / np.maximum(count - 1, 1)
    made = centred / (np.sqrt(variance) + _EPSILON)[index]
    return made.astype(np.float32).reshape(values.shape)


def equal_shares(permutation: Index, tasks: Index, number: int) -> Index:
    """Return an order of samples in which the tasks take turns, each in the order of a permutation.

    Any run of it holds every task equally often, or once more or less. A task with fewer samples than
    others begins again from its first; of one with more, some are left out. With one task it is the
    permutation.

    Args:
        permutation: (samples,), of some or all samples.
        tasks: the task of each sample that `permutation` may name.
        number: how many tasks there are.
    """
    owners = tasks[permutation]
    grouped = permutation[owners.argsort(kind="stable")]
    count = np.bincount(owners, minlength=number)
    first = count.cumsum() - count
    present = count.nonzero()[0]
    turn, place = np.divmod(np.arange(len(permutation)), len(present))
    task = present[place]
    shares: Index = grouped[first[task] + turn % count[task]]
    return shares


class MultiTaskRolloutBuffer(RolloutBuffer):
    """Stable-Baselines3's buffer for observations that end in the one-hot context of their task.

    Chance is drawn as by its parent, once per pass, from NumPy's global stream: with one task the
    minibatches are the same.

    Args:
        *args: as of `RolloutBuffer`.
        tasks: how many tasks there are.
        normalise: whether advantages have mean 0 and deviation 1 within each task of the rollout.
        equal: whether minibatches have equal shares of the tasks; else the shares of the rollout,
            which a curriculum has chosen.
        **others: as of `RolloutBuffer`.

    Attributes:
        included: (tasks,), the tasks that minibatches have.
        learnt: (steps, environments), the samples that minibatches may have; all after a reset.
            Advantages are normalised among these.

    Raises:
        UsageError: the observations are no vectors with room for the context.
    """

    learnt: NDArray[np.bool_]

    def __init__(
        self,
        *args: Any,
        tasks: int,
        normalise: bool = True,
        equal: bool = True,
        **others: Any,
    ) -> None:
        self.tasks, self.normalise, self.equal = tasks, normalise, equal
        self.included = np.ones(tasks, np.bool_)
        super().__init__(*args, **others)
        if len(self.obs_shape) != 1 or self.obs_shape[0] <= tasks:
            raise UsageError(
                f"observations have shape {self.obs_shape} with {tasks} tasks; they must be vectors "
                "that end in the one-hot context of the task, as of MultiTaskVecEnv"
            )

    def reset(self) -> None:
        """Begin to be filled anew."""
        super().reset()
        self.learnt = np.ones((self.buffer_size, self.n_envs), np.bool_)

    @property
    def empty(self) -> bool:
        """Whether there is no sample that minibatches may have."""
        # The environments see to it that a task is left.
        if self.learnt.all():
            return False
        return not (self.learnt & self.included[self.sample_tasks()]).any()

    def sample_tasks(self) -> Index:
        """Return the number of each sample's task (steps, environments)."""
        numbers: Index = self.observations[..., -self.tasks :].argmax(-1)
        return numbers

    def add_step(
        self,
        observations: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[np.float32],
        episode_starts: NDArray[Any],
    ) -> None:
        """Add a step whose `values` and `log_probs` are written by the caller.

        Args:
            observations: (environments, size), before the step.
            actions: (environments, ...).
            rewards: (environments,).
            episode_starts: (environments,), whether the observation begins an episode.
        """
        self.observations[self.pos] = observations
        self.actions[self.pos] = actions.reshape(self.n_envs, self.action_dim)
        self.rewards[self.pos] = rewards
        self.episode_starts[self.pos] = episode_starts
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: Tensor, dones: NDArray[np.bool_]) -> None:
        """Compute them as the parent does, and then normalise the advantages."""
        super().compute_returns_and_advantage(last_values, dones)
        if self.normalise:
            learnt = self.learnt
            self.advantages[learnt] = normalised_per_task(
                self.advantages[learnt], self.sample_tasks()[learnt], self.tasks
            )

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Yield minibatches of one pass; the last may be smaller."""
        if not self.generator_ready:
            self._prepare()
        samples = self.buffer_size * self.n_envs
        permutation = np.random.permutation(samples)  # noqa: NPY002  # the parent's own stream
        # The parent numbers samples by environment and then by step.
        slot, step = np.divmod(permutation, self.buffer_size)
        places = step * self.n_envs + slot
        if not (self.included.all() and self.learnt.all()):
            may = self.included[self._owners] & self.learnt.ravel()
            places = places[may[places]]
        if self.equal:
            places = equal_shares(places, self._owners, self.tasks)
        order = torch.from_numpy(places).to(self.device)
        for chosen in torch.split(order, batch_size or samples):
            yield RolloutBufferSamples(*(tensor[chosen] for tensor in self._columns))

    def _prepare(self) -> None:
        """Put what minibatches are taken from on the device, as views where it is this one."""
        self._owners = self.sample_tasks().ravel()
        arrays = (
            self.observations,
            self.actions.astype(np.float32, copy=False),
            self.values,
            self.log_probs,
            self.advantages,
            self.returns,
        )
        self._columns = [torch.from_numpy(array).flatten(0, 1).to(self.device) for array in arrays]
        self.generator_ready = True
