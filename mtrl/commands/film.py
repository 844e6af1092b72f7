"""`mtrl film`: animated GIFs of what a run's agent does."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from mtrl.commands.parsing import parse
from mtrl.config import check_at_least, check_positive
from mtrl.durable import replace_file
from mtrl.envs.task import Task
from mtrl.errors import UsageError
from mtrl.evaluation.adaptation import AdaptationProtocol
from mtrl.evaluation.filming import Film, film_adaptation, play_again
from mtrl.evaluation.trained import EvaluationSettings, load_run
from mtrl.films import Frames, gif_bytes, side_by_side, thinned
from mtrl.manifest import read_manifest
from mtrl.runs import MANIFEST
from mtrl.seeding import torch_generator
from mtrl.tracking import Tracker

__all__ = ["FilmOptions", "run"]

_FASTEST = 50.0
"""Frames a second that a GIF can show."""


@dataclass(frozen=True, kw_only=True)
class FilmOptions:
    """Film a run's agent, from its newest good checkpoint.

    Of a run that adapts, each film has an episode on an unseen task before adaptation on the left and one
    after it on the right. Of a multitask run there is a film for each of its tasks. They are animated GIFs
    in RUNDIR/films, and are shown among TensorBoard's images and in `mtrl report`.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUNDIR")]
    """Run directory."""
    tasks: int = 3
    """How many tasks are filmed."""
    frames: int = 120
    """Most frames of a film; a longer episode is shown with frames left out."""
    width: int = 240
    """Most pixels of an episode's width."""
    steps: int | None = None
    """Adaptation steps; the run's own test_steps if left out."""
    seed: int = 0
    """Of tasks and noise, as of `mtrl evaluate`."""
    threads: int = 1
    """CPU threads of torch."""

    def __post_init__(self) -> None:
        check_positive(self, "tasks", "width", "steps", "threads")
        check_at_least(self, 0, "seed")
        check_at_least(self, 2, "frames")


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(FilmOptions, arguments, command="mtrl film")
    torch.set_num_threads(options.threads)
    step, films = _films(options)
    folder = options.run / "films"
    folder.mkdir(exist_ok=True)
    tracker = Tracker(options.run)
    for number, (task, parts) in enumerate(films):
        frames, fps = _joined(parts, options.frames)
        file = folder / f"{task.id}.gif"
        replace_file(file, gif_bytes(frames, fps))
        tracker.animation(step, f"videos/task_{number}", frames, fps)
        returns = " then ".join(f"{part.total:.1f}" for part in parts)
        print(f"{file}: return {returns}", file=sys.stderr)
    tracker.close()


def _films(options: FilmOptions) -> tuple[int, list[tuple[Task, list[Film]]]]:
    """Return the run's step and the films of each task."""
    manifest = options.run / MANIFEST
    if manifest.exists() and read_manifest(manifest)["kind"] == "multitask":
        return _multitask_films(options)
    trained = load_run(options.run)
    family, agent = trained.agent()
    settings = trained.complete(
        EvaluationSettings(steps=options.steps, tasks=options.tasks, seed=options.seed)
    )
    protocol = AdaptationProtocol(
        episodes=settings.episodes or 1,
        steps=settings.steps or 0,
        max_episode_steps=getattr(trained.config, "max_episode_steps", None),
    )
    generator = torch_generator(options.seed, "film episodes")
    films = []
    for task in trained.unseen_tasks(settings):
        episodes = film_adaptation(agent, family, task, protocol, generator)
        films.append(
            (task, [play_again(family, task, each, width=options.width) for each in episodes])
        )
    return trained.iteration, films


def _multitask_films(options: FilmOptions) -> tuple[int, list[tuple[Task, list[Film]]]]:
    if options.steps is not None:
        raise UsageError(f"--steps is for runs that adapt, and {options.run} is a multitask run")
    # Stable-Baselines3 takes seconds to import, and other runs do without it.
    from mtrl.multitask.filming import play_each
    from mtrl.multitask.trained import load_multitask_run

    trained = load_multitask_run(options.run)
    played = zip(trained.tasks, play_each(trained, options.seed), strict=True)
    films = [
        (task, [play_again(trained.family, task, episode, width=options.width)])
        for task, episode in list(played)[: options.tasks]
    ]
    return trained.step, films


def _joined(films: Sequence[Film], at_most: int) -> tuple[Frames, float]:
    """Return one film of all, and frames a second such that time passes as it would if that can be."""
    frames = side_by_side([film.frames for film in films])
    shown = thinned(frames, at_most)
    return shown, min(_FASTEST, films[0].fps * len(shown) / len(frames))
