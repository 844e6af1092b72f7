"""What the policies for many tasks have in common: their network's settings, weights and balancer."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import torch
from numpy.typing import ArrayLike
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from mtrl.agents.balancing import BalancedTrunk, BalancerConfig
from mtrl.agents.networks import (
    Embedding,
    Film,
    Head,
    NetworkConfig,
    OneHot,
    PerTask,
    TaskInput,
    TaskSpec,
    Trunk,
)
from mtrl.agents.policies.observation import TaskObservation
from mtrl.agents.policies.weights import LossWeights
from mtrl.errors import UsageError

__all__ = ["MultiTaskPolicy", "WeighedNetwork", "split_observation"]

_NUMBERED = (PerTask, OneHot, Embedding)


class WeighedNetwork(nn.Module):
    """A trunk and a head, whose outputs pass gradients on by the weights of their tasks.

    Args:
        trunk: from observations to features.
        head: from features to outputs.
        weights: of the tasks; the policy owns them.
    """

    def __init__(self, trunk: Trunk, head: Head, weights: LossWeights) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        # The method and not the module, which would be a part of every network's state.
        self._weigh = weights.weigh

    def forward(self, observations: Tensor, task: TaskInput, *, weighed: bool = True) -> Tensor:
        """Map observations (batch, *shape) of tasks to outputs (batch, outputs)."""
        outputs: Tensor = self.head(self.trunk(observations, task), task)
        if not weighed:
            return outputs
        assert task.index is not None
        return self._weigh(outputs, task.index)


class MultiTaskPolicy(BasePolicy):
    """The common part of the policies for many tasks, to be mixed with one of Stable-Baselines3.

    Args:
        observation_space: with the context in it; see `TaskObservation`.
        action_space: as of the policy that this is mixed with.
        lr_schedule: as of that policy.
        network: trunk, conditioning and heads.
        spec: the tasks. Without a length of context, the observation has a one-hot context; with one,
            it has that many task parameters, and no task's number is known.
        balancer: how the tasks' gradients of a trunk become one; None sums them.
        **other: what that policy takes and a network does not decide.

    Raises:
        UsageError: spaces, network, balancer and context that do not go together.
    """

    _replaced: ClassVar[tuple[str, ...]] = (
        "activation_fn",
        "features_extractor_class",
        "features_extractor_kwargs",
        "net_arch",
        "share_features_extractor",
        "use_expln",
        "use_sde",
    )
    """Arguments of the policy that this is mixed with which have no meaning here."""
    _fixed: ClassVar[Mapping[str, Any]] = {}
    """Arguments of that policy which are decided here."""
    _chance: torch.Generator

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        *,
        network: NetworkConfig,
        spec: TaskSpec,
        balancer: BalancerConfig | None = None,
        **other: Any,
    ) -> None:
        for name in self._replaced:
            if other.get(name):
                raise UsageError(f"{name} is {other[name]!r}; the argument network replaces it")
        if spec.context:
            _check_needs_no_number(network, balancer)
        self.network, self.spec, self.balancer = network, spec, balancer
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=TaskObservation,
            features_extractor_kwargs={
                "context": spec.context or spec.tasks,
                "one_hot": spec.context == 0,
            },
            **{name: value for name, value in other.items() if name not in self._replaced},
            **self._fixed,
        )

    @property
    def task_weights(self) -> Tensor:
        """Return the weight of each task's loss, (tasks,)."""
        return self._weights.values

    def set_task_weights(self, weights: ArrayLike | Tensor) -> None:
        """Multiply each task's loss by its weight from now on, in trunks and heads alike.

        Args:
            weights: (tasks,), of mean 1 where the size of the whole loss is to stay as it is.

        Raises:
            UsageError: there is not one for each task, one is negative or not finite, or no task's
                number is known.
        """
        if self.spec.context:
            raise UsageError(
                "the context is task parameters, and weights need the number of the task; show it "
                "by a one-hot context"
            )
        self._weights.set(weights)

    def task_index(self, observations: PyTorchObs) -> Tensor:
        """Return the number of each observation's task, (batch,) int64.

        Raises:
            UsageError: a context is not one-hot.
        """
        _, task = split_observation(self, observations)
        assert task.index is not None
        return task.index

    def trunks(self) -> dict[str, Trunk]:
        """Return the trunks that are trained, each once, by the name of what they serve."""
        return {name: network.trunk for name, network in self._networks().items()}

    def balanced_trunks(self) -> dict[str, BalancedTrunk]:
        """Return the trunks of `trunks` if a balancer was asked for, and nothing otherwise.

        They hold what a balancer saw last, and its state, which is not in `state_dict`.
        """
        return {
            name: trunk for name, trunk in self.trunks().items() if isinstance(trunk, BalancedTrunk)
        }

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the trunks."""
        return [part for trunk in self.trunks().values() for part in trunk.parameters()]

    def head_parameters(self) -> list[nn.Parameter]:
        """Return all other parameters that are trained."""
        return [part for net in self._networks().values() for part in net.head.parameters()]

    def _networks(self) -> dict[str, WeighedNetwork]:
        """Return the networks that are trained."""
        return {}

    def _start(self) -> None:
        """Make what networks are built with, at the start of `_build`, which deletes `_chance`."""
        self._chance = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self._weights = LossWeights(self.spec.tasks)
        if self.features_extractor is None:
            self.features_extractor = self.make_features_extractor()

    def _make_trunk(self, shape: tuple[int, ...]) -> Trunk:
        how = self.network
        trunk = how.trunk.build(shape, how.conditioning, self.spec, self._chance)
        if self.balancer is None:
            return trunk
        # A generator of its own, since a balancer keeps it and saves its state.
        seed = int(torch.randint(2**62, (), generator=self._chance))
        balancer = self.balancer.build(self.spec.tasks, torch.Generator().manual_seed(seed))
        return BalancedTrunk(trunk, balancer, self.spec)

    def _make_head(self, trunk: Trunk, outputs: int, *, scale: float = 1.0) -> Head:
        config = dataclasses.replace(self.network.head, scale=scale * self.network.head.scale)
        return config.build(trunk.features, outputs, self.spec, self._chance)

    def _make_network(self, shape: tuple[int, ...], outputs: int) -> WeighedNetwork:
        trunk = self._make_trunk(shape)
        return WeighedNetwork(trunk, self._make_head(trunk, outputs), self._weights)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        decided = (*self._replaced, *self._fixed)
        kept = {name: value for name, value in data.items() if name not in decided}
        return kept | {name: getattr(self, name) for name in ("network", "spec", "balancer")}


def split_observation(model: BaseModel, observations: PyTorchObs) -> tuple[Tensor, TaskInput]:
    """Return what `TaskObservation.split` makes of observations that `model` preprocesses.

    Args:
        model: a network of Stable-Baselines3 whose features extractor is a `TaskObservation`.
        observations: as a policy gets them.
    """
    extractor = model.features_extractor
    assert isinstance(extractor, TaskObservation)
    return extractor.split(model.extract_features(observations, extractor))


def _check_needs_no_number(network: NetworkConfig, balancer: BalancerConfig | None) -> None:
    conditioning = network.conditioning
    code = conditioning.code if isinstance(conditioning, Film) else conditioning
    numbered = [part for part in (network.head, code) if isinstance(part, _NUMBERED)]
    for part in (*numbered, balancer):
        if part is not None:
            raise UsageError(
                f"the context is task parameters and the network has {type(part).__name__}, which "
                "needs the number of the task; show it by a one-hot context"
            )
