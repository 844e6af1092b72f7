"""Environments of tasks that no list holds, for algorithms that want to know how many there are."""

from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from mtrl.agents.multitask.env import MultiTaskVecEnv
from mtrl.agents.multitask.statistics import RewardScaling
from mtrl.envs.task import Task

__all__ = ["UnlistedVecEnv"]


class UnlistedVecEnv(MultiTaskVecEnv):
    """A `MultiTaskVecEnv` that takes all tasks of a family for one.

    A curriculum over a box proposes tasks that nobody has seen before; the agent is not told which.
    Statistics, the scale of rewards and the weight are those of all tasks together, called "all". The
    environments' own sources decide what is played.

    Args:
        venv: environments that report `info["task_id"]`.
        example: one of the tasks, for messages and checkpoints.
        scaling: as of `MultiTaskVecEnv`.
        window: as of `MultiTaskVecEnv`.

    Raises:
        UsageError: as of `MultiTaskVecEnv`, but whichever tasks are played.
    """

    def __init__(
        self,
        venv: VecEnv,
        example: Task,
        *,
        scaling: RewardScaling | None = None,
        window: int = 100,
    ) -> None:
        super().__init__(
            venv, [example], scaling=scaling, window=window, names=["all"], assign=False
        )

    def _place(self, slot: int, info: dict[str, Any]) -> int:
        known = {"task_id": self.tasks[0].id} if "task_id" in info else {}
        return super()._place(slot, known)
