"""The moments of an update at which something can be added, without a copy of any `train()`.

Every algorithm of Stable-Baselines3 makes an update by

    optimizer.zero_grad(); loss.backward(); [clip the gradient]; optimizer.step()

and four moments of it are open:

- `before_backward`, straight after `zero_grad`: parameters are at rest and gradients empty. A gradient
  put there is added to by the backward pass and clipped with it, as if its loss had been a term of the
  algorithm's. torch has no hook for this moment, so the optimiser's own `zero_grad` is wrapped.
- `on_gradient`, as the gradient of one parameter is complete and before any is clipped
  (`register_post_accumulate_grad_hook`): for masks, so that frozen weights do not use up the length to
  which gradients are clipped.
- `before_step`, when all gradients are there (`register_step_pre_hook`): for what needs all at once.
- `after_step`, when parameters have moved (`register_step_post_hook`): an optimiser moves a weight
  without a gradient by its momentum or weight decay, and it can be put back.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["UpdateHooks", "add_gradient"]


class UpdateHooks:
    """What is called around the updates of one optimiser, until `remove`.

    Args:
        optimizer: that of a network.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._handles: list[Any] = []
        self._wrapped = False

    def before_backward(self, add: Callable[[], None]) -> None:
        """Call `add` straight after `zero_grad`."""
        # Any, because a method is replaced, of this optimiser only.
        optimizer: Any = self.optimizer
        empty = optimizer.zero_grad

        def zero_grad(set_to_none: bool = True) -> None:
            empty(set_to_none)
            add()

        optimizer.zero_grad = zero_grad
        self._wrapped = True

    def on_gradient(self, parameter: nn.Parameter, change: Callable[[Tensor], Tensor]) -> None:
        """Replace the gradient of `parameter` by what `change` makes of it."""

        def hook(owner: Tensor) -> None:
            assert owner.grad is not None
            owner.grad.copy_(change(owner.grad))

        # Any, because torch leaves this method without types.
        register: Any = parameter.register_post_accumulate_grad_hook
        self._handles.append(register(hook))

    def before_step(self, call: Callable[[], None]) -> None:
        """Call `call` when all gradients are there, and clipped."""
        self._handles.append(self.optimizer.register_step_pre_hook(lambda *_: call()))

    def after_step(self, call: Callable[[], None]) -> None:
        """Call `call` when the parameters have moved."""
        self._handles.append(self.optimizer.register_step_post_hook(lambda *_: call()))

    def remove(self) -> None:
        """Leave the optimiser as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._wrapped:
            del vars(self.optimizer)["zero_grad"]
            self._wrapped = False


def add_gradient(parameter: nn.Parameter, gradient: Tensor | None) -> None:
    """Add to the gradient of `parameter`; None adds nothing."""
    if gradient is None:
        return
    parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient
