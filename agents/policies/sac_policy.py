"""An actor and critics for many tasks, for SAC."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor, SACPolicy
from torch import Tensor, nn

from mtrl.agents.policies.multitask_policy import (
    MultiTaskPolicy,
    WeighedNetwork,
    split_observation,
)
from mtrl.agents.policies.observation import TaskObservation

__all__ = ["MultiTaskSACPolicy"]


class _Actor(Actor):
    network: WeighedNetwork

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return mean and log of the deviation before squashing, (batch, actions) each, and {}."""
        outputs = self.network(*split_observation(self, obs))
        mean, log_std = outputs.chunk(2, dim=1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX), {}


class _Critic(ContinuousCritic):
    """Values (batch, 1) of actions, by each of several networks.

    Where actions carry a gradient, the actor is learning: the parameters are constants then, no
    balancer sees that gradient, and tasks are weighed at the actor's outputs only.
    """

    networks: nn.ModuleList

    def forward(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, ...]:
        learning = not actions.requires_grad
        observations, task = split_observation(self, obs)
        inputs = torch.cat([observations.flatten(1), actions], 1)
        with nullcontext() if learning else _constant(self):
            return tuple(each(inputs, task, weighed=learning) for each in self.networks)

    def q1_forward(self, obs: PyTorchObs, actions: Tensor) -> Tensor:
        """Return the values by the first network."""
        values: tuple[Tensor, ...] = self(obs, actions)
        return values[0]


@contextmanager
def _constant(module: nn.Module) -> Iterator[None]:
    """Record no gradient of the module's parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class MultiTaskSACPolicy(MultiTaskPolicy, SACPolicy):
    """A squashed Gaussian actor and twin critics for many tasks, as `SACPolicy`.

    `SAC(MultiTaskSACPolicy, env, policy_kwargs={"network": ..., "spec": ...})`, where `env` shows the
    task by `mtrl.envs.wrappers.TaskContext`. Arguments are those of `MultiTaskPolicy`; `n_critics` is
    that of `SACPolicy`. Actor and critics have a trunk each, and a head of the actor makes both mean
    and deviation; the critics' trunks get the flattened observation with the action at its end.
    Parameters depend on torch's global stream, which an algorithm's `seed` decides.
    """

    _replaced = (*MultiTaskPolicy._replaced, "clip_mean", "log_std_init")

    def _build(self, lr_schedule: Schedule) -> None:
        self._start()
        super()._build(lr_schedule)
        del self._chance

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """Return a network of actions."""
        settings = self._update_features_extractor(self.actor_kwargs, features_extractor)
        made = _Actor(**settings | {"net_arch": []})
        # In the place of those that the line above made.
        del made.latent_pi, made.mu, made.log_std
        outputs = 2 * get_action_dim(self.action_space)
        made.network = self._make_network(_observation(made.features_extractor).shape, outputs)
        return made.to(self.device)

    def make_critic(
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> ContinuousCritic:
        """Return networks of action values."""
        settings = self._update_features_extractor(self.critic_kwargs, features_extractor)
        made = _Critic(**settings | {"net_arch": []})
        for name in [name for name, _ in made.named_children() if name.startswith("qf")]:
            delattr(made, name)
        made.q_networks = []
        observation = math.prod(_observation(made.features_extractor).shape)
        inputs = (observation + get_action_dim(self.action_space),)
        made.networks = nn.ModuleList(self._make_network(inputs, 1) for _ in range(made.n_critics))
        return made.to(self.device)

    def _networks(self) -> dict[str, WeighedNetwork]:
        assert isinstance(self.actor, _Actor)
        assert isinstance(self.critic, _Critic)
        critics: list[Any] = list(self.critic.networks)
        return {"actor": self.actor.network} | {
            f"critic_{number}": network for number, network in enumerate(critics)
        }


def _observation(extractor: BaseFeaturesExtractor) -> TaskObservation:
    assert isinstance(extractor, TaskObservation)
    return extractor
