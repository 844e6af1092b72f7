"""An agent that learns tasks one after another, and what it can do on each after every one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from mtrl.agents.incremental.method import FineTune, MethodSettings
from mtrl.agents.incremental.schedules import Span, schedules
from mtrl.agents.incremental.scoring import Scorer
from mtrl.agents.incremental.switch import TaskSwitch, switch_task
from mtrl.agents.multitask.env import find_multi_task_env
from mtrl.agents.saving import agent_state, load_agent_state
from mtrl.agents.saving.tree import pack, unpack
from mtrl.errors import CheckpointError, UsageError
from mtrl.evaluation.continual import PerformanceMatrix

__all__ = ["IncrementalRunner", "TaskSequence"]


@dataclass(frozen=True, kw_only=True)
class TaskSequence:
    """Which tasks are learnt, one after another, and how.

    Raises:
        UsageError: no stage, or steps that do not fit the stages.
    """

    order: tuple[str, ...]
    """Names of the tasks, as the environment has them; one may come again."""
    steps: tuple[int, ...]
    """Environment steps of each stage; one number is for all. An algorithm finishes the rollout that
    reaches it."""
    method: MethodSettings = field(default_factory=FineTune)
    """What guards earlier tasks."""
    switch: TaskSwitch = field(default_factory=TaskSwitch)
    """What happens to the agent's parts where the task changes."""
    seed: int = 0
    """Of the method's own chance, and the name of the run in its matrix."""

    def __post_init__(self) -> None:
        if not self.order:
            raise UsageError("order is empty; name at least one task")
        if len(self.steps) not in (1, len(self.order)) or min(self.steps) < 1:
            raise UsageError(
                f"steps are {self.steps} for {len(self.order)} stages; give one positive number, or "
                "one for each"
            )

    @property
    def stage_steps(self) -> tuple[int, ...]:
        """Environment steps of each stage."""
        return self.steps * len(self.order) if len(self.steps) == 1 else self.steps


