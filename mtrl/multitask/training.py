"""The training loop of one agent on many tasks, and its checkpoints.

Stable-Baselines3's own `learn` runs; between two of its rollouts the run logs, evaluates and saves. A
run that was killed goes on from its newest checkpoint and ends bit for bit where it would have.
"""

import time
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from mtrl.agents.multitask.algorithm import MultiTaskAlgorithm
from mtrl.agents.policies import MultiTaskPolicy
from mtrl.agents.saving import agent_state, load_agent_state
from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task, split_digest
from mtrl.errors import MtrlError
from mtrl.family_files import keep_family, with_kept_family
from mtrl.meta.watching import Pictures, log_settings
from mtrl.multitask.config import MultiTaskConfig
from mtrl.multitask.curriculum_watching import CurriculumWatch
from mtrl.multitask.evaluation import TaskScores, play_episodes
from mtrl.multitask.tasks import (
    build_agent,
    evaluation_env,
    multitask_family,
    task_names,
    train_tasks,
    training_env,
)
from mtrl.multitask.watching import (
    balancer_seconds,
    charts,
    conflict_pictures,
    evaluation_values,
    gradient_values,
    recorded_values,
)
from mtrl.progress import Progress
from mtrl.runs import Run
from mtrl.seeding import numpy_generator

__all__ = ["evaluate_agent", "kept_tasks", "train_multitask"]


def train_multitask(config: MultiTaskConfig, run: Run) -> MultiTaskAlgorithm:
    """Train as `config` says, recording in `run`; return the agent.

    Raises:
        Interrupted: asked to stop by a signal; everything up to then is saved.
        UsageError: the configuration cannot be carried out.
        CheckpointError: the run's checkpoint is not one of such an agent.
        MtrlError: a number is not finite, or no task is left that gives finite numbers.
    """
    # -- what is trained, and on what ---------------------------------------------------------
    keep_family(config.family, run.directory, run.manifest)
    family = multitask_family(with_kept_family(config, run.directory))
    tasks = kept_tasks(config, family, run)
    agent = build_agent(config, training_env(config, family, tasks))
    agent.set_logger(Logger(None, []))

    # -- train, from where it stopped ---------------------------------------------------------
    session = _Session(config, run, agent, family, tasks)
    callbacks: list[BaseCallback] = [_AtRolloutStarts(session)]
    if session.level_scores is not None:
        callbacks.append(session.level_scores)
    label = type(config.algorithm).__name__
    with Progress(config.total_steps, done=session.done, label=label) as progress:
        session.progress = progress
        learn: Any = agent.learn  # it takes None where it is declared to take numbers only
        learn(
            config.total_steps - agent.num_timesteps,
            callback=callbacks,
            log_interval=None,
            reset_num_timesteps=False,
        )
        session.between_rollouts(last=True)
    return agent


def kept_tasks(config: MultiTaskConfig, family: TaskFamily, run: Run) -> list[Task]:
    """Return the run's tasks, which are written down in its manifest when it starts."""
    if "train_tasks" in run.manifest.values:
        return [Task.from_json(text) for text in run.manifest.values["train_tasks"]]
    tasks = train_tasks(config, family)
    run.manifest.pin(
        train_tasks=[task.to_json() for task in tasks], train_digest=split_digest(tasks)
    )
    return tasks


def evaluate_agent(
    agent: Any,
    config: MultiTaskConfig,
    family: TaskFamily,
    tasks: list[Task],
    *,
    episodes: int,
    seed: int,
) -> TaskScores:
    """Play `episodes` of each task in environments of their own, the same at every call."""
    first = int(numpy_generator(seed, "evaluation").integers(2**31))
    env = evaluation_env(config, family, tasks, episodes, first)
    return play_episodes(agent, env, len(tasks), config.solved_at)


class _AtRolloutStarts(BaseCallback):
    """Calls the session where everything is at rest: before the steps of a rollout."""

    def __init__(self, session: "_Session") -> None:
        super().__init__()
        self._session = session

    def _on_rollout_start(self) -> None:
        self._session.between_rollouts()

    def _on_step(self) -> bool:
        return True


