"""Rewards in units of the deviation of their discounted return, with statistics that are saved.

The scaling of OpenAI baselines' VecNormalize (Engstrom et al. 2020, arXiv:2005.12729, section 3):
rewards are divided, not centred, so that their signs stay.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from mtrl.envs.wrappers.infos import (
    PlainVectorWrapper,
    fresh_slots,
    of_transition,
    skips_reset_steps,
)
from mtrl.envs.wrappers.moments import TaskMoments
from mtrl.envs.wrappers.normalizing import (
    EPSILON,
    Normalizing,
    check_clip,
    check_finite,
    nondeterministic,
)
from mtrl.errors import UsageError

__all__ = ["NormalizeReward", "VectorNormalizeReward"]

Array = NDArray[np.float64]


class _Normalizing(Normalizing):
    """The part that the single and the vector wrapper have in common."""

    discount: float
    clip: float

    def _prepare(self, discount: float, per_task: bool, frozen: bool, clip: float) -> None:
        if not 0 <= discount <= 1:
            raise UsageError(f"discount is {discount}; it must be in [0, 1]")
        self.discount, self.clip, self.frozen = discount, check_clip(clip), frozen
        self.moments = TaskMoments((), per_task=per_task)

    def _check(self, rewards: Array, task_ids: Sequence[Any]) -> None:
        self._check_ids(task_ids)
        check_finite("reward", rewards, task_ids)

    def _normalized(self, rewards: Array, task_ids: Sequence[Any]) -> Array:
        _, variance = self.moments.rows(task_ids)
        return np.asarray(np.clip(rewards / np.sqrt(variance + EPSILON), -self.clip, self.clip))


class NormalizeReward(_Normalizing, gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Reward divided by the deviation of R = r + discount * R, which begins anew in every episode.

    Unlike Gymnasium's wrapper of this name it keeps R within the episode, can keep statistics per
    task, save them, and refuses what is not finite.

    Args:
        env: an environment.
        discount: that of the return whose deviation is measured.
        per_task: whether each task has its own statistics (needs `info["task_id"]`): tasks with
            large rewards then do not drown the others. A task that frozen statistics have not met
            is scaled by those of all tasks together.
        frozen: see the attribute, which may be changed at any time.
        clip: the greatest absolute value returned.

    Raises:
        UsageError: a bad `discount` or `clip`, or no task id where one is needed.
        MtrlError: a reward is not finite; the statistics are as they were before it.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        discount: float = 0.99,
        per_task: bool = False,
        frozen: bool = False,
        clip: float = 10.0,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, discount=discount, per_task=per_task, frozen=frozen, clip=clip
        )
        gym.Wrapper.__init__(self, env)
        self._prepare(discount, per_task, frozen, clip)
        self._return = 0.0

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]  # as in Gymnasium's wrappers
        """The specification; it is nondeterministic."""
        return nondeterministic(super().spec)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._return = 0.0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply `action`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        task_ids, row = [info.get("task_id")], np.array([float(reward)])
        self._check(row, task_ids)
        self._return = self._return * self.discount + float(row[0])
        if not self.frozen:
            self.moments.update(np.array([self._return]), task_ids)
        scaled = float(self._normalized(row, task_ids)[0])
        return observation, scaled, terminated, truncated, info


class VectorNormalizeReward(_Normalizing, PlainVectorWrapper):
    """`NormalizeReward` with statistics that all sub-environments share.

    Works in every autoreset mode: a step that only resets its slot does not count. Arguments and
    errors as of `NormalizeReward`.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        discount: float = 0.99,
        per_task: bool = False,
        frozen: bool = False,
        clip: float = 10.0,
    ) -> None:
        super().__init__(env)
        self._prepare(discount, per_task, frozen, clip)
        self._skips_reset_steps = skips_reset_steps(env)
        self._returns = np.zeros(self.num_envs)
        self._over = np.zeros(self.num_envs, np.bool_)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes."""
        fresh = fresh_slots(options, self.num_envs)
        self._returns[fresh], self._over[fresh] = 0.0, False
        result: tuple[Any, dict[str, Any]] = self.env.reset(seed=seed, options=options)
        return result

    def step(self, actions: Any) -> tuple[Any, Array, Any, Any, dict[str, Any]]:
        """Apply one action per slot."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        rewards = np.asarray(rewards, np.float64)
        task_ids = of_transition(info, "task_id", self.num_envs).tolist()
        self._check(rewards, task_ids)
        counts = ~self._over
        self._returns[counts] = self._returns[counts] * self.discount + rewards[counts]
        if not self.frozen and counts.any():
            counted = [task_ids[slot] for slot in counts.nonzero()[0]]
            self.moments.update(self._returns[counts], counted)
        ended = terminated | truncated
        self._returns[ended] = 0.0
        self._over = ended & self._skips_reset_steps
        return observations, self._normalized(rewards, task_ids), terminated, truncated, info
