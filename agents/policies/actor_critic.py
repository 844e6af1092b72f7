"""A policy and a value for many tasks, for on-policy algorithms such as PPO."""

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import torch
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from mtrl.agents.networks import Head, TaskInput, Trunk
from mtrl.agents.policies.multitask_policy import MultiTaskPolicy, split_observation
from mtrl.agents.policies.observation import TaskObservation
from mtrl.agents.policies.weights import LossWeights

__all__ = ["MultiTaskActorCriticPolicy"]

# Stable-Baselines3's own for actor-critic policies: the first actions hardly depend on the state.
_ACTION_SCALE, _VALUE_SCALE = 0.01, 1.0


class _Trunks(nn.Module):
    """From features to what the heads need: those of a trunk and, last, the number of the task."""

    def __init__(self, actor: Trunk, critic: Trunk, observation: TaskObservation) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic
        # The method and not the module, which the policy has already.
        self._split = observation.split
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
        observations, task = self._split(features)
        assert task.index is not None
        made = trunk(observations, task)
        return torch.cat([made, task.index.unsqueeze(1).to(made.dtype)], 1)


class _NumberedHead(nn.Module):
    def __init__(self, head: Head, weights: LossWeights) -> None:
        super().__init__()
        self.head = head
        self._weigh = weights.weigh

    def forward(self, latent: Tensor) -> Tensor:
        return self.of(latent[:, :-1], TaskInput(latent[:, -1].long()))

    def of(self, features: Tensor, task: TaskInput) -> Tensor:
        """Return the outputs (batch, n) of features (batch, size) of tasks whose numbers are known."""
        assert task.index is not None
        return self._weigh(self.head(features, task), task.index)


class MultiTaskActorCriticPolicy(MultiTaskPolicy, ActorCriticPolicy):
    """A policy and a value for many tasks, for any on-policy algorithm of Stable-Baselines3.

    `PPO(MultiTaskActorCriticPolicy, env, policy_kwargs={"network": ..., "spec": ...})`, where `env`
    shows the task by `mtrl.envs.wrappers.TaskContext`. Parameters depend on torch's global stream, which
    an algorithm's `seed` decides. Actions have one standard deviation for all tasks.

    Args:
        observation_space: with the context in it; see `TaskObservation`.
        action_space: as of `ActorCriticPolicy`.
        lr_schedule: as of `ActorCriticPolicy`.
        share_trunk: whether actions and values have one trunk.
        **other: `network`, `spec` and `balancer` as of `MultiTaskPolicy`; the scale of the network's
            heads is 0.01 of that for actions; and what `ActorCriticPolicy` takes and a network does not
            decide.

    Raises:
        UsageError: spaces, network, balancer and context that do not go together.
    """

    _replaced = (*MultiTaskPolicy._replaced, "full_std", "squash_output")
    # Its drawn parameters are replaced, so that their initialiser would be wasted.
    _fixed: ClassVar[Mapping[str, Any]] = {"ortho_init": False}

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        *,
        share_trunk: bool = True,
        **other: Any,
    ) -> None:
        self.share_trunk = share_trunk
        super().__init__(observation_space, action_space, lr_schedule, **other)

    @property
    def _made(self) -> _Trunks:
        trunks: Any = self.mlp_extractor
        assert isinstance(trunks, _Trunks)
        return trunks

    def _build_mlp_extractor(self) -> None:
        self._start()
        assert isinstance(self.features_extractor, TaskObservation)
        shape = self.features_extractor.shape
        actor = self._make_trunk(shape)
        critic = actor if self.share_trunk else self._make_trunk(shape)
        # Any, because Stable-Baselines3 declares its own classes for what takes their place here.
        trunks: Any = _Trunks(actor, critic, self.features_extractor)
        self.mlp_extractor = trunks

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        assert isinstance(self.action_net, nn.Linear)
        outputs = self.action_net.out_features
        self.action_net = self._numbered(self._made.actor, outputs, _ACTION_SCALE)
        self.value_net = self._numbered(self._made.critic, 1, _VALUE_SCALE)
        del self._chance
        # The one made above holds the parameters that were just replaced.
        self.optimizer = self.optimizer_class(
            self.parameters(), **{"lr": lr_schedule(1), **self.optimizer_kwargs}
        )

    def _numbered(self, trunk: Trunk, outputs: int, scale: float) -> Any:
        return _NumberedHead(self._make_head(trunk, outputs, scale=scale), self._weights)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        if not isinstance(self.action_dist, CategoricalDistribution | DiagGaussianDistribution):
            return super()._get_action_dist_from_latent(latent_pi)
        return self._distribution(latent_pi[:, :-1], TaskInput(latent_pi[:, -1].long()))

    def _distribution(self, features: Tensor, task: TaskInput) -> Distribution:
        head: Any = self.action_net
        outputs = head.of(features, task)
        if isinstance(self.action_dist, CategoricalDistribution):
            return self.action_dist.proba_distribution(action_logits=outputs)
        assert isinstance(self.action_dist, DiagGaussianDistribution) and task.index is not None
        # A row for each action, so that a task's weight scales what it asks of the deviation too.
        log_std = self._weights.weigh(self.log_std.expand_as(outputs), task.index)
        return self.action_dist.proba_distribution(outputs, log_std)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values (batch, 1), log-probabilities (batch,) and entropies of actions; see the parent."""
        if not isinstance(self.action_dist, CategoricalDistribution | DiagGaussianDistribution):
            return super().evaluate_actions(obs, actions)
        # The parent would carry the task's number in a copy of the features, once for each network.
        states, task = split_observation(self, obs)
        made = self._made
        features = made.actor(states, task)
        critic = features if made.critic is made.actor else made.critic(states, task)
        distribution = self._distribution(features, task)
        head: Any = self.value_net
        return head.of(critic, task), distribution.log_prob(actions), distribution.entropy()

    def act(self, observations: PyTorchObs) -> tuple[Tensor, Tensor]:
        """Sample an action (batch, ...) for each observation, as `forward` does, without its value.

        Returns:
            The actions and their log-probabilities (batch,).
        """
        if not isinstance(self.action_dist, CategoricalDistribution):
            distribution = self.get_distribution(observations)
            actions = distribution.get_actions()
            return actions, distribution.log_prob(actions)
        # The same draws from the same stream; the distribution's object alone takes as long to make
        # as the network to compute.
        states, task = split_observation(self, observations)
        head: Any = self.action_net
        log_probs = torch.log_softmax(head.head(self._made.actor(states, task), task), 1)
        # What `torch.multinomial` draws, from the same stream. Its checks take longer than the draw.
        waits = torch.empty_like(log_probs).exponential_()
        chosen = log_probs.exp().div_(waits).argmax(1, keepdim=True)
        return chosen.squeeze(1), log_probs.gather(1, chosen).squeeze(1)

    def trunks(self) -> dict[str, Trunk]:
        """Return the trunks, each once, by the name of what they serve."""
        if self.share_trunk:
            return {"shared": self._made.actor}
        return {"actor": self._made.actor, "critic": self._made.critic}

    def head_parameters(self) -> list[nn.Parameter]:
        """Return all other parameters: the heads' and the actions' deviation."""
        trunk = {id(parameter) for parameter in self.trunk_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in trunk]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"share_trunk": self.share_trunk}