class _Session:
    """What happens between rollouts: log, evaluate, save, and stop if asked to.

    Each is due where environment steps have passed another multiple of its interval, so that it does
    not matter how often a run was resumed.
    """

    progress: Progress

    def __init__(
        self,
        config: MultiTaskConfig,
        run: Run,
        agent: MultiTaskAlgorithm,
        family: TaskFamily,
        tasks: list[Task],
    ) -> None:
        self.config, self.run, self.agent = config, run, agent
        self.family, self.tasks = family, tasks
        self.seen = 0
        self.curriculum = CurriculumWatch.of(agent.get_env(), tasks)
        self.level_scores = self.curriculum.level_scores() if self.curriculum else None
        if run.restored is None:
            run.tracker.layout(charts(curriculum=self.curriculum is not None))
        else:
            self._restore(run.restored.tensors, run.restored.state)
        self._pictures = Pictures(run)
        self._clock, self._clocked = time.perf_counter(), self.seen

    @property
    def done(self) -> int:
        """Environment steps done; the last rollout may have taken more than were asked for."""
        return min(self.seen, self.config.total_steps)

    @property
    def policy(self) -> MultiTaskPolicy:
        """The agent's policy."""
        policy: Any = self.agent.policy
        assert isinstance(policy, MultiTaskPolicy)
        return policy

    def between_rollouts(self, *, last: bool = False) -> None:
        """Do what is due; at the end of the run, everything."""
        step = self.agent.num_timesteps
        if step == self.seen:
            return
        if last or self._due(step, self.config.log_every):
            self._log(step)
        if last or self._due(step, self.config.evaluate_every):
            self._evaluate(step, last=last)
        stopping = self.run.stop_requested
        # A stopped run records nothing that an uninterrupted one would not.
        if last or stopping or self._due(step, self.config.checkpoint_every):
            self._save(step)
        self.seen = step
        if stopping and not last:
            raise self.run.interruption()

    def _due(self, step: int, interval: int) -> bool:
        return step // interval > self.seen // interval

    def _log(self, step: int) -> None:
        logger = self.agent.logger
        values = recorded_values(logger.name_to_value)
        logger.dump(step)
        # Of every task, also of those without an episode since the last point.
        weights = zip(self.agent.task_names, self.agent.task_weights.tolist(), strict=True)
        values |= {f"multitask/weight/{name}": weight for name, weight in weights}
        if self.curriculum is not None:
            values |= self.curriculum.values()
        self.run.log(step, values | gradient_values(self.policy))
        now = time.perf_counter()
        speed = (step - self._clocked) / (now - self._clock)
        seconds = balancer_seconds(self.policy)
        self.run.log_time(
            step, {"time/env_steps_per_second": speed, "time/balancer_seconds": seconds}
        )
        self._clock, self._clocked = now, step
        returns = [values[tag] for tag in values if tag.startswith("multitask/return/")]
        shown = {"mean": float(np.mean(returns)), "worst": min(returns)} if returns else {}
        self.progress.advance(shown, min(step, self.config.total_steps) - self.progress.done)

    def _evaluate(self, step: int, *, last: bool) -> None:
        config, tasks = self.config, self.tasks
        scores = evaluate_agent(
            self.agent,
            config,
            self.family,
            tasks,
            episodes=config.eval_episodes,
            seed=config.seed,
        )
        values = evaluation_values(scores, task_names(tasks))
        self.run.log(step, values)
        pictures = conflict_pictures(self.policy, self.agent.task_names, step)
        self._pictures.draw(step, pictures)
        if last:
            log_settings(self.run, config, values)
        self._clock, self._clocked = time.perf_counter(), step

    # Checkpoints

    def _save(self, step: int) -> None:
        for name, parameter in self.policy.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise MtrlError(
                    f"{name} is not finite after step {step}, so it is not saved; resume from the "
                    "checkpoint before with a smaller learning_rate"
                )
        tensors, state = agent_state(self.agent)
        # What was recorded since the last point of the curves belongs to the next one.
        pending = recorded_values(self.agent.logger.name_to_value)
        saved = {"agent": state, "recorded": pending}
        if self.curriculum is not None:
            # The curriculum itself is part of the agent's environment.
            saved["watched"] = self.curriculum.state_dict()
        if self.level_scores is not None:
            saved["level_scores"] = self.level_scores.state_dict()
        self.run.save(step, tensors, saved)

    def _restore(self, tensors: Any, state: Any) -> None:
        load_agent_state(self.agent, tensors, state["agent"])
        for tag, value in state["recorded"].items():
            self.agent.logger.record(tag, value)
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["watched"])
        if self.level_scores is not None:
            self.level_scores.load_state_dict(state["level_scores"])
        self.seen = self.agent.num_timesteps
