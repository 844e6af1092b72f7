"""One training of a comparison and its final evaluation, in a process that was made for it."""

import os
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from mtrl.cli import guarded
from mtrl.compare.playing import RandomAgent, final_returns
from mtrl.compare.trainings import Scores, Training
from mtrl.durable import replace_file
from mtrl.interrupts import terminate_after
from mtrl.metrics import logged_seconds
from mtrl.multitask.trained import load_multitask_run
from mtrl.multitask.training import train_multitask
from mtrl.runs import MANIFEST, TIMINGS, Run

__all__ = ["train_and_play", "work"]


def work(training: Training, commit: str, log: Path, wanted: "Connection[None, None]") -> None:
    """Train and play, and end the process.

    Args:
        training: what to do.
        commit: of the code, for the record.
        log: where standard error goes.
        wanted: nothing is sent; it ends when the process that wants the training dies.
    """
    # Ctrl-C in a terminal is for the process that wants the training, which passes it on once.
    os.setsid()
    with open(log, "wb") as errors:
        os.dup2(errors.fileno(), 2)
    terminate_after(lambda: _until_unwanted(wanted))
    torch.set_num_threads(1)
    sys.exit(guarded(lambda: train_and_play(training, commit)))


def train_and_play(training: Training, commit: str) -> None:
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


def _until_unwanted(wanted: "Connection[None, None]") -> None:
    with suppress(EOFError):
        wanted.recv()
