"""What happens to an agent where one task ends and the next begins, part by part.

A switch is a truncation, never a termination: what an episode in flight would still have earned counts,
by the value of the state it was left in. At a switch

- a rollout of PPO is over: its returns end in V of the state that was reached, as if time were up, and
  the next rollout starts with first states of the new task;
- in a replay buffer the newest transition of each environment, if its episode goes on, is marked as
  done because time was up (`dones` 1, `timeouts` 1), which bootstraps. A buffer that joins neighbours
  does not join it to the new task's.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.multitask.replay_buffer import MultiTaskReplayBuffer
from mtrl.agents.multitask.statistics import RewardScale
from mtrl.agents.saving.buffers import cut_episodes
from mtrl.config import check_at_least, check_fraction, check_positive

__all__ = ["Choice", "TaskSwitch", "forget_moments", "mark_truncated", "switch_task"]

Choice = Literal["keep", "reset", "warm"]


@dataclass(frozen=True, kw_only=True)
class TaskSwitch:
    """What is kept, reset or half kept ("warm") when the task changes.

    What an algorithm does not have is left out. The defaults are those of Continual World (Wołczyk et
    al. 2021, arXiv:2105.10919): buffer and optimiser reset, exploration from its start.
    """

    replay_buffer: Choice = "reset"
    """`keep`: all transitions stay, and minibatches have equal shares of all tasks that were met;
    `reset`: all are forgotten; `warm`: the newest `warm_transitions` of each task stay."""
    optimiser: Choice = "reset"
    """`keep`: moments and counts of steps stay; `reset`: all are forgotten; `warm`: first moments are
    set to 0, so that no step follows the old task's direction, the others stay."""
    exploration: Choice = "reset"
    """DQN's share of random actions: `keep`: its schedule runs once over all tasks; `reset`: it starts
    anew for each; `warm`: likewise, but nowhere above `warm_exploration`. The deviation of PPO's
    actions: `reset` to its start; `warm`: half way back, in its logarithm. The new task's temperature
    of SAC: `keep`: its own; `reset` to its start; `warm`: that of the task before. With `reset`, each
    task also begins with `learning_starts` random steps without an update."""
    normalisers: Choice = "keep"
    """Moments of `VecNormalize` and of scaled rewards: `keep`; `reset`: forgotten; `warm`: they count
    as no more than `warm_count` samples, so that they soon follow the new task."""
    target_network: Choice = "keep"
    """`keep`: it goes on lagging; `reset`: it becomes the trained network; `warm`: half way there."""
    learning_rate: Choice = "keep"
    """Schedules of step size and of PPO's clip ranges: `keep`: once over all tasks; `reset`: anew for
    each; `warm`: likewise, and the step size rises from 0 over the first `warm_share` of a task."""
    warm_transitions: int = 1000
    """See `replay_buffer`."""
    warm_exploration: float = 0.2
    """See `exploration`."""
    warm_count: float = 1000.0
    """See `normalisers`."""
    warm_share: float = 0.1
    """See `learning_rate`."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "warm_transitions")
        check_positive(self, "warm_count", "warm_share")
        check_fraction(self, "warm_exploration", "warm_share")


def switch_task(agent: BaseAlgorithm, how: TaskSwitch, old: int, new: int) -> None:
    """Do at once what `how` says; schedules are the runner's.

    Args:
        agent: whose episodes are cut short; its next `learn` begins new ones.
        how: what to do.
        old: number of the task that ends.
        new: number of the task that begins.
    """
    mark_truncated(getattr(agent, "replay_buffer", None), old, agent.n_envs)
    # The environment is reset by the next learn, and not before: its task is set in between.
    agent._last_obs = None
    _switch_buffer(getattr(agent, "replay_buffer", None), how)
    for optimizer in optimizers_of(agent):
        forget_moments(optimizer, how.optimiser)
    _switch_exploration(agent, how.exploration, old, new)
    for moments in _moments(agent):
        _switch_moments(moments, how)
    _switch_target(agent, how.target_network)


def optimizers_of(agent: BaseAlgorithm) -> list[torch.optim.Optimizer]:
    """Return the optimisers of an algorithm, each once."""
    places = (agent.policy, getattr(agent, "actor", None), getattr(agent, "critic", None))
    found = [getattr(place, "optimizer", None) for place in places]
    found.append(getattr(agent, "ent_coef_optimizer", None))
    kept = {id(one): one for one in found if isinstance(one, torch.optim.Optimizer)}
    return list(kept.values())


def mark_truncated(buffer: Any, task: int, slots: int) -> None:
    """Mark the newest transitions of episodes that go on as done because time was up.

    Args:
        buffer: a replay buffer; anything else is left alone.
        task: the number of the task that all environments play.
        slots: how many environments there are.
    """
    if not isinstance(buffer, ReplayBuffer):
        return
    cut_episodes(buffer)
    if not buffer.handle_timeout_termination:
        # Without the mark, a transition that is not done bootstraps, and a done one does not.
        return
    if isinstance(buffer, MultiTaskReplayBuffer):
        newest = buffer.positions[task] - 1 - np.arange(min(slots, int(buffer.counts[task])))
        places = task * buffer.capacity + newest % buffer.capacity
    elif buffer.full or buffer.pos:
        places = (buffer.pos - 1) % buffer.buffer_size * slots + np.arange(slots)
    else:
        return
    dones, timeouts = buffer.dones.reshape(-1), buffer.timeouts.reshape(-1)
    running = places[dones[places] == 0]
    dones[running] = timeouts[running] = 1


def _switch_buffer(buffer: Any, how: TaskSwitch) -> None:
    if not isinstance(buffer, ReplayBuffer) or how.replay_buffer == "keep":
        return
    if how.replay_buffer == "reset" or not isinstance(buffer, MultiTaskReplayBuffer):
        buffer.reset()
        return
    for task in range(buffer.tasks):
        _keep_newest(buffer, task, how.warm_transitions)
    buffer.full = bool((buffer.counts == buffer.capacity).all())
    buffer.pos = int((buffer.positions if buffer.full else buffer.counts).sum()) // buffer.n_envs


def _keep_newest(buffer: MultiTaskReplayBuffer, task: int, kept: int) -> None:
    count, first = int(buffer.counts[task]), task * buffer.capacity
    if count <= kept:
        return
    newest = first + (buffer.positions[task] - kept + np.arange(kept)) % buffer.capacity
    stored: list[Any] = [buffer.observations, buffer.next_observations, buffer.actions]
    for array in [*stored, buffer.rewards, buffer.dones, buffer.timeouts]:
        flat = array.reshape(-1, *array.shape[2:])
        flat[first : first + kept] = flat[newest]
    buffer.counts[task] = kept
    buffer.positions[task] = kept % buffer.capacity


def forget_moments(optimizer: torch.optim.Optimizer, how: Choice) -> None:
    """Forget nothing, everything, or the first moments of an optimiser ("warm")."""
    if how == "reset":
        optimizer.state = defaultdict(dict)
    if how == "warm":
        for kept in optimizer.state.values():
            for name in ("exp_avg", "momentum_buffer"):
                if kept.get(name) is not None:
                    kept[name].zero_()


def _switch_exploration(agent: Any, how: Choice, old: int, new: int) -> None:
    if how == "keep":
        return
    log_std = getattr(agent.policy, "log_std", None)
    if isinstance(log_std, torch.nn.Parameter):
        start = float(agent.policy.log_std_init)
        with torch.no_grad():
            log_std.lerp_(torch.full_like(log_std, start), 1.0 if how == "reset" else 0.5)
    temperatures = getattr(agent, "log_ent_coef", None)
    if (
        isinstance(temperatures, torch.Tensor)
        and temperatures.ndim == 1
        and new < len(temperatures)
    ):
        with torch.no_grad():
            warm = temperatures[old].clone()
            temperatures[new] = warm if how == "warm" else _first_temperature(agent)


def _first_temperature(agent: Any) -> float:
    """Return the logarithm of the temperature that SAC starts with."""
    _, _, given = str(agent.ent_coef).partition("_")
    return math.log(float(given)) if given else 0.0


def _moments(agent: BaseAlgorithm) -> Iterator[RunningMeanStd | RewardScale]:
    scale = getattr(agent, "reward_scale", None)
    if isinstance(scale, RewardScale):
        yield scale
    for layer in _layers(agent.get_env()):
        if isinstance(layer, MultiTaskVecEnv) and layer._scale is not None:
            yield layer._scale
        if isinstance(layer, VecNormalize):
            yield layer.ret_rms
            observed: Any = layer.obs_rms if layer.norm_obs else {}
            yield from observed.values() if isinstance(observed, dict) else (observed,)


def _layers(env: VecEnv | None) -> Iterator[VecEnv]:
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv


def _switch_moments(moments: RunningMeanStd | RewardScale, how: TaskSwitch) -> None:
    anything: Any = moments
    if how.normalisers == "warm":
        anything.count = np.minimum(anything.count, how.warm_count)
    elif how.normalisers == "reset" and isinstance(moments, RewardScale):
        sizes = {"tasks": len(moments.mean), "slots": len(moments.returns)}
        moments.load_state_dict(RewardScale(moments.scaling, **sizes).state_dict())
    elif how.normalisers == "reset":
        fresh = RunningMeanStd(shape=anything.mean.shape)
        anything.mean, anything.var, anything.count = fresh.mean, fresh.var, fresh.count


def _switch_target(agent: Any, how: Choice) -> None:
    pairs = (("q_net", "q_net_target"), ("critic", "critic_target"))
    for trained, target in pairs:
        if how != "keep" and hasattr(agent, target):
            parts = (getattr(agent, trained).parameters(), getattr(agent, target).parameters())
            polyak_update(*parts, tau=1.0 if how == "reset" else 0.5)
