"""A trunk whose parameters get balanced gradients from an ordinary backward pass.

A loss reaches the trunk as one gradient g (batch, features) of its features, in which row b belongs to
the task of sample b alone. Task t's gradient of the trunk is therefore the product of g's rows of t
with the Jacobian of these rows, and no loss need be taken apart. Rows are sorted into blocks of equal
length, each of one task, and one vmapped product gives the gradients of all blocks. That costs a forward
and a backward pass, of twice the rows at most, whatever the number of tasks; then inner products of all
blocks' gradients cost tasks^2 * parameters, and the gradients themselves take tasks * parameters of
memory, both up to four and two times that where tasks' shares of the rows are unequal.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vjp, vmap

from mtrl.agents.balancing.balancer import Balance, Balancer
from mtrl.agents.networks.layers import blocks
from mtrl.agents.networks.tasks import TaskInput, TaskSpec, require_index
from mtrl.agents.networks.trunk import Trunk
from mtrl.errors import UsageError

__all__ = ["BalancedTrunk"]

Gradients = dict[str, Tensor]


class BalancedTrunk(Trunk):
    """A trunk, and how tasks' gradients of it are combined.

    Features are those of the trunk alone, to the bit. In training mode, with gradients enabled, the
    gradient that a backward pass leaves in the trunk's parameters is the balancer's combination; what
    observations and contexts get is their ordinary gradient. Every backward pass through the trunk is
    balanced by itself and moves the balancer's state: pass through it once for each loss, and within
    `unbalanced()` where the gradient is wanted for its inputs only, as in the loss of an actor that a
    critic scores. Gradients cannot be differentiated again.

    The balancer's state is not in `state_dict()`, which holds tensors only: save
    `balancer.state_dict()` beside it.

    Args:
        trunk: computes each row from that row alone, without buffers.
        balancer: for as many tasks as `spec` has.
        spec: the tasks; the forward pass needs their numbers, unless the balancer is a plain sum.

    Attributes:
        balance: what the balancer saw and decided in the last backward pass; None before the first
            and where the balancer is a plain sum, which takes nothing apart.
        seconds: wall time of the last backward pass through the trunk, tasks' gradients included; 0
            where there was none. On a GPU it includes waiting for work queued before.

    Raises:
        UsageError: a trunk with buffers, or a balancer for another number of tasks.
    """

    def __init__(self, trunk: Trunk, balancer: Balancer, spec: TaskSpec) -> None:
        super().__init__(trunk.shape, trunk.features)
        if balancer.tasks != spec.tasks:
            raise UsageError(
                f"the balancer is for {balancer.tasks} tasks and the network for {spec.tasks}"
            )
        if next(trunk.buffers(), None) is not None:
            raise UsageError(
                "the trunk has buffers; a task's gradient cannot be taken from its rows alone where "
                "rows meet in a running statistic, use layers without one"
            )
        self.trunk = trunk
        self.balancer = balancer
        self.balance: Balance | None = None
        self.seconds = 0.0
        self._losses: Tensor | None = None
        self._on = True

    @property
    def conflicts(self) -> Tensor | None:
        """Cosines between tasks' gradients in the last backward pass; see `Balance`."""
        return None if self.balance is None else self.balance.conflicts

    @property
    def norms(self) -> Tensor | None:
        """Lengths of tasks' gradients in the last backward pass; see `Balance`."""
        return None if self.balance is None else self.balance.norms

    @property
    def weights(self) -> Tensor | None:
        """Weights of tasks' gradients in the last backward pass; see `Balance`."""
        return None if self.balance is None else self.balance.weights

    def report_losses(self, losses: Tensor) -> None:
        """Tell the balancer tasks' losses (tasks,), for the next backward pass only."""
        self._losses = losses.detach()

    @contextmanager
    def unbalanced(self) -> Iterator[None]:
        """Give passes that start within the context ordinary gradients."""
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    def encode(self, observations: Tensor, task: TaskInput) -> Tensor:
        named = {name: p for name, p in self.trunk.named_parameters() if p.requires_grad}
        active = self._on and self.training and torch.is_grad_enabled() and bool(named)
        active = active and len(observations) > 0
        if self.balancer.plain or not active:
            plain: Tensor = self.trunk(observations, task)
            return plain
        index = require_index(task, "balancing")
        inputs = (observations, index, task.context)
        features: Tensor = _Balanced.apply(self, tuple(named), *inputs, *named.values())  # type: ignore[no-untyped-call]
        return features

    def _combined(self, params: Gradients, batch: "_Batch", gradient: Tensor) -> Gradients:
        """Return the balanced gradient of `params` for `gradient` (batch, features)."""
        start = time.perf_counter()
        by_block, owners = _block_gradients(self, params, batch, gradient)
        gram = _gram(by_block, owners, self.balancer.tasks)
        losses, self._losses = self._losses, None
        self.balance = self.balancer.balance(gram, losses)
        weights = self.balance.weights.to(gradient)[owners]
        combined = {name: torch.tensordot(weights, g, 1) for name, g in by_block.items()}
        self.seconds = time.perf_counter() - start
        return combined


