"""SAC for many tasks (Haarnoja et al. 2018, arXiv:1812.05905), with a temperature for each."""

from typing import ClassVar

import gymnasium as gym
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import Optimizer

from mtrl.agents.multitask.off_policy import MultiTaskOffPolicyAlgorithm
from mtrl.agents.policies import MultiTaskSACPolicy
from mtrl.errors import UsageError

__all__ = ["MultiTaskSAC", "temperature_loss"]


def temperature_loss(log_temperatures: Tensor, log_probs: Tensor, index: Tensor) -> Tensor:
    """Return the sum over tasks of -log(temperature) * mean excess of the task's samples.

    So each temperature has the gradient that it has alone, whatever the number of tasks; that of a task
    without a sample is 0. With one task, it is the loss of Stable-Baselines3.

    Args:
        log_temperatures: (tasks,).
        log_probs: (batch,), log-probability of each action plus the target entropy.
        index: (batch,), the task of each.
    """
    none = torch.zeros_like(log_temperatures)
    sums = none.index_add(0, index, log_probs.detach())
    counts = none.index_add(0, index, torch.ones_like(log_probs))
    return -(log_temperatures * sums / counts.clamp(min=1)).sum()


class MultiTaskSAC(MultiTaskOffPolicyAlgorithm, SAC):
    """Stable-Baselines3's SAC on a `MultiTaskVecEnv`.

    What it adds: minibatches in which the tasks have equal shares, a part of the replay buffer for
    each task, a temperature for each task, so that a task with large rewards does not decide how much
    another explores, task weights that an objective moves, and returns logged per task. Arguments are
    those of `MultiTaskOffPolicyAlgorithm`, whose settings are `SAC`'s; "MultiTaskPolicy" is
    `MultiTaskSACPolicy`. The target entropy is that of all tasks. Task weights do not weigh the
    temperatures' losses.

    Attributes:
        log_ent_coef: (tasks,), logarithms of the temperatures; None if `ent_coef` is a number.

    Raises:
        UsageError: see `MultiTaskOffPolicyAlgorithm`; or a policy of another kind.
    """

    acts_in = (gym.spaces.Box,)
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **SAC.policy_aliases,
        "MultiTaskPolicy": MultiTaskSACPolicy,
    }
    policy: MultiTaskSACPolicy

    def _setup_model(self) -> None:
        super()._setup_model()
        if not isinstance(self.policy, MultiTaskSACPolicy):
            raise UsageError(
                f"policy is {type(self.policy).__name__}, which does not tell the task of an "
                "observation; use MultiTaskPolicy"
            )
        if self.log_ent_coef is None:
            return
        start = self.log_ent_coef.detach().repeat(self.policy.spec.tasks)
        self.log_ent_coef = start.requires_grad_()
        self.ent_coef_optimizer = torch.optim.Adam([start], lr=self.lr_schedule(1))

    @property
    def temperatures(self) -> Tensor:
        """Return the temperature of each task, (tasks,), without a gradient."""
        if self.log_ent_coef is None:
            return self.ent_coef_tensor.expand(self.policy.spec.tasks)
        return self.log_ent_coef.detach().exp()

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Take gradient steps on temperatures, critics and actor, in this order."""
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        seen = []
        for step in range(gradient_steps):
            seen.append(self._step(batch_size))
            if step % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
        self._n_updates += gradient_steps
        self._log_steps(seen)

    def _step(self, batch_size: int) -> dict[str, Tensor]:
        """Take one gradient step; return losses and mean temperature before it."""
        assert self.replay_buffer is not None
        batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
        index = self.policy.task_index(batch.observations)
        # Those before their own step, as Stable-Baselines3 has it in the other two losses.
        temperatures = self.temperatures
        temperature = temperatures[index].unsqueeze(1)
        actions, log_probs = self.actor.action_log_prob(batch.observations)
        seen = {"ent_coef": temperatures.mean()}
        if self.ent_coef_optimizer is not None:
            assert self.log_ent_coef is not None and isinstance(self.target_entropy, float)
            excess = log_probs + self.target_entropy
            loss = temperature_loss(self.log_ent_coef, excess, index)
            seen["ent_coef_loss"] = _descend(self.ent_coef_optimizer, loss)
        critic_loss = self._critic_loss(batch, self._targets(batch, temperature))
        seen["critic_loss"] = _descend(self.critic.optimizer, critic_loss)
        values = torch.cat(self.critic(batch.observations, actions), 1).amin(1, keepdim=True)
        actor_loss = (temperature * log_probs.unsqueeze(1) - values).mean()
        seen["actor_loss"] = _descend(self.actor.optimizer, actor_loss)
        return seen

    def _targets(self, batch: ReplayBufferSamples, temperature: Tensor) -> Tensor:
        """Return what the values (batch, 1) of the batch's actions should be.

        A transition stays in its task, so that `temperature` (batch, 1) is that of its end too.
        """
        discount = self.gamma if batch.discounts is None else batch.discounts
        with torch.no_grad():
            actions, log_probs = self.actor.action_log_prob(batch.next_observations)
            values = torch.cat(self.critic_target(batch.next_observations, actions), 1)
            soft = values.amin(1, keepdim=True) - temperature * log_probs.unsqueeze(1)
            return batch.rewards + (1 - batch.dones) * discount * soft

    def _critic_loss(self, batch: ReplayBufferSamples, targets: Tensor) -> Tensor:
        values = self.critic(batch.observations, batch.actions)
        return torch.stack([0.5 * mse_loss(value, targets) for value in values]).sum()

    def _log_steps(self, seen: list[dict[str, Tensor]]) -> None:
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in seen[0]:
            mean = torch.stack([step[name] for step in seen]).mean()
            self.logger.record(f"train/{name}", float(mean))
        self._log_per_task("ent_coef", self.temperatures.cpu().numpy())


def _descend(optimizer: Optimizer, loss: Tensor) -> Tensor:
    """Take a step of `optimizer` down `loss`; return the loss without its graph."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()
