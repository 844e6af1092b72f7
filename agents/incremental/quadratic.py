"""Methods that hold parameters near those of earlier tasks, each by its importance.

The loss gets the term coefficient * sum_i importance_i (theta_i - anchor_i)^2, which is lambda / 2 =
coefficient in Kirkpatrick et al. 2017 (arXiv:1612.00796, eq. 3), and as in Continual World (Wołczyk et
al. 2021), whose coefficients are the defaults. Its gradient is put in place before the backward pass,
so that it is clipped with the algorithm's own. Guarded are the parameters that tasks share of the
network that acts; see `mtrl.agents.incremental.acting`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from mtrl.agents.incremental.acting import (
    ActingNetwork,
    States,
    acting_network,
    acting_optimizer,
    draw_rows,
    guarded_parameters,
    split_states,
)
from mtrl.agents.incremental.hooks import UpdateHooks, add_gradient
from mtrl.agents.incremental.importance import (
    Importance,
    fisher,
    memory_aware,
    quadratic_gradient,
)
from mtrl.agents.incremental.memory import observations_at
from mtrl.agents.incremental.method import Method, MethodSettings
from mtrl.config import check_at_least, check_fraction, check_positive
from mtrl.seeding import torch_generator

__all__ = ["EWC", "L2", "MAS", "OnlineEWC", "Quadratic"]

Pair = tuple[Tensor, Tensor]
"""Importance and anchor of one parameter."""


class QuadraticSettings(MethodSettings):
    """What decides importance and anchors."""

    coefficient: float

    @property
    def needed(self) -> int:
        """Return how many states of a task are to be looked at, at most."""
        return 1

    @abstractmethod
    def measure(self, network: ActingNetwork, states: States) -> Importance:
        """Return the importance of every parameter for the task that these states are of."""

    def merge(self, kept: Pair, new: Pair) -> Pair:
        """Return importance and anchor for all tasks from those before and those of the last one."""
        return kept[0] + new[0], new[1]

    def build(self, agent: BaseAlgorithm, sequence: Sequence[int], seed: int) -> "Quadratic":
        """Return the method; PPO, DQN and SAC on `MultiTaskPolicy` have it."""
        return Quadratic(self, agent, sequence, seed)


class Quadratic(Method):
    """The penalty, and what it is made of.

    Attributes:
        kept: importance and anchor of each guarded parameter; empty before the first task has ended.
    """

    def __init__(
        self, rule: QuadraticSettings, agent: BaseAlgorithm, sequence: Sequence[int], seed: int
    ) -> None:
        super().__init__(agent, sequence, seed)
        self.rule = rule
        self.network = acting_network(agent)
        self.guarded = guarded_parameters(agent, self.network)
        self.kept: dict[str, Pair] = {}
        self._hooks = UpdateHooks(acting_optimizer(agent))
        self._hooks.before_backward(self._add)

    def penalty(self) -> Tensor:
        """Return the term of the loss at the present parameters, without a gradient."""
        with torch.no_grad():
            terms = [
                (importance * (self.guarded[name] - anchor).square()).sum()
                for name, (importance, anchor) in self.kept.items()
            ]
        return self.rule.coefficient * torch.stack(terms).sum() if terms else torch.zeros(())

    def _add(self) -> None:
        with torch.no_grad():
            for name, (importance, anchor) in self.kept.items():
                part = self.guarded[name]
                gradient = quadratic_gradient(self.rule.coefficient, importance, part, anchor)
                add_gradient(part, gradient)

    def after_task(self, stage: int) -> None:
        """Measure the importance for the task that ends, and anchor its parameters."""
        # A stream for each stage: where a run was resumed does not matter.
        chance = torch_generator(self.seed, f"states of stage {stage}")
        rows = draw_rows(self.agent, self.sequence[stage], self.rule.needed, chance)
        states = split_states(self.agent, observations_at(self.agent, rows))
        found = self.rule.measure(self.network, states)
        for name, parameter in self.guarded.items():
            new = (found[name], parameter.detach().clone())
            self.kept[name] = self.rule.merge(self.kept[name], new) if name in self.kept else new

    def state_dict(self) -> dict[str, Any]:
        """Return importance and anchors."""
        return {"kept": dict(self.kept)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them."""
        device = self.agent.device
        self.kept = {n: (i.to(device), a.to(device)) for n, (i, a) in state["kept"].items()}

    def close(self) -> None:
        """Add no more penalty."""
        self._hooks.remove()


@dataclass(frozen=True, kw_only=True)
class L2(QuadraticSettings):
    """All parameters are equally important; the anchor is the end of the last task."""

    coefficient: float = 1e5
    """Of the penalty."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "coefficient")

    def measure(self, network: ActingNetwork, states: States) -> Importance:
        """Return ones."""
        return {name: torch.ones_like(part) for name, part in network.named_parameters()}

    def merge(self, kept: Pair, new: Pair) -> Pair:
        """Return the last task's."""
        return new


@dataclass(frozen=True, kw_only=True)
class _FisherFields:
    coefficient: float = 1e4
    """Of the penalty: lambda / 2 of the paper."""
    states: int = 2560
    """States of the ending task over which the Fisher information is a mean, at most; PPO has those of
    its last rollout."""
    smallest: float = 1e-5
    """What the information is raised to where it is lower."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "coefficient", "smallest")
        check_positive(self, "states")

    @property
    def needed(self) -> int:
        """Return `states`."""
        return self.states

    def measure(self, network: ActingNetwork, states: States) -> Importance:
        """Return the Fisher information, no lower than `smallest`."""
        found = fisher(network, states)
        return {name: each.clamp(min=self.smallest) for name, each in found.items()}


@dataclass(frozen=True, kw_only=True)
class EWC(_FisherFields, QuadraticSettings):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): importance is the Fisher information."""

    anchors: Literal["every", "last"] = "every"
    """`every`: a penalty for each task around its own end, as published; their sum is kept as one, around
    the mean of the ends weighted by information. `last`: informations are summed around the end of the
    last task, as in Continual World."""

    def merge(self, kept: Pair, new: Pair) -> Pair:
        """Return the sum of both penalties, or of the informations only."""
        total = kept[0] + new[0]
        if self.anchors == "last":
            return total, new[1]
        # A sum of quadratics is a quadratic around their weighted mean, up to a constant.
        share = torch.where(total > 0, new[0] / total, 1.0)
        return total, kept[1] + share * (new[1] - kept[1])


@dataclass(frozen=True, kw_only=True)
class OnlineEWC(_FisherFields, QuadraticSettings):
    """Online EWC (Schwarz et al. 2018, arXiv:1805.06370): one anchor, and information that fades."""

    decay: float = 0.99
    """What is left of earlier tasks' information where a task ends (gamma in the paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self, "decay")

    def merge(self, kept: Pair, new: Pair) -> Pair:
        """Return decay * information + the new one, around the new end."""
        return self.decay * kept[0] + new[0], new[1]


@dataclass(frozen=True, kw_only=True)
class MAS(QuadraticSettings):
    """Memory aware synapses (Aljundi et al. 2018, arXiv:1711.09601): importance is how much the outputs'
    length depends on a parameter, summed over tasks, around the end of the last."""

    coefficient: float = 1e4
    """Of the penalty."""
    states: int = 2560
    """States of the ending task over which the importance is a mean, at most."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "coefficient")
        check_positive(self, "states")

    @property
    def needed(self) -> int:
        """Return `states`."""
        return self.states

    def measure(self, network: ActingNetwork, states: States) -> Importance:
        """Return the sensitivity of the squared length of all outputs."""
        return memory_aware(network, states)
