"""PPO for many tasks (Schulman et al. 2017, arXiv:1707.06347), as Stable-Baselines3 has it."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from mtrl.agents.multitask.algorithm import MultiTaskAlgorithm
from mtrl.agents.multitask.env import find_multi_task_env
from mtrl.agents.multitask.rollout_buffer import MultiTaskRolloutBuffer
from mtrl.agents.policies import MultiTaskActorCriticPolicy
from mtrl.envs.curricula.sb3_source import CurriculumVecEnv, find_curriculum_env
from mtrl.errors import UsageError

__all__ = ["MultiTaskPPO"]

_ROWS = 2048
"""Samples valued at once after a rollout: few enough that their features stay in the cache."""


class MultiTaskPPO(MultiTaskAlgorithm, PPO):
    """Stable-Baselines3's PPO on a `MultiTaskVecEnv`.

    What it adds: minibatches in which the tasks have equal shares, advantages normalised within each
    task, task weights that an objective moves after each rollout, and returns logged per task. The
    update is the parent's own.

    Rollouts are collected with the actor alone; values are computed after it for all samples together,
    hence callbacks do not find them among the locals of a step. A task that fails (see
    `MultiTaskVecEnv`) is in no minibatch, and no episode that robust level replay only wants scored; a
    rollout of such episodes alone changes nothing.

    Args:
        policy: as of `MultiTaskAlgorithm`.
        env: likewise.
        normalise_per_task: whether advantages are normalised within each task of a rollout; if not,
            within each minibatch, as the parent does. `normalize_advantage=False` turns both off.
        **settings: `objective` as of `MultiTaskAlgorithm`, the others as of `PPO`.

    Raises:
        UsageError: as of `MultiTaskAlgorithm`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **PPO.policy_aliases,
        "MultiTaskPolicy": MultiTaskActorCriticPolicy,
    }
    policy: Any
    rollout_buffer: Any

    def __init__(
        self,
        policy: str | type[Any],
        env: GymEnv | str | None,
        *,
        normalise_per_task: bool = True,
        **settings: Any,
    ) -> None:
        self.normalise_per_task = normalise_per_task
        super().__init__(policy, env, **settings)

    def _with_tasks(self, policy: str | type[Any], settings: dict[str, Any]) -> dict[str, Any]:
        made = super()._with_tasks(policy, settings)
        normalise = made.get("normalize_advantage", True)
        own = {
            "tasks": len(self.task_names),
            "normalise": normalise and self.normalise_per_task,
        }
        return {
            "rollout_buffer_class": MultiTaskRolloutBuffer,
            **made,
            "rollout_buffer_kwargs": own | (made.get("rollout_buffer_kwargs") or {}),
            "normalize_advantage": normalise and not self.normalise_per_task,
        }

    # Rollouts

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Fill the buffer; return False if the callback wants no more."""
        own = find_multi_task_env(env)
        own.statistics.begin_rollout()
        ours = isinstance(rollout_buffer, MultiTaskRolloutBuffer) and not self.use_sde
        if not ours and _selecting(env) is not None:
            raise UsageError(
                "robust level replay trains on replayed tasks only, for which the rollout buffer must be "
                "a MultiTaskRolloutBuffer and use_sde False; change that, or set robust to False"
            )
        collect = self._collect if ours else super().collect_rollouts
        if not collect(env, callback, rollout_buffer, n_rollout_steps):
            return False
        if isinstance(rollout_buffer, MultiTaskRolloutBuffer):
            rollout_buffer.included = own.healthy.copy()
        self._end_round(own)
        return True

    def _collect(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: Any,
        n_rollout_steps: int,
    ) -> bool:
        last_obs: Any = self._last_obs
        new_obs: Any
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        cut_short: list[tuple[int, int, NDArray[Any]]] = []
        selecting = _selecting(env)
        for step in range(n_rollout_steps):
            if selecting is not None:
                rollout_buffer.learnt[step] = selecting.trains()
            actions, log_probs = self._act(last_obs)
            new_obs, rewards, dones, infos = env.step(self._in_space(actions))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            ended = dones.nonzero()[0].tolist()
            if ended:
                last_infos = [infos[slot] for slot in ended]
                self._update_info_buffer(last_infos, dones[ended])
                cut_short += [
                    (step, slot, info["terminal_observation"])
                    for slot, info in zip(ended, last_infos, strict=True)
                    if info.get("TimeLimit.truncated") and "terminal_observation" in info
                ]
            assert self._last_episode_starts is not None
            rollout_buffer.log_probs[step] = log_probs
            rollout_buffer.add_step(last_obs, actions, rewards, self._last_episode_starts)
            self._last_obs = last_obs = new_obs
            self._last_episode_starts = dones
        self._complete(rollout_buffer, cut_short)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def train(self) -> None:
        """Update the policy by the rollout, unless nothing of it may be learnt from."""
        if not (
            isinstance(self.rollout_buffer, MultiTaskRolloutBuffer) and self.rollout_buffer.empty
        ):
            super().train()

    def _act(self, observations: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        with torch.inference_mode():
            seen = obs_as_tensor(observations, self.device)
            if isinstance(self.policy, MultiTaskActorCriticPolicy):
                actions, log_probs = self.policy.act(seen)
            else:
                distribution = self.policy.get_distribution(seen)
                actions = distribution.get_actions()
                log_probs = distribution.log_prob(actions)
        made = actions.reshape(-1, *(self.action_space.shape or ()))
        return made.cpu().numpy(), log_probs.cpu().numpy()

    def _in_space(self, actions: NDArray[Any]) -> NDArray[Any]:
        if not isinstance(self.action_space, gym.spaces.Box):
            return actions
        if self.policy.squash_output:
            return np.asarray(self.policy.unscale_action(actions))
        return np.asarray(np.clip(actions, self.action_space.low, self.action_space.high))

    def _complete(
        self, buffer: MultiTaskRolloutBuffer, cut_short: list[tuple[int, int, NDArray[Any]]]
    ) -> None:
        """Compute the values, and from them returns and advantages."""
        assert isinstance(self._last_obs, np.ndarray) and self._last_episode_starts is not None
        rows = buffer.observations.reshape(-1, *buffer.obs_shape)
        buffer.values = self._values(rows).reshape(buffer.rewards.shape)
        if cut_short:
            steps, slots, last = (list(column) for column in zip(*cut_short, strict=True))
            # Time being up is no end of the task: what would have come counts.
            buffer.rewards[steps, slots] += self.gamma * self._values(np.stack(last))
        last_values = torch.from_numpy(self._values(self._last_obs))
        buffer.compute_returns_and_advantage(last_values, self._last_episode_starts)

    def _values(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Return the values (rows,) of observations (rows, size)."""
        with torch.inference_mode():
            values = [
                self.policy.predict_values(obs_as_tensor(observations[i : i + _ROWS], self.device))
                for i in range(0, len(observations), _ROWS)
            ]
            flat: NDArray[np.float32] = torch.cat(values).flatten().cpu().numpy()
        return flat


def _selecting(env: VecEnv) -> CurriculumVecEnv | None:
    """Return the environments' curriculum, if it keeps some episodes from being learnt from."""
    found = find_curriculum_env(env)
    return found if found is not None and found.selects else None
