"""What the algorithms for many tasks have in common, whatever Stable-Baselines3 calls their rest."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from mtrl.agents.multitask.env import MultiTaskVecEnv, find_multi_task_env
from mtrl.agents.multitask.weights import TaskWeights
from mtrl.agents.networks import NetworkConfig, TaskSpec
from mtrl.agents.objectives import Saddle, TaskObjective
from mtrl.agents.policies import MultiTaskPolicy
from mtrl.errors import UsageError

__all__ = ["MultiTaskAlgorithm"]


class MultiTaskAlgorithm(BaseAlgorithm):
    """The common part of the algorithms for many tasks, to be mixed with one of Stable-Baselines3.

    Args:
        policy: a policy class or "MultiTaskPolicy", whose `policy_kwargs` are `network`, `spec` and
            `balancer`; all have defaults here, the tasks being those of `env`.
        env: a `MultiTaskVecEnv`, wrapped or not; None only where an algorithm is loaded.
        objective: what moves the task weights; without it, all are 1. A task that has finished no
            episode keeps its weight.
        **settings: as of the algorithm that this is mixed with.

    Attributes:
        task_names: of the tasks.

    Raises:
        UsageError: `env` is no such environment, actions that the algorithm is not for, tasks of environment, policy and objective that
            differ, or an objective with a policy that has no task weights.
    """

    acts_in: ClassVar[tuple[type[gym.Space[Any]], ...]] = (gym.Space,)
    """The kinds of action space that the algorithm is defined for."""

    def __init__(
        self,
        policy: str | type[Any],
        env: GymEnv | str | None,
        *,
        objective: TaskObjective | None = None,
        **settings: Any,
    ) -> None:
        self.task_names: tuple[str, ...] = ()
        if env is not None:
            own = find_multi_task_env(env)
            if not isinstance(own.action_space, self.acts_in):
                kinds = " or ".join(kind.__name__ for kind in self.acts_in)
                raise UsageError(
                    f"actions are {own.action_space} and {type(self).__name__} is defined for {kinds} "
                    "only; choose another algorithm or another family"
                )
            self.task_names = own.names
            self._task_weights = TaskWeights(own.names, objective)
            settings = self._with_tasks(policy, settings)
        super().__init__(policy, env, **settings)

    def _with_tasks(self, policy: str | type[Any], settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings, with the tasks where they are wanted."""
        given = dict(settings.get("policy_kwargs") or {})
        kind = self.policy_aliases.get(policy) if isinstance(policy, str) else policy
        if kind is None or not issubclass(kind, MultiTaskPolicy):
            return settings
        spec = TaskSpec(tasks=len(self.task_names))
        made = {"network": NetworkConfig(), "spec": spec, **given}
        if made["spec"] != spec:
            raise UsageError(
                f"policy_kwargs['spec'] is {made['spec']} and the environment tells {spec.tasks} "
                "tasks by their numbers; leave it out"
            )
        return {**settings, "policy_kwargs": made}

    def _setup_model(self) -> None:
        # Any, because the parent here is abstract, and the algorithm that this is mixed with is not.
        rest: Any = super()
        rest._setup_model()
        if self.task_names:
            self._apply_weights()

    @property
    def task_weights(self) -> Tensor:
        """Return what each task's loss is multiplied by, (tasks,)."""
        return torch.from_numpy(self._task_weights.values).float()

    @property
    def objective(self) -> TaskObjective | None:
        """Return what moves the task weights."""
        return self._task_weights.objective

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Take another environment, of the same tasks.

        Raises:
            UsageError: it has other tasks, or its spaces are others.
        """
        own = find_multi_task_env(env)
        # A tuple becomes a list where Stable-Baselines3 saves it.
        if own.names != tuple(self.task_names):
            raise UsageError(
                f"env has tasks {', '.join(own.names)} and the algorithm was made for "
                f"{', '.join(self.task_names)}; give an environment of the same, in that order"
            )
        try:
            super().set_env(env, force_reset)
        except ValueError as error:
            raise UsageError(f"env does not fit: {error}; its spaces must be the same") from error

    def _end_round(self, env: MultiTaskVecEnv) -> None:
        """Move the task weights by the returns since the last round, and log both."""
        saddle = self._task_weights.update(env.statistics.rollout_returns(), env.healthy)
        self._apply_weights()
        self._log_tasks(env, saddle)

    def _apply_weights(self) -> None:
        policy: BasePolicy | MultiTaskPolicy = self.policy
        if isinstance(policy, MultiTaskPolicy):
            policy.set_task_weights(self.task_weights)
        elif self.objective is not None and self.objective.objective != "mean-return":
            raise UsageError(
                f"objective is {self.objective.objective}, and the policy "
                f"{type(policy).__name__} has no task weights; use MultiTaskPolicy"
            )

    def _log_tasks(self, env: MultiTaskVecEnv, saddle: Saddle | None) -> None:
        """Record the tasks of which an episode ended in this round."""
        statistics = env.statistics
        counted = statistics.rollout_episodes() > 0
        columns = {
            "return": statistics.rollout_returns(),
            "length": statistics.mean_lengths(),
            "success": statistics.success_rates(),
            "weight": self._task_weights.values,
        }
        for kind, column in columns.items():
            self._log_per_task(kind, np.where(counted, column, np.nan))
        if saddle is not None:
            self.logger.record("multitask/saddle_gap", saddle.average_gap)
        self.logger.record("multitask/failed_tasks", len(env.failed_tasks))

    def _log_per_task(self, kind: str, values: Any) -> None:
        """Record a value of each task, (tasks,), those that are not NaN."""
        for name, value in zip(self.task_names, values, strict=True):
            if np.isfinite(value):
                # Long tables and long names are what the terminal's table cannot show.
                self.logger.record(f"multitask/{kind}/{name}", float(value), exclude="stdout")
