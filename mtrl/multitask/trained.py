"""What a multi-task run has made, from the newest checkpoint in its directory."""

from dataclasses import dataclass, replace
from pathlib import Path

from mtrl.agents.multitask.algorithm import MultiTaskAlgorithm
from mtrl.agents.saving import load_agent_state
from mtrl.checkpoint import CheckpointStore
from mtrl.config import from_toml
from mtrl.envs.family import TaskFamily
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.family_files import with_kept_family
from mtrl.manifest import read_manifest
from mtrl.multitask.config import MultiTaskConfig
from mtrl.multitask.evaluation import TaskScores
from mtrl.multitask.tasks import build_agent, multitask_family, training_env
from mtrl.multitask.training import evaluate_agent
from mtrl.runs import CHECKPOINTS, CONFIG, MANIFEST

__all__ = ["TrainedAgent", "load_multitask_run"]


@dataclass(frozen=True)
class TrainedAgent:
    """What training made.

    Attributes:
        config: its settings.
        family: of the tasks.
        tasks: that it was trained on.
        agent: as of its newest good checkpoint.
        step: environment steps done by then.
    """

    config: MultiTaskConfig
    family: TaskFamily
    tasks: list[Task]
    agent: MultiTaskAlgorithm
    step: int

    def scores(self, episodes: int, seed: int) -> TaskScores:
        """Play `episodes` of each task, the same for every agent evaluated with `seed`."""
        return evaluate_agent(
            self.agent, self.config, self.family, self.tasks, episodes=episodes, seed=seed
        )


def load_multitask_run(directory: Path, *, device: str = "cpu") -> TrainedAgent:
    """Return what the run in `directory` has made so far.

    Raises:
        UsageError: there is no multi-task run.
        CheckpointError: it has no good checkpoint.
    """
    manifest = read_manifest(directory / MANIFEST)
    if manifest["kind"] != "multitask":
        raise UsageError(f"{directory} holds a {manifest['kind']} run, not a multitask one")
    config = replace(from_toml(MultiTaskConfig, directory / CONFIG), device=device)
    family = multitask_family(with_kept_family(config, directory))
    checkpoint = CheckpointStore(directory / CHECKPOINTS).load()
    tasks = [Task.from_json(text) for text in manifest["train_tasks"]]
    agent = build_agent(config, training_env(config, family, tasks))
    saved = checkpoint.state["agent"]
    load_agent_state(agent, checkpoint.tensors, saved, continue_training=False)
    return TrainedAgent(config, family, tasks, agent, checkpoint.step)
