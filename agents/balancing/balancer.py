"""What every balancer is: a rule that weighs tasks' gradients by their inner products.

All methods here return a combination sum_t w_t g_t of the tasks' gradients, and need of them no more
than the Gram matrix G[s, t] = <g_s, g_t>. So one product of O(tasks^2 * parameters) serves any of
them, and what follows is a small problem that is solved in float64 whatever the network's type.

Scale: a loss is a mean over a batch of all tasks, and g_t the gradient of that mean over the rows of
task t alone, so that the plain gradient is sum_t g_t. Every method is scaled to equal it where all
tasks' gradients are the same (GradNorm at its start), so that a learning rate keeps its meaning; each
module says what the method does to it elsewhere.

A task without a gradient, because the batch has none of its rows or none that matters, is left out:
the others are balanced as if it did not exist.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.errors import CheckpointError, UsageError

__all__ = ["Array", "Balance", "Balancer", "check_state", "combine", "unit_gradients"]

Array = NDArray[np.float64]


class Balancer(ABC):
    """Weighs tasks' gradients.

    Args:
        tasks: how many there are.

    Attributes:
        plain: whether the result is always the plain sum, for which no task's gradient is needed.
    """

    plain = False

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks

    @abstractmethod
    def weigh(self, gram: Array, present: NDArray[np.int64], losses: Array | None) -> Array:
        """Return the weights (present,) of the present tasks' gradients.

        Args:
            gram: (present, present), finite, with a positive diagonal.
            present: (present,), numbers of the tasks that have a gradient, at least one of them.
            losses: (present,), the loss of each, if known.

        Raises:
            UsageError: losses are needed and missing, or not what the method can use.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return all that weighing has changed, in JSON's types."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            CheckpointError: it is of another balancer or of another number of tasks.
        """
        check_state(state, self.state_dict())

    def balance(self, gram: Tensor, losses: Tensor | None = None) -> "Balance":
        """Weigh all tasks, those without a gradient by 0, and keep what was seen.

        A Gram matrix that is not finite gives the plain sum and leaves the state alone: balancing must
        not hide that a gradient was infinite or NaN.

        Args:
            gram: (tasks, tasks), on any device, which this waits for.
            losses: (tasks,); those of tasks without a gradient are not read.

        Raises:
            UsageError: another number of tasks, or see `weigh`.
        """
        for name, given, shape in (
            ("gram", gram, (self.tasks, self.tasks)),
            ("losses", losses, (self.tasks,)),
        ):
            if given is not None and given.shape != shape:
                raise UsageError(f"{name} has shape {tuple(given.shape)}; it must be {shape}")
        matrix = _array(gram)
        weights = np.ones(self.tasks)
        if np.isfinite(matrix).all():
            present = np.flatnonzero(matrix.diagonal() > 0)
            known = None if losses is None else _array(losses)[present]
            weights = np.zeros(self.tasks)
            if len(present):
                weights[present] = self.weigh(matrix[np.ix_(present, present)], present, known)
        return Balance(torch.from_numpy(matrix), torch.from_numpy(weights))


def _array(tensor: Tensor) -> Array:
    # A copy, since a view of the caller's tensor would change with it.
    return np.array(tensor.detach().to("cpu", torch.float64).numpy())


def unit_gradients(gram: Array) -> tuple[Array, Array]:
    """Return unit gradients as columns (tasks, tasks) in coordinates of their span, and their lengths.

    Products of these columns are positive semi-definite, which those of a network's float32 gradients
    are to rounding only. Directions are told apart from rounding for short gradients as for long ones.

    Args:
        gram: (tasks, tasks), with a positive diagonal.
    """
    lengths = np.sqrt(gram.diagonal())
    values, vectors = np.linalg.eigh(gram / np.outer(lengths, lengths))
    return np.sqrt(values.clip(min=0.0))[:, None] * vectors.T, lengths


@dataclass(frozen=True, eq=False)
class Balance:
    """What a balancer saw and decided; float64 on the CPU.

    Attributes:
        gram: (tasks, tasks), inner products of the tasks' gradients.
        weights: (tasks,), of the gradients in their combination.
    """

    gram: Tensor
    weights: Tensor

    @property
    def norms(self) -> Tensor:
        """Length of each task's gradient, (tasks,)."""
        return self.gram.diagonal().sqrt()

    @property
    def conflicts(self) -> Tensor:
        """Cosine between tasks' gradients, (tasks, tasks); NaN for a task without a gradient."""
        return self.gram / torch.outer(self.norms, self.norms)


def combine(
    balancer: Balancer, gradients: Tensor, losses: Tensor | None = None
) -> tuple[Tensor, Balance]:
    """Return the combination (parameters,) of gradients (tasks, parameters), and how it was made.

    Raises:
        UsageError: gradients of another number of tasks, or see `Balancer.weigh`.
    """
    balance = balancer.balance(gradients @ gradients.T, losses)
    return balance.weights.to(gradients) @ gradients, balance


def check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check that a state has the entries of a balancer's own, and lists of the same lengths.

    Raises:
        CheckpointError: it does not.
    """
    if state.keys() != own.keys():
        raise CheckpointError(
            f"the balancer's checkpoint has {sorted(state)}, this run's {sorted(own)}: resume with "
            "the balancer that it was made with"
        )
    for name, value in own.items():
        if isinstance(value, list) and len(state[name]) != len(value):
            raise CheckpointError(
                f"the balancer's checkpoint has {name} of {len(state[name])} tasks, this run has "
                f"{len(value)}"
            )
