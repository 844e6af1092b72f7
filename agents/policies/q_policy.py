"""Action values for many tasks, for DQN."""

import gymnasium as gym
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor

from mtrl.agents.policies.multitask_policy import (
    MultiTaskPolicy,
    WeighedNetwork,
    split_observation,
)
from mtrl.agents.policies.observation import TaskObservation

__all__ = ["MultiTaskQPolicy"]


class _QNetwork(QNetwork):
    network: WeighedNetwork

    def forward(self, obs: PyTorchObs) -> Tensor:
        """Return the value of each action, (batch, actions)."""
        values: Tensor = self.network(*split_observation(self, obs))
        return values


class MultiTaskQPolicy(MultiTaskPolicy, DQNPolicy):
    """Action values for many tasks, greedy as `DQNPolicy`.

    `DQN(MultiTaskQPolicy, env, policy_kwargs={"network": ..., "spec": ...})`, where `env` shows the
    task by `mtrl.envs.wrappers.TaskContext`. Arguments are those of `MultiTaskPolicy`. Parameters
    depend on torch's global stream, which an algorithm's `seed` decides.
    """

    def _build(self, lr_schedule: Schedule) -> None:
        self._start()
        super()._build(lr_schedule)
        del self._chance

    def make_q_net(self) -> QNetwork:
        """Return a network of action values."""
        made = _QNetwork(**self._update_features_extractor(self.net_args | {"net_arch": []}))
        assert isinstance(made.features_extractor, TaskObservation)
        assert isinstance(self.action_space, gym.spaces.Discrete)
        # In the place of the one that the line above made.
        del made.q_net
        made.network = self._make_network(made.features_extractor.shape, int(self.action_space.n))
        return made.to(self.device)

    def _networks(self) -> dict[str, WeighedNetwork]:
        assert isinstance(self.q_net, _QNetwork)
        return {"q": self.q_net.network}
