"""The network of an agent that acts, as a function of its parameters, and the states it met.

Methods guard this network only, as Continual World does: of PPO the policy (trunk, action head and the
actions' deviation), of DQN the Q-network, of SAC the actor. Critics are left out. A trunk that PPO's
policy shares with its values is guarded for what the policy needs of it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor, nn

from mtrl.agents.balancing import BalancedTrunk
from mtrl.agents.multitask.replay_buffer import MultiTaskReplayBuffer
from mtrl.agents.multitask.rollout_buffer import MultiTaskRolloutBuffer
from mtrl.agents.networks import Head, PerTask, TaskInput, Trunk
from mtrl.agents.policies import (
    MultiTaskActorCriticPolicy,
    MultiTaskPolicy,
    MultiTaskQPolicy,
    MultiTaskSACPolicy,
)
from mtrl.agents.policies.multitask_policy import split_observation
from mtrl.errors import UsageError

__all__ = [
    "ActingNetwork",
    "OutputKind",
    "States",
    "acting_network",
    "acting_optimizer",
    "draw_rows",
    "guarded_parameters",
    "has_head_per_task",
    "split_states",
    "stored_rows",
    "unbalanced",
]

OutputKind = Literal["logits", "gaussian", "values"]


@dataclass(frozen=True, eq=False)
class States:
    """States as a network sees them.

    Attributes:
        observations: (batch, *shape), without the context.
        index: (batch,), the number of each one's task.
        context: (batch, context).
    """

    observations: Tensor
    index: Tensor
    context: Tensor

    def columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return observations, numbers and contexts."""
        return self.observations, self.index, self.context


class ActingNetwork(nn.Module):
    """Maps states to what decides actions, without checks, so that `torch.func` can trace it.

    Outputs (batch, n) are: of "logits", logarithms of the actions' chances up to a constant; of
    "gaussian", the means of the actions before any squashing and then the logarithms of their
    deviations; of "values", the value of each action.

    Args:
        kind: what the outputs are.
        trunk: from observations to features; what balances its gradients is left out.
        head: from features to outputs.
        log_std: the deviations' logarithms (actions,), where they depend on no state.
    """

    def __init__(
        self, kind: OutputKind, trunk: Trunk, head: Head, log_std: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.kind: OutputKind = kind
        self.trunk = trunk.trunk if isinstance(trunk, BalancedTrunk) else trunk
        self.head = head
        self.log_std = log_std

    def forward(self, observations: Tensor, index: Tensor, context: Tensor) -> Tensor:
        task = TaskInput(index, context)
        outputs: Tensor = self.head(self.trunk(observations, task), task)
        if self.kind != "gaussian":
            return outputs
        if self.log_std is not None:
            return torch.cat([outputs, self.log_std.expand_as(outputs)], 1)
        mean, log_std = outputs.chunk(2, dim=1)
        return torch.cat([mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)], 1)


def acting_network(agent: BaseAlgorithm) -> ActingNetwork:
    """Return the network of `agent` that acts; its parameters are the agent's own.

    Raises:
        UsageError: the policy is none of those for many tasks, or its distribution is not known here.
    """
    policy: Any = agent.policy
    if isinstance(policy, MultiTaskQPolicy):
        network: Any = policy.q_net.network
        return ActingNetwork("values", network.trunk, network.head)
    if isinstance(policy, MultiTaskSACPolicy):
        made: Any = policy.actor
        return ActingNetwork("gaussian", made.network.trunk, made.network.head)
    if isinstance(policy, MultiTaskActorCriticPolicy):
        trunks, head = policy.trunks(), _action_head(policy)
        trunk = trunks.get("shared", trunks.get("actor"))
        assert trunk is not None
        if isinstance(policy.action_dist, CategoricalDistribution):
            return ActingNetwork("logits", trunk, head)
        if isinstance(policy.action_dist, DiagGaussianDistribution):
            return ActingNetwork("gaussian", trunk, head, policy.log_std)
        raise UsageError(
            f"the policy's actions are {type(policy.action_dist).__name__}; incremental methods know "
            "one discrete choice and Gaussian actions, use FineTune"
        )
    raise UsageError(
        f"the policy is {type(policy).__name__}, of which incremental methods do not know the parts; "
        "use MultiTaskPolicy, or FineTune"
    )