class IncrementalRunner:
    """Trains an agent through a `TaskSequence`; between two stages it scores every task.

    A stage is: the switch, the method's `before_task`, `learn` of the agent's algorithm with all
    environments on the stage's task, the method's `after_task`, and a score for each task. Episodes in
    flight at a switch are truncated (see `mtrl.agents.incremental.switch`). The order of a returning
    task's stages is as given: it is trained again like any other.

    Args:
        agent: of Stable-Baselines3 on a `MultiTaskVecEnv`, which knows all tasks in advance, so that the
            one-hot context never grows; new, or about to be loaded.
        sequence: what to learn.
        scorer: what scores an agent on a task, such as `EpisodeScorer`.

    Attributes:
        stage: the number of the stage that is next or runs, from 0.
        method: what guards earlier tasks.

    Raises:
        UsageError: a name that is no task's, environments that take no tasks, stages of random steps
            only, or a method that is not defined for the agent.
    """

    def __init__(self, agent: BaseAlgorithm, sequence: TaskSequence, scorer: Scorer) -> None:
        self.agent, self.sequence, self.scorer = agent, sequence, scorer
        self._env = find_multi_task_env(agent.get_env())
        self.tasks = tuple(_place(self._env.names, name) for name in sequence.order)
        if not self._env._takes_tasks:
            raise UsageError(
                "the environments take no tasks (they have no set_task_source), and a sequence gives "
                "each task to all of them; use environments of a task family"
            )
        _check_trains(agent, sequence)
        self.method = sequence.method.build(agent, self.tasks, sequence.seed)
        self.stage = 0
        self._start = agent.num_timesteps
        self._first_start = agent.num_timesteps
        self._begun = False
        self._passed = 0
        self._scores = np.full((1 + len(self.tasks), len(self._env.names)), np.nan)

    @property
    def done(self) -> bool:
        """Whether all stages are over."""
        return self.stage == len(self.tasks)

    @property
    def stage_start(self) -> int:
        """Environment steps that were done when the present stage began, or the last one if none runs."""
        return self._start

    @property
    def matrix(self) -> PerformanceMatrix:
        """Return the scores so far; those of stages to come are NaN."""
        return PerformanceMatrix(
            tasks=self._env.names,
            order=self.sequence.order,
            seeds=(self.sequence.seed,),
            scores=self._scores[np.newaxis],
        )

    def run(self, callback: BaseCallback | None = None, *, stages: int | None = None) -> bool:
        """Go on with the sequence; return whether it is done.

        Args:
            callback: of Stable-Baselines3, for every `learn`; where it ends one, the run stops there.
            stages: how many stages to end at most; all unless given.
        """
        if np.isnan(self._scores[0]).all():
            self._scores[0] = self._measured()
        last = len(self.tasks) if stages is None else min(self.stage + stages, len(self.tasks))
        while self.stage < last:
            if not self._begun:
                self._begin()
            if not self._train(callback):
                return False
            self.method.after_task(self.stage)
            self.stage, self._begun = self.stage + 1, False
            self._scores[self.stage] = self._measured()
        return self.done

    def _begin(self) -> None:
        task = self.tasks[self.stage]
        if self.stage > 0:
            switch_task(self.agent, self.sequence.switch, self.tasks[self.stage - 1], task)
        else:
            self.agent._last_obs = None
        self._play(task)
        self.method.before_task(self.stage)
        self._start, self._passed, self._begun = self.agent.num_timesteps, 0, True

    def _play(self, task: int) -> None:
        self._env.env_method("set_task_source", self._env.tasks[task])

    def _train(self, callback: BaseCallback | None) -> bool:
        """Take the stage's steps that are left; return False if the callback ended them."""
        steps = self.sequence.stage_steps[self.stage]
        milestones = self.method.milestones(self.stage)
        for share in milestones[self._passed :]:
            if not self._learn(self._start + round(share * steps), callback):
                return False
            self.method.at_milestone(self.stage)
            self._passed += 1
        return self._learn(self._start + steps, callback)

    def _learn(self, until: int, callback: BaseCallback | None) -> bool:
        left = until - self.agent.num_timesteps
        if left <= 0:
            return True
        # It takes None where it is declared to take numbers only.
        learn: Any = self.agent.learn
        with schedules(self.agent, self.sequence.switch, self._span()):
            learn(left, callback=callback, log_interval=None, reset_num_timesteps=False)
        return self.agent.num_timesteps >= until

    def _span(self) -> Span:
        steps = self.sequence.stage_steps
        return Span(
            start=self._start,
            length=steps[self.stage],
            total=self._first_start + sum(steps),
            first=self.stage == 0,
        )

    def measure(self, task: int) -> float:
        """Return the score of the agent as it is now on the task of this number."""
        with self.method.playing(task):
            return self.scorer(self.agent, task)

    def _measured(self) -> list[float]:
        return [self.measure(task) for task in range(len(self._env.names))]

    # Checkpoints

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return (tensors, JSON values) of runner, method and agent, for `CheckpointStore.save`.

        Safe points are between calls of `run`, and a callback's `on_rollout_start`.
        """
        tensors, agent = agent_state(self.agent)
        tensors = {f"agent/{name}": tensor for name, tensor in tensors.items()}
        position = {
            "stage": self.stage,
            "begun": self._begun,
            "passed": self._passed,
            "start": self._start,
            "first_start": self._first_start,
            "order": list(self.sequence.order),
            "scores": self._scores,
        }
        tree = {"position": position, "method": self.method.state_dict()}
        return tensors, {"agent": agent, "runner": pack(tree, "runner", tensors)}

    def load_state_dict(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, bit for bit where the environments can.

        Args:
            tensors: as returned.
            values: likewise.

        Raises:
            CheckpointError: it is of another sequence or another agent.
        """
        left = dict(tensors)
        tree = unpack(values["runner"], "runner", left)
        position = tree["position"]
        if tuple(position["order"]) != self.sequence.order:
            raise CheckpointError(
                f"the checkpoint is of the sequence {', '.join(position['order'])}, and this one is "
                f"{', '.join(self.sequence.order)}"
            )
        prefix = "agent/"
        own = {name.removeprefix(prefix): tensor for name, tensor in left.items()}
        load_agent_state(self.agent, own, values["agent"])
        self.stage, self._begun = position["stage"], position["begun"]
        self._passed, self._start = position["passed"], position["start"]
        self._first_start, self._scores = position["first_start"], position["scores"]
        if self._begun:
            self._play(self.tasks[self.stage])
        self.method.load_state_dict(tree["method"])


def _check_trains(agent: Any, sequence: TaskSequence) -> None:
    random = getattr(agent, "learning_starts", 0)
    shortest = min(sequence.steps)
    if sequence.switch.exploration == "reset" and random >= shortest:
        raise UsageError(
            f"learning_starts is {random} and a stage has {shortest} steps, so that all would be "
            'random and none learnt from; lower it, or switch with exploration "warm" or "keep"'
        )


def _place(names: tuple[str, ...], name: str) -> int:
    if name not in names:
        raise UsageError(f"order has {name!r}, and the tasks are {', '.join(names)}")
    return names.index(name)
