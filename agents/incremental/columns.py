"""Progressive networks (Rusu et al. 2016, arXiv:1606.04671): a column for each task, on top of the others.

Layer l of column k computes h_k^l = f(W_k^l h_k^{l-1} + b + sum over j < k of U s(V a_j h_j^{l-1})), where
U, V and a belong to the pair of columns and the layer, and s is the activation too (eq. 2). The first
layer has no neighbours: all columns see the same observation. What comes from other columns is detached,
so that a task moves its own column and its adapters only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from mtrl.agents.balancing import BalancedTrunk
from mtrl.agents.incremental.acting import acting_network, acting_optimizer, has_head_per_task
from mtrl.agents.incremental.method import Method, MethodSettings, refuse
from mtrl.agents.incremental.switch import forget_moments
from mtrl.agents.networks import Conditioning, TaskInput, TaskSpec, Trunk
from mtrl.agents.networks.layers import ACTIVATIONS, Affine
from mtrl.agents.networks.tasks import require_index
from mtrl.agents.networks.trunk import TrunkFields, check_units
from mtrl.agents.policies import MultiTaskPolicy
from mtrl.config import check_positive
from mtrl.errors import UsageError

__all__ = ["ColumnsTrunk", "FrozenColumns", "ProgressiveColumns"]


@dataclass(frozen=True, kw_only=True)
class ColumnsTrunk(TrunkFields):
    """A trunk with a column for each task, for `NetworkConfig(trunk=...)`, without conditioning.

    Column k is that of task number k, so that the sequence must be in the order of the tasks' numbers.
    """

    hidden: tuple[int, ...] = (64, 64)
    """Units of each column's layers; the last are the features."""
    adapter: int = 16
    """Units of an adapter between two columns."""
    adapter_scale: float = 0.1
    """What a_j starts at."""

    def __post_init__(self) -> None:
        check_units(self, "hidden")
        check_positive(self, "adapter")

    def build(
        self,
        shape: tuple[int, ...],
        conditioning: Conditioning | None,
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> Trunk:
        """Return the trunk for observations of `shape`.

        Raises:
            UsageError: a conditioning, which columns make meaningless.
        """
        if conditioning is not None:
            raise UsageError(
                f"conditioning is {type(conditioning).__name__}; each task has its own column, leave "
                "it out"
            )
        return _Columns(self, shape, spec, generator)


class _Column(nn.Module):
    """Layers of one column, and adapters from those before it."""

    def __init__(
        self, config: ColumnsTrunk, inputs: int, number: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[config.activation]
        sizes = (inputs, *config.hidden)

        def affine(outputs: int, inputs: int) -> Affine:
            shape = (1, outputs, inputs)
            return Affine(shape, initializer=config.initializer, generator=generator)

        self.layers = nn.ModuleList(affine(sizes[i + 1], sizes[i]) for i in range(len(sizes) - 1))
        # Of each layer but the first, one for each earlier column.
        pairs = [(layer, j) for layer in range(1, len(config.hidden)) for j in range(number)]
        self.narrow = nn.ModuleDict(
            {f"{layer}_{j}": affine(config.adapter, sizes[layer]) for layer, j in pairs}
        )
        # Of the map back to the layer, which has a bias itself, the weight only.
        self.widen = nn.ParameterDict(
            {f"{layer}_{j}": affine(sizes[layer + 1], config.adapter).weight for layer, j in pairs}
        )
        self.scales = nn.ParameterDict(
            {
                f"{layer}_{j}": nn.Parameter(
                    torch.full((), config.adapter_scale, device=generator.device)
                )
                for layer, j in pairs
            }
        )

    def forward(self, inputs: Tensor, earlier: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Return what each layer makes of `inputs`, given what those of earlier columns made."""
        made: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            below = inputs if number == 0 else made[-1]
            total = _apply(layer, below)
            for j, column in enumerate(earlier if number > 0 else ()):
                total = total + self._lateral(f"{number}_{j}", column[number - 1].detach())
            made.append(self._activation(total))
        return made

    def _lateral(self, name: str, source: Tensor) -> Tensor:
        narrow = _apply(self.narrow[name], self.scales[name] * source)
        return nn.functional.linear(self._activation(narrow), self.widen[name][0])


def _apply(layer: nn.Module, inputs: Tensor) -> Tensor:
    assert isinstance(layer, Affine)
    return nn.functional.linear(inputs, layer.weight[0], layer.bias[0])


class _Columns(Trunk):
    def __init__(
        self,
        config: ColumnsTrunk,
        shape: tuple[int, ...],
        spec: TaskSpec,
        generator: torch.Generator,
    ) -> None:
        super().__init__(shape, config.hidden[-1])
        inputs = int(torch.tensor(shape).prod())
        self.columns = nn.ModuleList(
            _Column(config, inputs, number, generator) for number in range(spec.tasks)
        )

    def encode(self, observations: Tensor, task: TaskInput) -> Tensor:
        index = require_index(task, "a trunk of columns")
        flat = observations.flatten(1)
        made: list[list[Tensor]] = []
        for column in self.columns:
            made.append(column(flat, made))
        features = torch.stack([column[-1] for column in made], 1)
        picked = index.view(-1, 1, 1).expand(-1, 1, self.features)
        return features.gather(1, picked).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class ProgressiveColumns(MethodSettings):
    """Freeze all columns but that of the present task; for networks whose trunk is a `ColumnsTrunk`.

    All trunks of a policy are treated so, those of critics too. Heads are to be each task's own.
    """

    def build(self, agent: BaseAlgorithm, sequence: Sequence[int], seed: int) -> "FrozenColumns":
        """Return the method; PPO, DQN and SAC on `MultiTaskPolicy` have it.

        Raises:
            UsageError: another trunk, heads that tasks share, or tasks out of the order of their columns.
        """
        return FrozenColumns(agent, sequence, seed)


class FrozenColumns(Method):
    """Progressive columns beside an agent."""

    def __init__(self, agent: BaseAlgorithm, sequence: Sequence[int], seed: int) -> None:
        super().__init__(agent, sequence, seed)
        acting_network(agent)
        self._stage: int | None = None
        policy: Any = agent.policy
        assert isinstance(policy, MultiTaskPolicy)
        self._trunks = [_columns_of(trunk, agent) for trunk in policy.trunks().values()]
        if not has_head_per_task(agent):
            raise refuse("ProgressiveColumns", agent, "its tasks share a head; use PerTask heads")
        first_met = list(dict.fromkeys(sequence))
        if first_met != sorted(first_met):
            raise UsageError(
                f"the sequence meets tasks {first_met}, and a column sees those of smaller numbers "
                "only; list the environment's tasks in the order of the sequence"
            )

    def before_task(self, stage: int) -> None:
        """Let the task's own column learn, and no other."""
        self._free(stage)
        # Heads of other tasks have no gradient, and must have no momentum either.
        forget_moments(acting_optimizer(self.agent), "reset")

    def _free(self, stage: int) -> None:
        self._stage = stage
        for trunk in self._trunks:
            for number, column in enumerate(trunk.columns):
                column.requires_grad_(number == self.sequence[stage])

    def state_dict(self) -> dict[str, Any]:
        """Return which stage it is in."""
        return {"stage": self._stage}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Freeze what was frozen."""
        if state["stage"] is not None:
            self._free(state["stage"])

    def close(self) -> None:
        """Let all columns learn."""
        for trunk in self._trunks:
            trunk.requires_grad_(True)


def _columns_of(trunk: Trunk, agent: BaseAlgorithm) -> _Columns:
    inner = trunk.trunk if isinstance(trunk, BalancedTrunk) else trunk
    if not isinstance(inner, _Columns):
        raise refuse(
            "ProgressiveColumns",
            agent,
            f"its trunk is {type(inner).__name__}; use NetworkConfig(trunk=ColumnsTrunk(...))",
        )
    return inner
