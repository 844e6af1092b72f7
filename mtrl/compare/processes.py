"""Trainings side by side, each in a process of its own; stopped at any instant, they continue."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl.compare.playing import RandomAgent, final_returns
from mtrl.compare.trainings import Scores, Training
from mtrl.durable import replace_file
from mtrl.metrics import logged_seconds
from mtrl.multitask.trained import load_multitask_run
from mtrl.multitask.training import train_multitask
from mtrl.progress import format_duration
from mtrl.runs import MANIFEST, TIMINGS, Run
from mtrl.side_by_side import side_by_side

__all__ = ["Playing", "train_all"]


@dataclass(frozen=True, kw_only=True)
class Playing:
    """A training and its last episodes, as `side_by_side` carries it out.

    Attributes:
        training: what to do.
        commit: of the code, for the record.
    """

    training: Training
    commit: str

    @property
    def name(self) -> str:
        """What progress and errors call it."""
        return self.training.name

    @property
    def log(self) -> Path:
        """Where its process writes errors."""
        directory = self.training.directory
        return directory.with_name(f"{directory.name}.log")

    def carry_out(self) -> None:
        """Train and play, in this process."""
        _train_and_play(self.training, self.commit)

    def came_to(self) -> str | None:
        """Return in words what the training has reached, or None while it is not finished."""
        scores = self.training.scores()
        if scores is None:
            return None
        duration = format_duration(scores.seconds)
        return f"{scores.steps:,} steps in {duration}, mean return {scores.returns.mean():.2f}"


def train_all(trainings: Sequence[Training], processes: int, commit: str) -> None:
    """Carry out what is not finished of `trainings`, `processes` at a time.

    Args:
        trainings: in the order in which they are started.
        processes: how many run side by side.
        commit: of the code, for the record.

    Raises:
        Interrupted: a signal asked to stop; every training saved where it was.
        MtrlError: a training failed, or what is in its directory is not its own; the others saved
            where they were.
    """
    for training in trainings:
        if training.scores() is None:
            # Before anything is started: a directory that is another's is found now.
            _ = training.stored_config
    works = [Playing(training=training, commit=commit) for training in trainings]
    side_by_side(works, processes, modules=[__name__], kept="every training is saved")


def _train_and_play(training: Training, commit: str) -> None:
    """Train, continuing what is in the directory, then play the last episodes and keep the scores."""
    config, directory = training.stored_config, training.directory
    resume = (directory / MANIFEST).exists()
    with Run.open(directory, config=config, kind="multitask", resume=resume) as run:
        train_multitask(config, run)
    trained = load_multitask_run(directory, device=config.device)
    family, tasks, episodes = trained.family, training.tasks, training.episodes
    random = None
    if training.kind == "specialists":
        random = final_returns(RandomAgent(family.action_space), family, tasks, episodes)
    scores = Scores(
        returns=final_returns(trained.agent, family, tasks, episodes),
        random=random,
        steps=trained.step,
        seconds=logged_seconds(directory / TIMINGS, "time/env_steps_per_second"),
        commit=commit,
    )
    replace_file(training.scores_file, scores.to_json(tasks).encode())
