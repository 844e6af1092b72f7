"""The switch from imitation to reinforcement learning, as a `CarryOver` says."""

from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mtrl.agents.q_learning import losses
from mtrl.agents.q_learning.batch import ReplayBatch
from mtrl.agents.q_learning.carry_over import CarryOver
from mtrl.agents.q_learning.value_scale import fit_scale, transform_values

if TYPE_CHECKING:
    from mtrl.agents.q_learning.imitation import QImitation

__all__ = ["anchor_margins", "learn_values", "settle", "switch", "value_loss"]

HELD_STEPS = 4096


def switch(agent: "QImitation", carry_over: CarryOver) -> dict[str, float | str]:
    """Do at once what `carry_over` says, and return it, with what it changed, for the log."""
    report: dict[str, float | str] = {
        name: value if isinstance(value, str) else float(value)
        for name, value in asdict(carry_over).items()
        if value is not None
    }
    if carry_over.settling_updates and agent.buffer.stored:
        settle(agent, carry_over.settling_updates)
    _switch_rewards(agent, carry_over)
    report |= _switch_values(agent, carry_over)
    if carry_over.buffer == "clear":
        agent.buffer.reset()
    if carry_over.optimiser == "reset":
        agent.policy.optimizer.state = defaultdict(dict)
    agent.anchor.load_state_dict(agent.q_net.state_dict())
    if carry_over.target == "sync":
        agent.q_net_target.load_state_dict(agent.q_net.state_dict())
    return report


def settle(agent: "QImitation", updates: int) -> None:
    """Make the last updates of imitation, the learning rate falling linearly to 0."""
    groups = agent.policy.optimizer.param_groups
    first = [group["lr"] for group in groups]
    agent.policy.set_training_mode(True)
    for done in range(updates):
        for group, rate in zip(groups, first, strict=True):
            group["lr"] = rate * (1 - done / updates)
        agent.update_once()
        if (done + 1) % agent.updates_per_target == 0:
            agent.refresh_target()
    for group, rate in zip(groups, first, strict=True):
        group["lr"] = rate


def _switch_rewards(agent: "QImitation", carry_over: CarryOver) -> None:
    buffer = agent.buffer
    if carry_over.buffer == "keep" and buffer.imitation_weight > 0:
        buffer.adopt_imitation_rewards()
    if carry_over.demonstrations == "drop":
        buffer.drop_demonstrations()
    buffer.demonstration_share = None
    if carry_over.imitation_anneal == 0:
        buffer.imitation_weight = 0.0


def _switch_values(agent: "QImitation", carry_over: CarryOver) -> dict[str, float | str]:
    if agent.buffer.stored == 0:
        return {}
    batch = held_batch(agent)
    before = _level(agent, batch)
    scale = (1.0, 0.0)
    if carry_over.q_scale != "keep":
        scale = _fitted(agent, batch, with_slope=carry_over.q_scale == "rescale")
        for network in (agent.q_net, agent.q_net_target):
            transform_values(network, scale, batch.observations)
    return {
        "q_before": before,
        "q_after": _level(agent, batch),
        "q_slope": scale[0],
        "q_offset": scale[1],
    }


def held_batch(agent: "QImitation") -> ReplayBatch:
    """Return all steps of the buffer, or as many as are enough to measure by, drawn alike."""
    buffer = agent.buffer
    every = buffer.stored <= HELD_STEPS
    indices = np.arange(buffer.stored) if every else buffer.uniform_indices(HELD_STEPS)
    return buffer.batch(indices, env=agent.get_vec_normalize_env())


@torch.no_grad()
def _level(agent: "QImitation", batch: ReplayBatch) -> float:
    return float(losses.hard_values(agent.q_net(batch.observations)).mean())


@torch.no_grad()
def _fitted(agent: "QImitation", batch: ReplayBatch, *, with_slope: bool) -> tuple[float, float]:
    after = batch.one_step
    values = losses.values_of_actions(agent.q_net(batch.observations), batch.actions)
    next_values = losses.hard_values(agent.q_net(after.observations))
    discounts = agent.gamma * (1 - after.dones)
    columns = (values, next_values, after.rewards, discounts)
    return fit_scale(*(column.squeeze(1) for column in columns), with_slope=with_slope)


def learn_values(agent: "QImitation", updates: int, margin: float) -> None:
    """Learn the values of the pretrained policy under the true reward, and keep the policy.

    Args:
        agent: whose network learns, from what its buffer has.
        updates: how many.
        margin: by which the policy's actions are to lead.
    """
    agent.policy.set_training_mode(True)
    for done in range(1, updates + 1):
        indices = agent.buffer.uniform_indices(agent.batch_size)
        batch = agent.buffer.batch(indices, env=agent.get_vec_normalize_env())
        agent.descend(value_loss(agent, batch, margin))
        if done % agent.updates_per_target == 0:
            agent.refresh_target()
    agent.q_net_target.load_state_dict(agent.q_net.state_dict())


def value_loss(agent: "QImitation", batch: ReplayBatch, margin: float) -> Tensor:
    """Return the error against r + gamma Q'(s', pi(s')) plus the large margin of pi(s).

    pi is the pretrained policy.
    """
    after = batch.one_step
    with torch.no_grad():
        values = losses.chosen_values(
            agent.q_net_target(after.observations), agent.anchor(after.observations)
        )
    target = losses.targets(after.rewards, after.dones, agent.gamma, values)
    q_values = agent.q_net(batch.observations)
    predicted = losses.values_of_actions(q_values, batch.actions)
    error = losses.weighted_mean(predicted, target, None, agent.options.error)
    return error + anchor_margins(agent, q_values, batch, margin).mean()


def anchor_margins(
    agent: "QImitation", q_values: Tensor, batch: ReplayBatch, margin: float
) -> Tensor:
    """Return the large margins, (batch, 1), of the pretrained policy's actions in the batch's states."""
    with torch.no_grad():
        actions = agent.anchor(batch.observations).argmax(1, keepdim=True)
    return losses.large_margins(q_values, actions, margin)
