"""How much a network's behaviour depends on each of its parameters.

All are means over states of per-sample quantities, from the Jacobian of the outputs of one state at a
time (`torch.func.vmap`); a squared gradient of a batch's loss is another quantity, near zero where this
one is not.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, vmap

from mtrl.agents.incremental.acting import ActingNetwork, OutputKind, States

__all__ = ["Importance", "fisher", "memory_aware", "quadratic_gradient"]

Importance = dict[str, Tensor]

_ROWS = 32
"""States whose Jacobians are held at once: states * outputs * parameters numbers."""


def fisher(network: ActingNetwork, states: States, rows: int = _ROWS) -> Importance:
    """Return the diagonal of the Fisher information of each parameter, a mean over states.

    The expectation over actions that the network itself draws is taken exactly, not by samples:

    - "logits": sum over actions a of p(a) (d log p(a))^2, Kirkpatrick et al. 2017;
    - "gaussian": sum over d of [(d mean_d)^2 / std_d^2 + 2 (d log std_d)^2]; squashing the actions
      changes nothing, because it is a bijection;
    - "values": sum over actions of (d Q(a))^2, that of values observed with Gaussian noise of variance
      1. Q-learning draws actions from no distribution, so that this is a choice.

    Args:
        network: of `acting_network`.
        states: over which the mean is.
        rows: of how many states at once.
    """

    def of_one(params: Importance, columns: tuple[Tensor, ...]) -> Importance:
        def outputs(named: Importance) -> tuple[Tensor, Tensor]:
            made = _call(network, named, columns)
            return made, made

        jacobian, made = jacrev(outputs, has_aux=True)(params)
        return {name: _expected_square(network.kind, made, j) for name, j in jacobian.items()}

    return _mean(of_one, network, states, rows)


def memory_aware(network: ActingNetwork, states: States, rows: int = _ROWS) -> Importance:
    """Return mean |d ||f(s)||^2| of each parameter, f being all outputs (Aljundi et al. 2018, eq. 3)."""

    def of_one(params: Importance, columns: tuple[Tensor, ...]) -> Importance:
        def length(named: Importance) -> Tensor:
            return _call(network, named, columns).square().sum()

        return {name: each.abs() for name, each in grad(length)(params).items()}

    return _mean(of_one, network, states, rows)


def quadratic_gradient(
    coefficient: float, importance: Tensor, parameter: Tensor, anchor: Tensor
) -> Tensor:
    """Return the gradient of coefficient * sum of importance * (parameter - anchor)^2."""
    return 2 * coefficient * importance * (parameter - anchor)


def _expected_square(kind: OutputKind, outputs: Tensor, jacobian: Tensor) -> Tensor:
    """Return the Fisher information of one state, from the outputs' Jacobian (outputs, ...)."""
    flat = jacobian.flatten(1)
    if kind == "logits":
        chances = outputs.softmax(0)
        # The gradient of log p(a) is that of its logit less the mean of all logits' gradients.
        flat = flat - chances @ flat
        weights = chances
    elif kind == "gaussian":
        log_std = outputs.chunk(2)[1]
        weights = torch.cat([(-2 * log_std).exp(), torch.full_like(log_std, 2.0)])
    else:
        weights = torch.ones_like(outputs)
    return (weights @ flat.square()).view(jacobian.shape[1:])


def _call(network: ActingNetwork, params: Importance, columns: tuple[Tensor, ...]) -> Tensor:
    """Return the outputs (n,) of one state."""
    batch = tuple(column.unsqueeze(0) for column in columns)
    made: Tensor = functional_call(network, params, batch)
    return made.squeeze(0)


def _mean(
    of_one: Callable[[Importance, tuple[Tensor, ...]], Importance],
    network: ActingNetwork,
    states: States,
    rows: int,
) -> Importance:
    params = {name: part.detach() for name, part in network.named_parameters()}
    totals = {name: torch.zeros_like(part) for name, part in params.items()}
    parts = [torch.split(column, rows) for column in states.columns()]
    for columns in zip(*parts, strict=True):
        found = vmap(of_one, in_dims=(None, 0))(params, columns)
        for name, each in found.items():
            totals[name] += each.sum(0)
    return {name: total / len(states.index) for name, total in totals.items()}
