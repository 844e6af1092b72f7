"""The training loop of one agent on tasks one after another, and its checkpoints.

Stable-Baselines3's own `learn` runs within an `IncrementalRunner`; between two of its rollouts the run
logs, scores and saves, and so it does at the end of every stage. A run that was killed goes on from its
newest checkpoint and ends bit for bit where it would have, the performance matrix included.

In the run directory, `performance.csv` holds that matrix (`mtrl.evaluation.continual_file`); stages that are
to come are empty.
"""

import math
import time
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from mtrl.agents.incremental import IncrementalRunner
from mtrl.agents.multitask.env import find_multi_task_env
from mtrl.agents.policies import MultiTaskPolicy
from mtrl.config import kind_name
from mtrl.errors import MtrlError
from mtrl.evaluation.continual_file import write_matrix
from mtrl.incremental.config import IncrementalConfig
from mtrl.incremental.tasks import (
    build_agent,
    families_of,
    kept_tasks,
    scorer,
    sequence_env,
    task_sequence,
)
from mtrl.incremental.watching import (
    CHARTS,
    SCORE,
    STAGE,
    measure_values,
    pictures,
    score_values,
)
from mtrl.meta.watching import Pictures, log_settings
from mtrl.multitask.watching import gradient_values, recorded_values
from mtrl.progress import Progress
from mtrl.runs import Run

__all__ = ["MATRIX", "train_incremental"]

MATRIX = "performance.csv"


def train_incremental(config: IncrementalConfig, run: Run) -> IncrementalRunner:
    """Train as `config` says, recording in `run`; return what trained.

    Raises:
        Interrupted: asked to stop by a signal; everything up to then is saved.
        UsageError: the configuration cannot be carried out.
        CheckpointError: the run's checkpoint is not one of such an agent.
        MtrlError: a number is not finite.
    """
    # -- what is trained, and on what ---------------------------------------------------------
    families = families_of(config)
    learnt = kept_tasks(config, families, run)
    agent = build_agent(config, sequence_env(families, learnt, config.envs))
    agent.set_logger(Logger(None, []))
    sequence = task_sequence(config, learnt)
    runner = IncrementalRunner(agent, sequence, scorer(config, families, learnt))

    # -- train, from where it stopped ---------------------------------------------------------
    session = _Session(config, run, runner)
    label = kind_name(type(config.method))
    with Progress(session.total, done=session.done, label=label) as progress:
        session.progress = progress
        session.begin()
        while not runner.done:
            runner.run(_AtRolloutStarts(session), stages=1)
            session.end_stage()
    return runner


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
    """What happens between rollouts and between stages: log, score, save, and stop if asked to.

    Each is due where a stage's steps have passed another multiple of its interval, so that it does not
    matter how often a run was resumed.
    """

    progress: Progress

    def __init__(self, config: IncrementalConfig, run: Run, runner: IncrementalRunner) -> None:
        self.config, self.run, self.runner = config, run, runner
        self.agent = runner.agent
        self.total = sum(runner.sequence.stage_steps)
        self.seen = 0
        if run.restored is None:
            run.tracker.layout(CHARTS)
        else:
            self._restore(run.restored.tensors, run.restored.state)
        self._pictures = Pictures(run)
        self._clock, self._clocked = time.perf_counter(), self.seen

    @property
    def done(self) -> int:
        """Environment steps done; rollouts may have taken more than were asked for."""
        return min(self.seen, self.total)

    @property
    def policy(self) -> MultiTaskPolicy:
        """The agent's policy."""
        policy: Any = self.agent.policy
        assert isinstance(policy, MultiTaskPolicy)
        return policy

    def begin(self) -> None:
        """Score every task before any training; of a resumed run, only put its matrix in place."""
        if self.run.restored is None:
            self.runner.run(stages=0)
            self.run.log(0, {STAGE: 0.0, **score_values(self.runner.matrix, 0)})
        self._write_matrix()

    def between_rollouts(self) -> None:
        """Do what is due within a stage."""
        step = self.agent.num_timesteps
        if step == self.seen:
            return
        values: dict[str, float] = {}
        if self._due(step, self.config.evaluate_every):
            task = self.runner.tasks[self.runner.stage]
            name = self.runner.sequence.order[self.runner.stage]
            values = {STAGE: self.runner.stage + 1.0, f"{SCORE}{name}": self.runner.measure(task)}
        if self._due(step, self.config.log_every):
            values |= self._training_values(step)
        self.run.log(step, values)
        stopping = self.run.stop_requested
        # A stopped run records nothing that an uninterrupted one would not.
        if stopping or self._due(step, self.config.checkpoint_every):
            self._save(step)
        self.seen = step
        if stopping:
            raise self.run.interruption()

    def end_stage(self) -> None:
        """Log and draw what is known after a stage, and save."""
        step, stage, matrix = self.agent.num_timesteps, self.runner.stage, self.runner.matrix
        values = score_values(matrix, stage) | measure_values(matrix, stage)
        self.run.log(step, {STAGE: float(stage), **values, **self._training_values(step)})
        drawn = pictures(matrix, stage, score=self.config.score)
        self._pictures.draw(step, drawn)
        if self.runner.done:
            log_settings(self.run, self.config, values)
        self._write_matrix()
        self._save(step)
        self.seen = step
        self._clock, self._clocked = time.perf_counter(), step
        if self.run.stop_requested and not self.runner.done:
            raise self.run.interruption()

    def _due(self, step: int, interval: int) -> bool:
        start = self.runner.stage_start
        return (step - start) // interval > (self.seen - start) // interval

    def _training_values(self, step: int) -> dict[str, float]:
        values = recorded_values(self.agent.logger.name_to_value)
        self.agent.logger.dump(step)
        now = time.perf_counter()
        speed = (step - self._clocked) / (now - self._clock)
        self.run.log_time(step, {"time/env_steps_per_second": speed})
        self._clock, self._clocked = now, step
        self.progress.advance(self._shown(), min(step, self.total) - self.progress.done)
        return values | gradient_values(self.policy)

    def _shown(self) -> dict[str, float]:
        """Return what progress says: the latest mean return of the task that is learnt."""
        stage = min(self.runner.stage, len(self.runner.tasks) - 1)
        env = find_multi_task_env(self.agent.get_env())
        mean = float(env.statistics.mean_returns()[self.runner.tasks[stage]])
        return {self.runner.sequence.order[stage]: mean} if math.isfinite(mean) else {}

    def _write_matrix(self) -> None:
        write_matrix(self.run.directory / MATRIX, self.runner.matrix)

    # Checkpoints

    def _save(self, step: int) -> None:
        for name, parameter in self.policy.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise MtrlError(
                    f"{name} is not finite after step {step}, so it is not saved; resume from the "
                    "checkpoint before with a smaller learning_rate or coefficient of the method"
                )
        tensors, values = self.runner.state_dict()
        # What was recorded since the last point of the curves belongs to the next one.
        pending = recorded_values(self.agent.logger.name_to_value)
        self.run.save(step, tensors, {"runner": values, "recorded": pending})

    def _restore(self, tensors: Any, state: Any) -> None:
        self.runner.load_state_dict(tensors, state["runner"])
        for tag, value in state["recorded"].items():
            self.agent.logger.record(tag, value)
        self.seen = self.agent.num_timesteps
