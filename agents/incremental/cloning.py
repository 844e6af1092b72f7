"""Replay of finished tasks with cloning of what the agent said of them: CLEAR's two terms, and ClonEx."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from mtrl.agents.incremental.acting import (
    ActingNetwork,
    OutputKind,
    acting_network,
    acting_optimizer,
    draw_rows,
    split_states,
    unbalanced,
)
from mtrl.agents.incremental.hooks import UpdateHooks, add_gradient
from mtrl.agents.incremental.memory import Columns, RehearsalMemory, at_rows
from mtrl.agents.incremental.method import Method, MethodSettings
from mtrl.agents.policies import MultiTaskActorCriticPolicy, MultiTaskSACPolicy
from mtrl.config import check_at_least, check_positive
from mtrl.seeding import torch_generator

__all__ = ["BehaviourCloningReplay", "Cloning", "divergence"]


@dataclass(frozen=True, kw_only=True)
class BehaviourCloningReplay(MethodSettings):
    """Keep saying of remembered states what was said when their task ended.

    The loss gets policy_coefficient * mean KL(old || new) + value_coefficient * mean (V - V_old)^2 over a
    batch of remembered states:

    - PPO: both terms are CLEAR's (Rolnick et al. 2019, arXiv:1811.11682). Its third, the policy gradient
      on replay, is left out: it needs V-trace, and PPO's clipped ratio would be biased there.
    - DQN: what is cloned is its values, by the second term, a mean over states and actions. There is no
      policy to clone.
    - SAC: the first term on the actor, and the second on both critics, at the actions that were taken, as
      ClonEx-SAC (Wołczyk et al. 2022, arXiv:2209.13900). Its choice of the head that explores is left
      out.

    CLEAR has 0.01 and 0.005 where all terms are sums over as many samples; ClonEx-SAC has 100, and 1 if
    critics are cloned at all.
    """

    policy_coefficient: float = 1.0
    """Of the divergence from the old policy."""
    value_coefficient: float = 0.5
    """Of the squared error against old values."""
    memory_per_task: int = 10_000
    """States that are remembered of each task, at most; PPO has those of its last rollout."""
    batch_size: int = 128
    """Of them, drawn for each update."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "policy_coefficient", "value_coefficient")
        check_positive(self, "memory_per_task", "batch_size")

    def build(self, agent: BaseAlgorithm, sequence: Sequence[int], seed: int) -> "Cloning":
        """Return the method; PPO, DQN and SAC on `MultiTaskPolicy` have it."""
        return Cloning(self, agent, sequence, seed)


def divergence(kind: OutputKind, old: Tensor, new: Tensor) -> Tensor:
    """Return KL(old || new) of each state (batch,), from outputs (batch, n) of an `ActingNetwork`.

    Of Gaussians it is that before squashing, which squashing does not change.

    Raises:
        ValueError: the outputs are values, of which there is no distribution.
    """
    if kind == "logits":
        before, after = old.log_softmax(1), new.log_softmax(1)
        return (before.exp() * (before - after)).sum(1)
    if kind == "gaussian":
        (mean, log_std), (other, other_std) = old.chunk(2, 1), new.chunk(2, 1)
        spread = ((2 * log_std).exp() + (mean - other).square()) / (2 * (2 * other_std).exp())
        return (other_std - log_std + spread - 0.5).sum(1)
    raise ValueError("values are no distribution; compare them by their squared error")


class Cloning(Method):
    """Behaviour cloning beside an agent.

    Attributes:
        memory: of each finished stage, "observations" as the policy gets them, and "outputs" of the
            network that acts; of PPO, "values" (rows,) too; of SAC, "actions" and their "values" (rows,
            critics).
    """

    def __init__(
        self,
        settings: BehaviourCloningReplay,
        agent: BaseAlgorithm,
        sequence: Sequence[int],
        seed: int,
    ) -> None:
        super().__init__(agent, sequence, seed)
        self.settings = settings
        self.network: ActingNetwork = acting_network(agent)
        self.memory = RehearsalMemory(agent.device, torch_generator(seed, "cloning batches"))
        self._hooks = [self._hooked(acting_optimizer(agent), self.cloning_loss)]
        if isinstance(agent.policy, MultiTaskSACPolicy) and settings.value_coefficient > 0:
            critics: Any = agent.policy.critic
            self._hooks.append(self._hooked(critics.optimizer, self.critic_loss))

    def _hooked(
        self, optimizer: torch.optim.Optimizer, loss: Callable[[Columns], Tensor]
    ) -> UpdateHooks:
        def add() -> None:
            if self.memory:
                self._add(optimizer, loss)

        hooks = UpdateHooks(optimizer)
        hooks.before_backward(add)
        return hooks

    def cloning_loss(self, batch: Columns) -> Tensor:
        """Return the term of the loss of the network that acts, on remembered states."""
        how = self.settings
        states = split_states(self.agent, batch["observations"])
        outputs: Tensor = self.network(*states.columns())
        if self.network.kind == "values":
            return how.value_coefficient * (outputs - batch["outputs"]).square().mean()
        told = divergence(self.network.kind, batch["outputs"], outputs).mean()
        loss = how.policy_coefficient * told
        if isinstance(self.agent.policy, MultiTaskSACPolicy):
            return loss
        values = self._values(batch["observations"])
        return loss + how.value_coefficient * (values - batch["values"]).square().mean()

    def critic_loss(self, batch: Columns) -> Tensor:
        """Return the term of the loss of SAC's critics, on remembered states and actions."""
        error = self._critics(batch["observations"], batch["actions"]) - batch["values"]
        # Summed over critics, as the loss that they learn by.
        return self.settings.value_coefficient * error.square().mean(0).sum()

    def _critics(self, observations: Tensor, actions: Tensor) -> Tensor:
        policy: Any = self.agent.policy
        values: Tensor = torch.cat(policy.critic(observations, actions), 1)
        return values

    def _values(self, observations: Tensor) -> Tensor:
        policy: Any = self.agent.policy
        values: Tensor = policy.predict_values(observations)
        return values.squeeze(1)

    def _add(self, optimizer: torch.optim.Optimizer, loss: Callable[[Columns], Tensor]) -> None:
        batch = self.memory.draw(self.settings.batch_size)
        groups = optimizer.param_groups
        moved = [part for group in groups for part in group["params"] if part.requires_grad]
        with torch.enable_grad(), unbalanced(self.agent.policy):
            found = torch.autograd.grad(loss(batch), moved, allow_unused=True)
        for part, gradient in zip(moved, found, strict=True):
            add_gradient(part, gradient)

    def after_task(self, stage: int) -> None:
        """Remember states of the task, and what the agent says of them now."""
        chance = torch_generator(self.seed, f"memory of stage {stage}")
        count = self.settings.memory_per_task
        rows = draw_rows(self.agent, self.sequence[stage], count, chance)
        kept = at_rows(self.agent, ("observations",), rows)
        with torch.no_grad():
            kept["outputs"] = self.network(
                *split_states(self.agent, kept["observations"]).columns()
            )
            if isinstance(self.agent.policy, MultiTaskActorCriticPolicy):
                kept["values"] = self._values(kept["observations"])
            if isinstance(self.agent.policy, MultiTaskSACPolicy):
                kept |= at_rows(self.agent, ("actions",), rows)
                kept["values"] = self._critics(kept["observations"], kept["actions"])
        self.memory.append(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the memory."""
        return self.memory.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it."""
        self.memory.load_state_dict(state)

    def close(self) -> None:
        """Clone no more."""
        for hooks in self._hooks:
            hooks.remove()
