"""What a run on tasks one after another has made, from the newest checkpoint in its directory."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.incremental import IncrementalRunner
from mtrl.checkpoint import CheckpointStore
from mtrl.config import from_toml
from mtrl.errors import UsageError
from mtrl.incremental.config import IncrementalConfig
from mtrl.incremental.tasks import (
    Learnt,
    build_agent,
    families_of,
    read_sequence,
    scorer,
    sequence_env,
    task_sequence,
)
from mtrl.manifest import read_manifest
from mtrl.multitask.evaluation import TaskScores
from mtrl.runs import CHECKPOINTS, CONFIG, MANIFEST

__all__ = ["TrainedSequence", "load_incremental_run"]


@dataclass(frozen=True)
class TrainedSequence:
    """What training made.

    Attributes:
        config: its settings.
        learnt: the tasks, in the order of the sequence.
        runner: with the agent and the performance matrix as of its newest good checkpoint.
        step: environment steps done by then.
    """

    config: IncrementalConfig
    learnt: list[Learnt]
    runner: IncrementalRunner
    step: int

    def scores(self, episodes: int, seed: int) -> TaskScores:
        """Play `episodes` of each task, the same for every agent evaluated with `seed`."""
        families = families_of(self.config)
        play = scorer(self.config, families, self.learnt, episodes=episodes, seed=seed)
        returns: list[NDArray[np.float64]] = []
        successes: list[float] = []
        for task in range(len(self.learnt)):
            with self.runner.method.playing(task):
                found, judged = play.episodes(self.runner.agent, task)
            returns.append(found)
            successes.append(float(judged.mean()))
        return TaskScores(np.array(returns), np.array(successes))


def load_incremental_run(directory: Path, *, device: str = "cpu") -> TrainedSequence:
    """Return what the run in `directory` has made so far.

    Raises:
        UsageError: there is no such run.
        CheckpointError: it has no good checkpoint.
    """
    manifest = read_manifest(directory / MANIFEST)
    if manifest["kind"] != "incremental":
        raise UsageError(f"{directory} holds a {manifest['kind']} run, not an incremental one")
    config = replace(from_toml(IncrementalConfig, directory / CONFIG), device=device)
    families = families_of(config)
    checkpoint = CheckpointStore(directory / CHECKPOINTS).load()
    learnt = read_sequence(manifest)
    agent = build_agent(config, sequence_env(families, learnt, config.envs))
    runner = IncrementalRunner(
        agent, task_sequence(config, learnt), scorer(config, families, learnt)
    )
    runner.load_state_dict(checkpoint.tensors, checkpoint.state["runner"])
    return TrainedSequence(config, learnt, runner, checkpoint.step)
