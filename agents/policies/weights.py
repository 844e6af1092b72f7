"""How much the loss of each task counts in the networks of a policy."""

from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from mtrl.agents.balancing import weigh_rows
from mtrl.errors import UsageError

__all__ = ["LossWeights"]


class LossWeights(nn.Module):
    """The weight of each task's loss, applied to the gradients of a network's outputs.

    Args:
        tasks: how many there are; all weights begin at 1.

    Attributes:
        values: (tasks,), float32.
    """

    values: Tensor

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.ones(tasks))
        self._all_one = True
        # Any, because torch leaves this method without types.
        register: Any = self.register_load_state_dict_post_hook
        register(_look_again)

    def set(self, weights: ArrayLike | Tensor) -> None:
        """Take these weights (tasks,).

        Raises:
            UsageError: there is not one for each task, or one is negative or not finite.
        """
        given = torch.as_tensor(weights, dtype=self.values.dtype, device=self.values.device)
        if given.shape != self.values.shape:
            raise UsageError(
                f"weights have shape {tuple(given.shape)}; there must be one for each of "
                f"{len(self.values)} tasks"
            )
        if not (torch.isfinite(given) & (given >= 0)).all():
            raise UsageError(f"weights are {given.tolist()}; they must be finite and none below 0")
        self.values.copy_(given)
        self.look()

    def look(self) -> None:
        """Find out whether all weights are 1, so that no forward pass has to wait for a device."""
        self._all_one = bool((self.values == 1).all())

    def weigh(self, outputs: Tensor, index: Tensor) -> Tensor:
        """Return `outputs` (batch, n); gradients of row b are multiplied by the weight of its task.

        Args:
            outputs: of a network.
            index: (batch,), the task of each row.
        """
        if self._all_one:
            return outputs
        return weigh_rows(outputs, self.values, index)


def _look_again(weights: LossWeights, _: Any) -> None:
    weights.look()
