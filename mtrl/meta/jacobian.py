"""Products with the Jacobian of a computed function and with its transpose, many times at one point."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Jacobian"]


class Jacobian:
    """The derivative of `outputs` by `inputs`, whose graph is kept for products in both directions.

    The forward product is the derivative, by the cotangents, of the backward product, which is linear in them
    (so any cotangents will do). Forward-mode differentiation would compute the function anew for each product,
    and torch's compiles with the deprecated `torch.jit`.

    Args:
        outputs: computed from `inputs`, with a graph.
        inputs: what to differentiate by; an output need not depend on all of them.
    """

    def __init__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        self._outputs = list(outputs)
        self._inputs = list(inputs)
        self._cotangents = [torch.zeros_like(output).requires_grad_() for output in self._outputs]
        self._pulled = torch.autograd.grad(
            self._outputs,
            self._inputs,
            self._cotangents,
            create_graph=True,
            materialize_grads=True,
        )

    def push(self, tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the change of each output for a small change of each input."""
        used = [i for i, pulled in enumerate(self._pulled) if pulled.requires_grad]
        return torch.autograd.grad(
            [self._pulled[i] for i in used],
            self._cotangents,
            [tangents[i] for i in used],
            retain_graph=True,
            materialize_grads=True,
        )

    def pull(self, cotangents: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the gradient of sum(cotangents * outputs) by each input."""
        return torch.autograd.grad(
            self._outputs,
            self._inputs,
            list(cotangents),
            retain_graph=True,
            materialize_grads=True,
        )
