"""PackNet (Mallya and Lazebnik 2018, arXiv:1711.05769): each task owns weights that no other may move.

A task trains the weights that are free, together with those of earlier tasks as they are. Before its
steps are over, the smallest of its weights are set to zero and left to the tasks that follow, and it
goes on with the rest. What an earlier task computed is therefore computed to the bit for ever.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from mtrl.agents.incremental.acting import (
    ActingNetwork,
    acting_network,
    acting_optimizer,
    has_head_per_task,
)
from mtrl.agents.incremental.hooks import UpdateHooks
from mtrl.agents.incremental.method import Method, MethodSettings, refuse
from mtrl.agents.incremental.switch import forget_moments
from mtrl.agents.networks import CNN, MLP, Embedding, Film, OneHot
from mtrl.errors import UsageError

__all__ = ["PackNet", "Packed", "prune"]


@dataclass(frozen=True, kw_only=True)
class PackNet(MethodSettings):
    """Prune by magnitude, freeze, go on with the rest.

    Packed are the kernels of an MLP or CNN trunk of the network that acts, and of a head that all tasks
    share. Rows that one task has alone (its head, its one-hot code) are moved by that task only. All
    other parameters, biases and the deviation of PPO's actions included, are frozen when the first task
    has ended. Of SAC it is the actor: critics go on learning, and forget.
    """

    retrain_share: float = 0.2
    """Share of a task's steps that come after its pruning; 0 would leave it as pruning made it. Retraining
    in the environment, and not by a number of gradient steps on a buffer as in Continual World, is
    possible for PPO too, and keeps the steps of all methods equal."""

    def __post_init__(self) -> None:
        if not 0 < self.retrain_share < 1:
            raise UsageError(f"retrain_share must be above 0 and below 1, got {self.retrain_share}")

    def build(self, agent: BaseAlgorithm, sequence: Sequence[int], seed: int) -> "Packed":
        """Return the method; PPO, DQN and SAC on `MultiTaskPolicy` have it.

        Raises:
            UsageError: a trunk that is neither MLP nor CNN.
        """
        return Packed(self, agent, sequence, seed)


def prune(weights: Tensor, owner: Tensor, stage: int, stages: int) -> Tensor:
    """Return who owns each weight when `stage` of `stages` has taken its part.

    Of the weights that `stage` owns, the floor((stages - stage - 1) / (stages - stage)) part that is
    smallest in size goes to stage + 1; of equal ones, the first.

    Args:
        weights: of one layer.
        owner: of the same shape, the stage that each belongs to.
        stage: from 0.
        stages: how many there are.
    """
    places = (owner.flatten() == stage).nonzero().squeeze(1)
    count = len(places) * (stages - stage - 1) // (stages - stage)
    order = weights.detach().flatten()[places].abs().argsort(stable=True)
    pruned = owner.flatten().clone()
    pruned[places[order[:count]]] = stage + 1
    return pruned.view_as(owner)


class Packed(Method):
    """PackNet beside an agent.

    Attributes:
        owners: of each packed kernel by name, the stage that each weight belongs to; the shape of the
            kernel.
    """

    def __init__(
        self, settings: PackNet, agent: BaseAlgorithm, sequence: Sequence[int], seed: int
    ) -> None:
        super().__init__(agent, sequence, seed)
        self.settings = settings
        self.network = acting_network(agent)
        kernels, self._rows = _parts(agent, self.network)
        self._parameters = dict(self.network.named_parameters())
        self.owners = {
            name: torch.zeros_like(self._parameters[name], dtype=torch.int64) for name in kernels
        }
        self._stage, self._stage_of = 0, dict[int, int]()
        self._learning = False
        self._free: dict[str, Tensor] = {}
        self._frozen: dict[str, Tensor] = {}
        self._hooks = UpdateHooks(acting_optimizer(agent))
        for name, parameter in self._parameters.items():
            self._hooks.on_gradient(parameter, self._masking(name))
        self._hooks.after_step(self._restore)

    def milestones(self, stage: int) -> tuple[float, ...]:
        """Return when to prune; the last task keeps all that is left."""
        last = stage == len(self.sequence) - 1
        return () if last else (1 - self.settings.retrain_share,)

    def before_task(self, stage: int) -> None:
        """Free what belongs to this stage."""
        self._restore()
        self._stage, self._stage_of[self.sequence[stage]] = stage, stage
        self._learning = True
        self._freeze()

    def at_milestone(self, stage: int) -> None:
        """Set the smallest of the stage's weights to 0, and leave them to the next."""
        with torch.no_grad():
            for name, owner in self.owners.items():
                weights = self._parameters[name]
                self.owners[name] = prune(weights, owner, stage, len(self.sequence))
                weights.masked_fill_(self.owners[name] > stage, 0)
        # Moments of pruned weights have lost their meaning.
        forget_moments(acting_optimizer(self.agent), "reset")
        self._freeze()

    def after_task(self, stage: int) -> None:
        """Hold everything, whatever the switch does to the agent, and reset the optimiser."""
        forget_moments(acting_optimizer(self.agent), "reset")
        self._learning = False
        self._freeze()

    @contextmanager
    def playing(self, task: int) -> Iterator[None]:
        """Set to 0 what belongs to stages after the task's latest; of an unknown task, nothing."""
        stage = self._stage_of.get(task, len(self.sequence))
        kept = {name: self._parameters[name].detach().clone() for name in self.owners}
        with torch.no_grad():
            for name, owner in self.owners.items():
                self._parameters[name].masked_fill_(owner > stage, 0)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weights in kept.items():
                    self._parameters[name].copy_(weights)

    def _freeze(self) -> None:
        """Note which parameters may move, and how all others are."""
        self._free = {name: self._mask(name) for name in self._parameters}
        self._frozen = {name: part.detach().clone() for name, part in self._parameters.items()}

    def _mask(self, name: str) -> Tensor:
        parameter = self._parameters[name]
        if not self._learning:
            return torch.zeros_like(parameter, dtype=torch.bool)
        if name in self.owners:
            return self.owners[name] == self._stage
        if name in self._rows:
            mask = torch.zeros_like(parameter, dtype=torch.bool)
            mask[self.sequence[self._stage]] = True
            return mask
        return torch.full_like(parameter, self._stage == 0, dtype=torch.bool)

    def _masking(self, name: str) -> Any:
        def masked(gradient: Tensor) -> Tensor:
            return gradient * self._free[name] if name in self._free else gradient

        return masked

    def _restore(self) -> None:
        with torch.no_grad():
            for name, free in self._free.items():
                parameter = self._parameters[name]
                parameter.copy_(torch.where(free, parameter, self._frozen[name]))

    def state_dict(self) -> dict[str, Any]:
        """Return who owns what; how frozen weights are is in the agent."""
        known = {str(task): stage for task, stage in self._stage_of.items()}
        return {
            "owners": dict(self.owners),
            "stage": self._stage,
            "stage_of": known,
            "learning": self._learning,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it, and freeze what the agent has now."""
        self.owners = {name: each.to(self.agent.device) for name, each in state["owners"].items()}
        self._stage, self._learning = state["stage"], state["learning"]
        self._stage_of = {int(task): stage for task, stage in state["stage_of"].items()}
        if self._stage_of:
            self._freeze()

    def close(self) -> None:
        """Let everything move."""
        self._hooks.remove()


def _parts(agent: BaseAlgorithm, network: ActingNetwork) -> tuple[list[str], list[str]]:
    """Return the names of kernels, and of parameters with a row for each task."""
    policy: Any = agent.policy
    how = policy.network
    if not isinstance(how.trunk, MLP | CNN):
        raise refuse(
            "PackNet", agent, f"its trunk is {type(how.trunk).__name__}; use an MLP or a CNN"
        )
    code = how.conditioning.code if isinstance(how.conditioning, Film) else how.conditioning
    kernels, rows = [], []
    for name, _ in network.named_parameters():
        if ".told." in name:
            # What remains of a code is a map that tasks share: frozen like a bias.
            vector = isinstance(code, Embedding) and name.endswith(".embedding")
            rows += [name] if vector or isinstance(code, OneHot) else []
        elif name.startswith("head.") and has_head_per_task(agent):
            rows.append(name)
        elif name.endswith("weight"):
            kernels.append(name)
    return kernels, rows
