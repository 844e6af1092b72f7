"""Networks for many tasks as a Stable-Baselines3 policy, told of the task by the observation."""

import dataclasses
import math
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

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
from mtrl.errors import UsageError

__all__ = ["MultiTaskActorCriticPolicy", "TaskObservation"]

# Stable-Baselines3's own for actor-critic policies: the first actions hardly depend on the state.
_ACTION_SCALE, _VALUE_SCALE = 0.01, 1.0
_REPLACED = (
    "activation_fn",
    "features_extractor_class",
    "features_extractor_kwargs",
    "full_std",
    "net_arch",
    "ortho_init",
    "share_features_extractor",
    "squash_output",
    "use_expln",
    "use_sde",
)


class TaskObservation(BaseFeaturesExtractor):
    """Takes observation and context apart, in both layouts of `mtrl.envs.wrappers.TaskContext`.

    Features are the flattened observation and then the context.

    Args:
        observation_space: a Box with the context at its end, or a Dict of Boxes "observation" and
            "context".
        context: length of the context.

    Attributes:
        shape: of the observation without its context.

    Raises:
        UsageError: a space that is neither, or has no room for the context.
    """

    def __init__(self, observation_space: gym.Space[Any], *, context: int) -> None:
        self.shape = _shape_without_context(observation_space, context)
        super().__init__(observation_space, math.prod(self.shape) + context)

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Return (batch, observation + context)."""
        if isinstance(observations, Tensor):
            return observations
        parts = (observations["observation"].flatten(1), observations["context"])
        return torch.cat(parts, 1)


def _shape_without_context(space: gym.Space[Any], context: int) -> tuple[int, ...]:
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        if 1 <= context < space.shape[0]:
            return (space.shape[0] - context,)
        raise UsageError(
            f"context is {context} and the observation space {space}; the context is a part of it, "
            "give the length that TaskContext appended"
        )
    parts = space.spaces if isinstance(space, gym.spaces.Dict) else {}
    boxes = {name: part.shape for name, part in parts.items() if isinstance(part, gym.spaces.Box)}
    if set(parts) != {"observation", "context"} or boxes.keys() != parts.keys():
        raise UsageError(
            f"the observation space is {space}; it must be a vector that ends in the context or a "
            'Dict of Boxes "observation" and "context", wrap the environment in TaskContext'
        )
    if boxes["context"] != (context,):
        raise UsageError(
            f"context is {context} and the space of the context has shape {boxes['context']}"
        )
    return boxes["observation"]


class _Trunks(nn.Module):
    """From features to what the heads need: those of a trunk and, last, the number of the task."""

    def __init__(self, actor: Trunk, critic: Trunk, *, one_hot: bool) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic
        self._one_hot = one_hot
        self.latent_dim_pi, self.latent_dim_vf = actor.features + 1, critic.features + 1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        actor = self.forward_actor(features)
        if self.actor is self.critic:
            return actor, actor
        return actor, self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return self._of(self.actor, features)

    def forward_critic(self, features: Tensor) -> Tensor:
        return self._of(self.critic, features)

    def _of(self, trunk: Trunk, features: Tensor) -> Tensor:
        size = math.prod(trunk.shape)
        observations, context = features[:, :size], features[:, size:]
        index = self._index(context)
        made = trunk(observations.reshape(-1, *trunk.shape), TaskInput(index, context))
        return torch.cat([made, index.unsqueeze(1).to(made.dtype)], 1)

    def _index(self, context: Tensor) -> Tensor:
        if self._one_hot:
            index = context.argmax(1)
            unit = nn.functional.one_hot(index, context.shape[1])
            bad = (context != unit).any(1)
            fault = "is not one-hot"
        else:
            index = torch.zeros(len(context), dtype=torch.int64, device=context.device)
            bad = ~torch.isfinite(context).all(1)
            fault = "is not finite"
        if bad.any():
            place = int(bad.nonzero()[0, 0])
            raise UsageError(
                f"the context of observation {place} is {context[place].tolist()}, which {fault}; "
                "the context must reach the policy as TaskContext gives it, normalise the "
                "observation inside that wrapper"
            )
        return index


class _NumberedHead(nn.Module):
    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, latent: Tensor) -> Tensor:
        made: Tensor = self.head(latent[:, :-1], TaskInput(latent[:, -1].long()))
        return made


class MultiTaskActorCriticPolicy(ActorCriticPolicy):
    """A policy and a value for many tasks, for any on-policy algorithm of Stable-Baselines3.

    `PPO(MultiTaskActorCriticPolicy, env, policy_kwargs={"network": ..., "spec": ...})`, where `env`
    shows the task by `mtrl.envs.wrappers.TaskContext`. Parameters depend on torch's global stream, which
    an algorithm's `seed` decides. Actions have one standard deviation for all tasks.

    Args:
        observation_space: with the context in it; see `TaskObservation`.
        action_space: as of `ActorCriticPolicy`.
        lr_schedule: as of `ActorCriticPolicy`.
        network: trunk, conditioning and heads; the scale of its heads is 0.01 of that for actions.
        spec: the tasks. Without a length of context, the observation has a one-hot context; with one,
            it has that many task parameters, and no task's number is known.
        share_trunk: whether actions and values have one trunk.
        **other: what `ActorCriticPolicy` takes and a network does not decide.

    Raises:
        UsageError: spaces, network and context that do not go together.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        *,
        network: NetworkConfig,
        spec: TaskSpec,
        share_trunk: bool = True,
        **other: Any,
    ) -> None:
        for name in _REPLACED:
            if other.get(name):
                raise UsageError(f"{name} is {other[name]!r}; the argument network replaces it")
        if spec.context:
            _check_needs_no_number(network)
        self.network, self.spec, self.share_trunk = network, spec, share_trunk
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            ortho_init=False,
            features_extractor_class=TaskObservation,
            features_extractor_kwargs={"context": spec.context or spec.tasks},
            **{name: value for name, value in other.items() if name not in _REPLACED},
        )

    @property
    def _trunks(self) -> _Trunks:
        trunks: Any = self.mlp_extractor
        assert isinstance(trunks, _Trunks)
        return trunks

    def _build_mlp_extractor(self) -> None:
        self._chance = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        assert isinstance(self.features_extractor, TaskObservation)
        shape = self.features_extractor.shape

        def trunk() -> Trunk:
            how = self.network
            return how.trunk.build(shape, how.conditioning, self.spec, self._chance)

        actor = trunk()
        critic = actor if self.share_trunk else trunk()
        # Any, because Stable-Baselines3 declares its own classes for what takes their place here.
        trunks: Any = _Trunks(actor, critic, one_hot=self.spec.context == 0)
        self.mlp_extractor = trunks

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        assert isinstance(self.action_net, nn.Linear)
        outputs = self.action_net.out_features
        self.action_net = self._head(self._trunks.actor, outputs, _ACTION_SCALE)
        self.value_net = self._head(self._trunks.critic, 1, _VALUE_SCALE)
        del self._chance
        # The one made above holds the parameters that were just replaced.
        self.optimizer = self.optimizer_class(
            self.parameters(), **{"lr": lr_schedule(1), **self.optimizer_kwargs}
        )

    def _head(self, trunk: Trunk, outputs: int, scale: float) -> Any:
        config = dataclasses.replace(self.network.head, scale=scale * self.network.head.scale)
        return _NumberedHead(config.build(trunk.features, outputs, self.spec, self._chance))

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the trunks."""
        return list(self._trunks.parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """Return all other parameters: the heads' and the actions' deviation."""
        trunk = {id(parameter) for parameter in self.trunk_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in trunk]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        own = ("network", "spec", "share_trunk")
        kept = {name: value for name, value in data.items() if name not in _REPLACED}
        return kept | {name: getattr(self, name) for name in own}


def _check_needs_no_number(network: NetworkConfig) -> None:
    conditioning = network.conditioning
    code = conditioning.code if isinstance(conditioning, Film) else conditioning
    for part in (network.head, code):
        if isinstance(part, PerTask | OneHot | Embedding):
            raise UsageError(
                f"the context is task parameters and the network has {type(part).__name__}, which "
                "needs the number of the task; show it by a one-hot context"
            )