def _action_head(policy: MultiTaskActorCriticPolicy) -> Head:
    numbered: Any = policy.action_net
    head = numbered.head
    assert isinstance(head, Head)
    return head


def acting_optimizer(agent: Any) -> torch.optim.Optimizer:
    """Return the optimiser that moves the acting network."""
    place = agent.actor if isinstance(agent.policy, MultiTaskSACPolicy) else agent.policy
    optimizer = place.optimizer
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


@contextmanager
def unbalanced(policy: Any) -> Iterator[None]:
    """Within the context, gradients are plain sums over tasks, and move no balancer's state."""
    with ExitStack() as stack:
        if isinstance(policy, MultiTaskPolicy):
            for trunk in policy.balanced_trunks().values():
                stack.enter_context(trunk.unbalanced())
        yield


def has_head_per_task(agent: BaseAlgorithm) -> bool:
    """Return whether every task has a head of its own."""
    policy: Any = agent.policy
    return isinstance(policy, MultiTaskPolicy) and isinstance(policy.network.head, PerTask)


def guarded_parameters(agent: BaseAlgorithm, network: ActingNetwork) -> dict[str, nn.Parameter]:
    """Return the parameters that tasks share, by name: all of `network` but heads that each has alone."""
    own_heads = has_head_per_task(agent)
    named = network.named_parameters()
    return {name: part for name, part in named if not (own_heads and name.startswith("head."))}


def split_states(agent: BaseAlgorithm, observations: Any) -> States:
    """Return the states of observations (batch, size) as the agent's policy gets them."""
    policy: Any = agent.policy
    model = policy.actor if isinstance(policy, MultiTaskSACPolicy) else policy
    model = policy.q_net if isinstance(policy, MultiTaskQPolicy) else model
    seen = torch.as_tensor(np.asarray(observations), device=agent.device)
    states, task = split_observation(model, seen)
    assert task.index is not None and task.context is not None
    return States(states, task.index, task.context)


def stored_rows(agent: Any, task: int) -> NDArray[np.int64]:
    """Return the places of a task's transitions or steps in the agent's buffer, in no order of time.

    Places number the first two axes of the buffer's arrays taken as one. PPO has its last rollout only.

    Raises:
        UsageError: the buffer does not tell tasks apart, or has nothing of this one.
    """
    buffer = getattr(agent, "replay_buffer", None) or getattr(agent, "rollout_buffer", None)
    if isinstance(buffer, MultiTaskReplayBuffer):
        rows = np.arange(buffer.counts[task]) + task * buffer.capacity
    elif isinstance(buffer, MultiTaskRolloutBuffer):
        rows = np.flatnonzero((buffer.sample_tasks().reshape(-1) == task) & buffer.full)
    else:
        raise UsageError(
            f"the agent's buffer is {type(buffer).__name__}, which does not tell tasks apart; leave "
            "the buffer's class to the algorithms for many tasks"
        )
    if len(rows) == 0:
        raise UsageError(
            f"the buffer holds nothing of task {task}; train on it for at least one rollout before "
            "its end"
        )
    return rows


def draw_rows(
    agent: BaseAlgorithm, task: int, count: int, generator: torch.Generator
) -> NDArray[np.int64]:
    """Return `count` different places of a task in the agent's buffer, or all if they are fewer."""
    rows = stored_rows(agent, task)
    chosen = torch.randperm(len(rows), generator=generator)[:count]
    picked: NDArray[np.int64] = rows[chosen.numpy()]
    return picked
