"""How a curriculum reaches environments: wrappers whose resets play what it proposes.

A result is credited to the proposal that was played, after checking it against the `task_id` that
the environment itself reports. A single environment draws in its reset. Environments that reset
themselves inside a step hold one drawn task each, to begin with when an episode ends: there an
episode's task was drawn before the result of the one before it was known.
"""

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv, VectorEnv

from mtrl.envs.curricula.credit import Judge, credit
from mtrl.envs.curricula.protocol import Curriculum, Proposal
from mtrl.envs.task import Task
from mtrl.envs.wrappers.infos import PlainVectorWrapper, fresh_slots, skips_reset_steps
from mtrl.envs.wrappers.task_statistics import TaskStatistics, VectorTaskStatistics
from mtrl.errors import UsageError

__all__ = ["CurriculumSource", "VectorCurriculumSource"]


class CurriculumSource(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose resets play the curriculum's proposals, and whose results teach it.

    `reset(options={"task": task})` plays that task, which is not credited; neither is an episode
    that a reset cuts off. Wrappers that record episodes belong outside. A curriculum of scores is told
    nothing here: the learner computes them.
    Environments of one process may share a curriculum, also inside a `SyncVectorEnv`.

    Args:
        env: an environment of a task family.
        curriculum: proposes tasks of that family.
        judge: makes the outcome, where it is not the return or the reported success.

    Attributes:
        played: the proposal under way; None if the task was chosen from outside.
    """

    def __init__(
        self, env: gym.Env[Any, Any], curriculum: Curriculum, *, judge: Judge | None = None
    ) -> None:
        super().__init__(TaskStatistics(env))
        self.curriculum, self.judge = curriculum, judge
        self.played: Proposal | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of the task proposed next; `seed` is the environment's alone."""
        options, self.played = dict(options or {}), None
        if options.get("task") is None:
            self.played = self.curriculum.propose(1)[0]
            options["task"] = self.played.task
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Apply `action`; an episode's end is credited."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if (terminated or truncated) and self.played is not None:
            credit(self.curriculum, self.judge, self.played, info["episode"])
        return observation, reward, terminated, truncated, _without_episode(info)


class VectorCurriculumSource(PlainVectorWrapper):
    """`CurriculumSource` over the batched, the worker's or a synchronous vector environment.

    Works in every autoreset mode. Each slot has one task drawn ahead. Arguments as of
    `CurriculumSource`.

    Attributes:
        played: per slot, the proposal under way.

    Raises:
        UsageError: tasks of single sub-environments cannot be chosen in this vector environment.
    """

    def __init__(
        self, env: VectorEnv[Any, Any, Any], curriculum: Curriculum, *, judge: Judge | None = None
    ) -> None:
        super().__init__(VectorTaskStatistics(env))
        self.curriculum, self.judge = curriculum, judge
        self.played: list[Proposal | None] = [None] * self.num_envs
        self._ahead: list[Proposal] = []
        self._push = _pusher(env)
        self._skips_reset_steps = skips_reset_steps(env)
        self._same_step = not self._skips_reset_steps and _resets_itself(env)
        self._over: list[int] = []

    def _draw(self, slots: Iterable[int]) -> None:
        """Play what was drawn ahead, where episodes have just begun, and draw again."""
        for slot in slots:
            self.played[slot] = self._ahead[slot]
            (self._ahead[slot],) = self.curriculum.propose(1)
            self._push(slot, self._ahead[slot].task)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes of the tasks drawn ahead, unless `options["task"]` chooses one for all."""
        if not self._ahead:
            self._ahead = self.curriculum.propose(self.num_envs)
            for slot, proposal in enumerate(self._ahead):
                self._push(slot, proposal.task)
        fresh = fresh_slots(options, self.num_envs).nonzero()[0].tolist()
        chosen = (options or {}).get("task") is not None
        result: tuple[Any, dict[str, Any]] = self.env.reset(seed=seed, options=options)
        self._over = [slot for slot in self._over if slot not in fresh]
        if not chosen:
            self._draw(fresh)
            return result
        for slot in fresh:
            self.played[slot] = None
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Apply one action per slot; episodes that end are credited."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        began, self._over = self._over, []
        self._draw(began)
        ended = (terminated | truncated).nonzero()[0].tolist()
        for slot in ended:
            played = self.played[slot]
            if played is not None:
                credit(self.curriculum, self.judge, played, _of_slot(info["episode"], slot))
        if self._same_step:
            self._draw(ended)
        elif self._skips_reset_steps:
            self._over = ended
        return observations, rewards, terminated, truncated, _without_episode(info)


def _without_episode(info: dict[str, Any]) -> dict[str, Any]:
    """Return the infos without our own statistics: wrappers outside refuse to write over them."""
    return {key: value for key, value in info.items() if key not in ("episode", "_episode")}


def _resets_itself(env: VectorEnv[Any, Any, Any]) -> bool:
    mode = env.metadata.get("autoreset_mode")
    return mode == gym.vector.AutoresetMode.SAME_STEP


def _of_slot(episode: dict[str, Any], slot: int) -> dict[str, Any]:
    """Return one slot's part of the statistics of `VectorTaskStatistics`."""
    of_slot = {"r": episode["r"][slot], "task_id": episode["task_id"][slot]}
    if "success" in episode and episode["_success"][slot]:
        of_slot["success"] = bool(episode["success"][slot])
    return of_slot


def _pusher(env: VectorEnv[Any, Any, Any]) -> Callable[[int, Task], None]:
    """Return what makes a task the source of one sub-environment's next episodes."""
    base: Any = env.unwrapped
    if hasattr(base, "set_task_source"):
        return lambda slot, task: base.set_task_source(task, indices=[slot])
    if isinstance(base, SyncVectorEnv):
        return lambda slot, task: base.envs[slot].get_wrapper_attr("set_task_source")(task)
    raise UsageError(
        f"{base} cannot give one sub-environment a task; use family.make_vec, "
        "mtrl.envs.workers.WorkerVectorEnv or SyncVectorEnv"
    )