class _Batch:
    """Observations, task numbers and contexts of a batch, with their values when it was made."""

    def __init__(self, observations: Tensor, index: Tensor, context: Tensor | None) -> None:
        self.observations, self.index, self.context = observations, index, context

    def features(self, trunk: Trunk, params: Mapping[str, Tensor]) -> Tensor:
        inputs = (self.observations, TaskInput(self.index, self.context))
        features: Tensor = functional_call(trunk, dict(params), inputs)
        return features


class _Balanced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        module: BalancedTrunk,
        names: tuple[str, ...],
        observations: Tensor,
        index: Tensor,
        context: Tensor | None,
        *params: Tensor,
    ) -> Tensor:
        ctx.module, ctx.names = module, names
        # Saved by autograd, so that a change in place before the backward pass is an error.
        ctx.save_for_backward(observations, index, context, *params)
        features: Tensor = module.trunk(observations, TaskInput(index, context))
        return features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        observations, index, context, *params = ctx.saved_tensors
        named = dict(zip(ctx.names, params, strict=True))
        module, (gradient,) = ctx.module, gradients
        batch = _Batch(observations, index, context)
        _, _, *wanted = ctx.needs_input_grad
        of_observations, of_context = _input_gradients(
            module, named, batch, (gradient, wanted[0], wanted[2])
        )
        combined = module._combined(named, batch, gradient)
        of_params = (combined[name] for name in ctx.names)
        return (None, None, of_observations, None, of_context, *of_params)


def _input_gradients(
    module: BalancedTrunk,
    params: Gradients,
    batch: _Batch,
    wanted: tuple[Tensor, bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the ordinary gradients of observations and context, where they are wanted."""
    gradient, *needed = wanted
    if not any(needed):
        return None, None
    inputs = [batch.observations, batch.context]
    leaves = [
        tensor.detach().requires_grad_() if need and tensor is not None else tensor
        for tensor, need in zip(inputs, needed, strict=True)
    ]
    observations, context = leaves
    assert observations is not None
    constants = {name: value.detach() for name, value in params.items()}
    with torch.enable_grad():
        again = _Batch(observations, batch.index, context)
        features = again.features(module.trunk, constants)
    sources = [leaf for leaf, need in zip(leaves, needed, strict=True) if need and leaf is not None]
    found = iter(torch.autograd.grad(features, sources, gradient, allow_unused=True))
    of_observations, of_context = (next(found) if need else None for need in needed)
    return of_observations, of_context


def _block_gradients(
    module: BalancedTrunk, params: Gradients, batch: _Batch, gradient: Tensor
) -> tuple[Gradients, Tensor]:
    """Return the gradients of blocks of rows, each (blocks, ...), and the task of each block."""
    rows = len(gradient)
    slots, owners, length = blocks(batch.index, module.balancer.tasks)
    # Waits for the device, which the balancer does anyway: half of the blocks may be empty.
    used = int(slots.max()) // length + 1
    owners = owners[:used]
    # Empty slots repeat the first row, where every trunk is finite, with a gradient of 0.
    places = torch.zeros(used * length, dtype=torch.int64, device=slots.device)
    places = places.index_copy(0, slots, torch.arange(rows, device=slots.device))
    outputs = gradient.new_zeros(used * length, gradient.shape[1]).index_copy(0, slots, gradient)

    def in_blocks(tensor: Tensor) -> Tensor:
        return tensor.detach()[places].view(used, length, *tensor.shape[1:])

    def of_block(observations: Tensor, owner: Tensor, context: Tensor, out: Tensor) -> Gradients:
        block = _Batch(observations, owner.expand(length), context if has_context else None)
        found: Gradients = vjp(lambda p: block.features(module.trunk, p), constants)[1](out)[0]
        return found

    constants = {name: value.detach() for name, value in params.items()}
    has_context = batch.context is not None
    context = in_blocks(batch.context) if batch.context is not None else owners
    made = vmap(of_block)(
        in_blocks(batch.observations), owners, context, outputs.view(used, length, -1)
    )
    return made, owners


def _gram(by_block: Gradients, owners: Tensor, tasks: int) -> Tensor:
    """Return inner products of tasks' gradients (tasks, tasks) from gradients of blocks."""
    flat = [gradient.flatten(1) for gradient in by_block.values()]
    products = torch.stack([part @ part.T for part in flat]).sum(0)
    # A task may have several blocks. Adding their products in place of their gradients saves a
    # second copy of the gradients, and is deterministic on a GPU.
    member = torch.nn.functional.one_hot(owners, tasks).to(products)
    return member.T @ products @ member
