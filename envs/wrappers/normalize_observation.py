"""Observations with mean 0 and variance 1, by running statistics that are saved with a run."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mtrl.envs.wrappers.infos import (
    PlainVectorWrapper,
    fresh_slots,
    of_transition,
    states_of_slots,
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

__all__ = ["NormalizeObservation", "VectorNormalizeObservation"]

Rows = NDArray[np.float64]


class _Normalizing(Normalizing):
    """The part that the single and the vector wrapper have in common."""

    clip: float

    def _prepare(self, space: gym.Space[Any], per_task: bool, frozen: bool, clip: float) -> Any:
        """Set up the statistics; return the space of a normalised observation."""
        if not isinstance(space, gym.spaces.Box):
            raise UsageError(
                f"the observation space is {space}; only a Box can be normalised: wrap the "
                "environment before its observations become something else"
            )
        self.clip, self.frozen = check_clip(clip), frozen
        self.moments = TaskMoments(space.shape, per_task=per_task)
        return gym.spaces.Box(-clip, clip, space.shape, np.float32)

    def _check(self, observations: Any, task_ids: Sequence[Any]) -> Rows:
        self._check_ids(task_ids)
        check_finite("observation", observations, task_ids)
        return np.asarray(observations, np.float64)

    def _see(self, observations: Rows, task_ids: Sequence[Any]) -> None:
        if not self.frozen and len(observations) > 0:
            self.moments.update(observations, task_ids)

    def _normalized(self, observations: Any, task_ids: Sequence[Any]) -> NDArray[np.float32]:
        mean, variance = self.moments.rows(task_ids)
        scaled = ((observations - mean) / np.sqrt(variance + EPSILON)).astype(np.float32)
        return np.asarray(np.clip(scaled, -np.float32(self.clip), np.float32(self.clip)))


class NormalizeObservation(_Normalizing, gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """(observation - mean) / deviation over all that was observed, this observation included.

    Unlike Gymnasium's wrapper of this name it can keep statistics per task, save them, and refuses
    what is not finite. Space: Box of the same shape in [-clip, clip], float32.

    Args:
        env: an environment with Box observations.
        per_task: whether each task has its own statistics (needs `info["task_id"]`). A task that
            frozen statistics have not met is scaled by those of all tasks together.
        frozen: see the attribute, which may be changed at any time.
        clip: the greatest absolute value returned.

    Raises:
        UsageError: another observation space, a bad `clip`, or no task id where one is needed.
        MtrlError: an observation is not finite; the statistics are as they were before it.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        per_task: bool = False,
        frozen: bool = False,
        clip: float = 10.0,
    ) -> None:
        RecordConstructorArgs.__init__(self, per_task=per_task, frozen=frozen, clip=clip)
        gym.Wrapper.__init__(self, env)
        self.observation_space = self._prepare(env.observation_space, per_task, frozen, clip)

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]  # as in Gymnasium's wrappers
        """The specification; it is nondeterministic."""
        return nondeterministic(super().spec)

    def _seen(self, observation: Any, info: dict[str, Any]) -> NDArray[np.float32]:
        task_ids = [info.get("task_id")]
        row = self._check(np.asarray(observation)[None], task_ids)
        self._see(row, task_ids)
        return np.asarray(self._normalized(row, task_ids)[0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; its first observation counts."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._seen(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Apply `action`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._seen(observation, info), reward, terminated, truncated, info


class VectorNormalizeObservation(_Normalizing, PlainVectorWrapper):
    """`NormalizeObservation` with statistics that all sub-environments share.

    Works in every autoreset mode; `final_obs` is counted and normalised too. Arguments, space and
    errors as of `NormalizeObservation`.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        per_task: bool = False,
        frozen: bool = False,
        clip: float = 10.0,
    ) -> None:
        super().__init__(env)
        self.single_observation_space = self._prepare(
            env.single_observation_space, per_task, frozen, clip
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._task_ids: NDArray[np.object_] = np.full(self.num_envs, None, dtype=object)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; the observations of the slots that are reset count."""
        fresh = fresh_slots(options, self.num_envs)
        observations, info = self.env.reset(seed=seed, options=options)
        self._task_ids = states_of_slots(info, self._task_ids)
        task_ids = self._task_ids[fresh].tolist()
        self._see(self._check(observations[fresh], task_ids), task_ids)
        return self._normalized(observations, self._task_ids.tolist()), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Apply one action per slot."""
        observations, reward, terminated, truncated, info = self.env.step(actions)
        ended = info.get("_final_obs", np.zeros(self.num_envs, np.bool_)).nonzero()[0]
        outcomes, outcome_ids = observations, of_transition(info, "task_id", self.num_envs).tolist()
        if len(ended) > 0:
            outcomes = np.array(observations)
            outcomes[ended] = np.stack(info["final_obs"][ended])
        self._task_ids = states_of_slots(info, self._task_ids)
        first, first_ids = observations[ended], self._task_ids[ended].tolist()
        rows, first_rows = self._check(outcomes, outcome_ids), self._check(first, first_ids)
        # An episode's last observation is normalised before the next one's first is counted, as
        # in the single environment.
        self._see(rows, outcome_ids)
        if len(ended) > 0:
            info = {**info, "final_obs": self._final(rows, outcome_ids, ended)}
        self._see(first_rows, first_ids)
        normalized = self._normalized(observations, self._task_ids.tolist())
        return normalized, reward, terminated, truncated, info

    def _final(
        self, rows: Rows, task_ids: list[Any], ended: NDArray[np.intp]
    ) -> NDArray[np.object_]:
        normalized = self._normalized(rows, task_ids)
        final: NDArray[np.object_] = np.full(self.num_envs, None, dtype=object)
        for slot in ended:
            final[slot] = normalized[slot].copy()
        return final
