"""A-GEM (Chaudhry et al. 2019, arXiv:1812.00420): no step may make the memory's loss larger."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from mtrl.agents.incremental.acting import (
    acting_network,
    acting_optimizer,
    draw_rows,
    unbalanced,
)
from mtrl.agents.incremental.hooks import UpdateHooks
from mtrl.agents.incremental.memory import Columns, RehearsalMemory, at_rows
from mtrl.agents.incremental.method import Method, MethodSettings, refuse
from mtrl.agents.policies import MultiTaskActorCriticPolicy
from mtrl.agents.q_learning.batch import ReplayBatch
from mtrl.agents.q_learning.dqn import DeepQ
from mtrl.config import check_positive
from mtrl.seeding import torch_generator

__all__ = ["AGEM", "GradientMemory", "projected"]

_STEPS = ("observations", "actions", "log_probs", "advantages", "returns")
_TRANSITIONS = ("observations", "actions", "rewards", "next_observations", "dones", "timeouts")


@dataclass(frozen=True, kw_only=True)
class AGEM(MethodSettings):
    """Project each gradient g on what does not contradict g_ref, that of the loss on a memory.

    Where g . g_ref < 0, g becomes g - (g . g_ref / |g_ref|^2) g_ref, over all parameters that the
    optimiser moves. The loss on the memory is the algorithm's own: of DQN that of a batch of
    transitions, of PPO the clipped surrogate and the error of values of steps as they were collected.
    For SAC it is not defined here: the projection is of actor and critics together, and their steps are
    apart. Known to be weak in reinforcement learning; it is here to be compared with.
    """

    memory_per_task: int = 10_000
    """Transitions, or steps of the last rollout, that are remembered of each task, at most."""
    batch_size: int = 128
    """Of them, drawn for g_ref."""

    def __post_init__(self) -> None:
        check_positive(self, "memory_per_task", "batch_size")

    def build(self, agent: BaseAlgorithm, sequence: Sequence[int], seed: int) -> "GradientMemory":
        """Return the method; PPO and DQN on `MultiTaskPolicy` have it.

        Raises:
            UsageError: another algorithm.
        """
        return GradientMemory(self, agent, sequence, seed)


def projected(gradient: Tensor, reference: Tensor) -> Tensor:
    """Return `gradient` without what points against `reference`, both flat.

    A reference of length 0 forbids nothing.
    """
    along, length = gradient @ reference, reference @ reference
    if not (along < 0 and length > 0):
        return gradient
    return gradient - (along / length) * reference


class GradientMemory(Method):
    """A-GEM beside an agent.

    The projection is made after gradients were clipped: it is linear, so that clipping first changes
    nothing.

    Attributes:
        memory: what is remembered of each finished stage.
    """

    def __init__(
        self, settings: AGEM, agent: BaseAlgorithm, sequence: Sequence[int], seed: int
    ) -> None:
        super().__init__(agent, sequence, seed)
        acting_network(agent)
        self.on_policy = isinstance(agent.policy, MultiTaskActorCriticPolicy)
        if not (self.on_policy or isinstance(agent, DeepQ)):
            raise refuse(
                "AGEM",
                agent,
                "it projects the gradient of one loss, and here actor and critics take their steps "
                "apart; use BehaviourCloningReplay",
            )
        self.settings = settings
        self.memory = RehearsalMemory(agent.device, torch_generator(seed, "memory batches"))
        self._hooks = UpdateHooks(acting_optimizer(agent))
        self._hooks.before_step(self._project)

    def memory_loss(self, batch: Columns) -> Tensor:
        """Return the algorithm's loss on remembered rows."""
        loss = _surrogate if self.on_policy else _td_loss
        return loss(self.agent, batch)

    def _project(self) -> None:
        if not self.memory:
            return
        batch = self.memory.draw(self.settings.batch_size)
        groups = acting_optimizer(self.agent).param_groups
        moved = [part for group in groups for part in group["params"] if part.grad is not None]
        with torch.enable_grad(), unbalanced(self.agent.policy):
            found = torch.autograd.grad(self.memory_loss(batch), moved, allow_unused=True)
        reference = [
            torch.zeros_like(part) if g is None else g for part, g in zip(moved, found, strict=True)
        ]
        flat = torch.cat([part.grad.flatten() for part in moved])
        changed = projected(flat, torch.cat([each.flatten() for each in reference]))
        pieces = torch.split(changed, [part.numel() for part in moved])
        for part, piece in zip(moved, pieces, strict=True):
            part.grad.copy_(piece.view_as(part))

    def after_task(self, stage: int) -> None:
        """Remember some of what the task was learnt from."""
        chance = torch_generator(self.seed, f"memory of stage {stage}")
        count = self.settings.memory_per_task
        rows = draw_rows(self.agent, self.sequence[stage], count, chance)
        names = _STEPS if self.on_policy else _TRANSITIONS
        self.memory.append(at_rows(self.agent, names, rows))

    def state_dict(self) -> dict[str, Any]:
        """Return the memory."""
        return self.memory.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it."""
        self.memory.load_state_dict(state)

    def close(self) -> None:
        """Project no more."""
        self._hooks.remove()


def _td_loss(agent: Any, batch: Columns) -> Tensor:
    # Time that is up ends no task.
    over = batch["dones"] * (1 - batch["timeouts"])
    rewards = batch["rewards"]
    if agent.reward_scale is not None:
        tasks = agent.policy.task_index(batch["observations"]).cpu().numpy()
        rewards = torch.from_numpy(agent.reward_scale(rewards.cpu().numpy(), tasks)).to(over)
    samples = ReplayBufferSamples(
        batch["observations"],
        batch["actions"],
        batch["next_observations"],
        over.unsqueeze(1),
        rewards.unsqueeze(1),
    )
    loss: Tensor = agent.loss_terms(ReplayBatch.of(samples)).total
    return loss


def _surrogate(agent: Any, batch: Columns) -> Tensor:
    actions = batch["actions"]
    if isinstance(agent.action_space, gym.spaces.Discrete):
        actions = actions.long().flatten()
    values, log_prob, entropy = agent.policy.evaluate_actions(batch["observations"], actions)
    ratio = (log_prob - batch["log_probs"]).exp()
    clip = agent.clip_range(agent._current_progress_remaining)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(batch["advantages"] * ratio, batch["advantages"] * clipped).mean()
    chance = -log_prob if entropy is None else entropy
    error = (batch["returns"] - values.flatten()).square().mean()
    loss: Tensor = -gain - agent.ent_coef * chance.mean() + agent.vf_coef * error
    return loss
