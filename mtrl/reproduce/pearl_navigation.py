"""PEARL against RL² on 2-D navigation, by the environment steps that each needs (Rakelly et al. 2019, section 6.1)."""

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.pearl.settings import PEARL
from mtrl.config import to_toml
from mtrl.evaluation.statistics import interval
from mtrl.evaluation.trained import EvaluationSettings, anchor_scores, load_run
from mtrl.figure_style import GREY, INK, LARGE, PALETTE, dress, legend_below, new_figure
from mtrl.meta.pearl.config import PearlConfig
from mtrl.meta.recurrent.ppo import RL2
from mtrl.meta.recurrent.training import RecurrentConfig
from mtrl.metrics import read_metrics
from mtrl.reproduce.carry_out import Outcome, Place, record_of, require_figures, write_files
from mtrl.reproduce.page import (
    QUICK,
    Part,
    Record,
    bullets,
    markdown_table,
    provenance,
    quick_notice,
)
from mtrl.reproduce.provenance import commit
from mtrl.reproduce.trainings import Training, train_all
from mtrl.runs import METRICS
from mtrl.seeding import numpy_generator
from mtrl.versions import library_versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Curve", "pearl_navigation_table", "steps_until"]

Array = NDArray[np.float64]

TITLE = "PEARL and RL² on 2-D navigation"
EPISODES = 5
"""Of a trial: the first is played knowing nothing, and the last is what learners are compared by."""
HORIZON = 20
"""Steps of an episode, as in the authors' point robot: the goals are at most 5 steps away."""
LEVELS = (-6.0, -5.0, -4.0, -3.0)
"""Returns of a trial's last episode that the steps to get there are counted for."""
TARGET = -4.0
"""The one of them that the target is about."""
RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is trained and tested.

    Attributes:
        iterations: of a training, by learner.
        seeds: trainings of each learner.
        tasks: unseen tasks that every training is tested on.
    """

    iterations: Mapping[str, int]
    seeds: int
    tasks: int


FULL = Scale(iterations={"PEARL": 120, "RL2": 250}, seeds=3, tasks=200)
QUICK_SCALE = Scale(iterations={"PEARL": 2, "RL2": 2}, seeds=2, tasks=10)
# So that a curve has some twenty points.
POINTS = 20


@dataclass(frozen=True)
class Curve:
    """Environment steps so far and the mean return of a trial's last episode on held-out tasks."""

    steps: Sequence[float]
    returns: Sequence[float]


def steps_until(curve: Curve, level: float) -> float:
    """Return the environment steps from which on the return stays at `level` or above; infinity if never."""
    below = [index for index, value in enumerate(curve.returns) if value < level]
    first = below[-1] + 1 if below else 0
    return curve.steps[first] if first < len(curve.steps) else math.inf


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the page is made of.

    Attributes:
        trainings: by learner.
        curves: by learner, one a training.
        returns: by learner, (trainings, tasks, episodes) on unseen tasks after training.
        anchors: mean return on these tasks of what needs no learner.
    """

    trainings: Mapping[str, Sequence[Training]]
    curves: Mapping[str, Sequence[Curve]]
    returns: Mapping[str, Array]
    anchors: Mapping[str, float]
    scale: Scale
    place: Place
    record: Record

    def until(self, learner: str, level: float) -> list[float]:
        """Return the steps until each training of a learner stays at a level."""
        return [steps_until(curve, level) for curve in self.curves[learner]]

    @property
    def met(self) -> bool:
        """Whether every training of PEARL gets to the target in fewer steps than any of RL²."""
        return max(self.until("PEARL", TARGET)) < min(self.until("RL2", TARGET))


def training_configs(scale: Scale, seed: int) -> dict[str, PearlConfig | RecurrentConfig]:
    """Return the settings of one training of each learner."""
    iterations = scale.iterations
    every = {name: max(1, count // POINTS) for name, count in iterations.items()}
    return {
        "PEARL": PearlConfig(
            family_options={"horizon": HORIZON},
            learner=PEARL(),
            tasks=80,
            tasks_per_collection=20,
            initial_episodes=5,
            prior_episodes=2,
            posterior_episodes=2,
            test_tasks=100,
            test_steps=EPISODES - 1,
            iterations=iterations["PEARL"],
            evaluate_every=every["PEARL"],
            seed=seed,
        ),
        "RL2": RecurrentConfig(
            family="navigation2d",
            family_options={"horizon": HORIZON},
            learner=RL2(learning_rate=3e-3),
            episodes_per_trial=EPISODES,
            tasks_per_batch=128,
            test_tasks=100,
            test_trials=1,
            iterations=iterations["RL2"],
            evaluate_every=every["RL2"],
            seed=seed,
        ),
    }


def pearl_navigation_table(place: Place) -> Outcome:
    """Train what is not trained yet, test, and write the page, the numbers and the figure.

    Raises:
        Interrupted: asked to stop; every training is saved, and the same command goes on.
        MtrlError: a training failed; the message names it.
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    clock, revision = time.monotonic(), commit()
    scale = QUICK_SCALE if place.quick else FULL
    trainings = _trainings(scale, place, revision)
    queue = [each for group in trainings.values() for each in group]
    found = {each.name for each in queue if each.finished}
    train_all(queue, place.processes)
    trained = time.monotonic()
    returns, anchors = _test(trainings, scale, place.seed)
    record = replace(
        record_of(place, revision, time.monotonic() - clock),
        processes=place.processes,
        parts=[Part(each.name, each.seconds, each.name in found) for each in queue],
        test_seconds=time.monotonic() - trained,
    )
    made = Made(
        trainings=trainings,
        curves={name: [_curve(each) for each in group] for name, group in trainings.items()},
        returns=returns,
        anchors=anchors,
        scale=scale,
        place=place,
        record=record,
    )
    return write_files(
        place,
        _page(made),
        _scores(made),
        lambda: _figure(made),
        None if place.quick else made.met,
    )


def _trainings(scale: Scale, place: Place, revision: str) -> dict[str, list[Training]]:
    code = {**library_versions(), "commit": revision}
    folder = place.work / f"reproduce-{place.stem}"
    first = place.seed * scale.seeds
    made: dict[str, list[Training]] = {name: [] for name in scale.iterations}
    for seed in range(first, first + scale.seeds):
        for name, config in training_configs(scale, seed).items():
            made[name].append(
                Training(name=f"{name}, seed {seed}", config=config, folder=folder, code=code)
            )
    return made


def _curve(training: Training) -> Curve:
    """Return the curve that a training logged at its evaluations."""
    logged = read_metrics(training.directory / METRICS)
    env_steps = dict(zip(*logged["meta/env_steps"], strict=True))
    scores = logged[f"adapt/return_after_{EPISODES - 1}"]
    return Curve([env_steps[step] for step in scores.steps], scores.values)


def _test(
    trainings: Mapping[str, Sequence[Training]], scale: Scale, seed: int
) -> tuple[dict[str, Array], dict[str, float]]:
    """Return the returns of all trainings on the same unseen tasks, and those that need no learner."""
    settings = EvaluationSettings(tasks=scale.tasks, steps=EPISODES - 1, episodes=1, seed=seed)
    runs = {name: [load_run(each.directory) for each in group] for name, group in trainings.items()}
    first = next(iter(runs.values()))[0]
    tasks = first.unseen_tasks(settings)
    returns = {
        name: np.stack([run.scores(tasks, settings) for run in group])
        for name, group in runs.items()
    }
    known = anchor_scores(first.family, tasks, 0)
    return returns, {name: float(values.mean()) for name, values in known.items()}


# The page


def _page(made: Made) -> str:
    record, scale = made.record, made.scale
    sections = [
        f"# {TITLE}" + f" ({QUICK})" * record.quick,
        quick_notice("a few iterations of each training, and few tasks.") if record.quick else "",
        (
            "Rakelly et al. 2019 (arXiv:1903.08254) say that PEARL needs 20 to 100 times fewer environment steps than "
            "what adapts on-policy, in curves on MuJoCo; there is no published number for this family."
        ),
        "" if record.quick else _verdict(made),
        "## Environment steps until a return is reached",
        _steps(made),
        (
            f"Steps from which on the mean return of a trial's last episode, of {EPISODES}, stays at that level or above "
            "on 100 held-out tasks, as logged during training: the median of the trainings, and each of them."
        ),
        f"![Return against environment steps{f', {QUICK}' * record.quick}]({record.stem}.png)",
        "## After training",
        _returns(made),
        (
            f"Mean return of each episode of a trial (higher is better) on {scale.tasks} unseen tasks, the same ones and "
            f"the same noise for all, over {scale.seeds} trainings, with the 95 % bootstrap interval over tasks."
        ),
        bullets(_notes(made)),
        "## Settings",
        *(_settings(name, config) for name, config in training_configs(scale, 0).items()),
        "## How this was made",
        provenance(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(made: Made) -> str:
    slowest, quickest = max(made.until("PEARL", TARGET)), min(made.until("RL2", TARGET))
    met = "Target met" if made.met else "Target not met"
    return (
        f"**{met}**: the slowest training of PEARL stays above a return of {TARGET:g} from {_count(slowest)} "
        f"environment steps on, the quickest of RL² from {_count(quickest)}."
    )


def _steps(made: Made) -> str:
    body = []
    for level in LEVELS:
        line = [f"{level:g}"]
        medians = []
        for name in made.curves:
            steps = made.until(name, level)
            medians.append(float(np.median(steps)))
            line += [_count(medians[-1]), ", ".join(map(_count, steps))]
        first, second = medians
        factor = second / first if math.isfinite(first) else math.nan
        body.append([*line, f"{factor:.1f}" if math.isfinite(factor) else "-"])
    head = ["return", *(f"{name}{part}" for name in made.curves for part in ("", ", each"))]
    return markdown_table([*head, "RL2 / PEARL"], body)


def _returns(made: Made) -> str:
    rng = numpy_generator(made.place.seed, "bootstrap")
    body = []
    for name, returns in made.returns.items():
        # A task's score is its mean over trainings: the interval is over tasks.
        columns = returns.mean(0).T
        cells = [str(interval(column, rng, resamples=RESAMPLES)) for column in columns]
        steps = np.mean([curve.steps[-1] for curve in made.curves[name]])
        body.append([name, _count(float(steps)), *cells])
    for name, value in made.anchors.items():
        body.append([f"{name} (exact)", "", *[f"{value:.2f}"] * EPISODES])
    episodes = [f"episode {number + 1}" for number in range(EPISODES)]
    return markdown_table(["learner", "environment steps", *episodes], body)


def _notes(made: Made) -> list[str]:
    return [
        (
            f"Episodes are {HORIZON} steps long, as in the authors' point robot. Both learners remember all episodes of a "
            "trial, and both have the same unseen tasks."
        ),
        (
            "PEARL acts on one guess for a whole episode, so that its first episode is a random walk to a goal that it "
            "made up; RL² adapts within the first episode too. Where the first episode counts, RL² has the better method."
        ),
        (
            "Steps are those of training, of PEARL's first episodes and of both learners' exploration alike; those "
            "of evaluations do not count."
        ),
        (
            "At test both sample their actions, as in training; the authors' PEARL takes the most likely ones, with which trials "
            "were worse."
        ),
        (
            "Length of the episodes, level of the target and that sampling were chosen after looks at trials of PEARL with seed 0. "
            "PEARL had about ten settings tried, RL² at this length four: batches of 40 tasks with a learning rate of 1e-3 stood "
            "still for a million steps, and what it has here was chosen on seed 100."
        ),
        (
            "PEARL takes 200 gradient steps for each 1,600 environment steps, so that it needs more time per step: the "
            "times of the trainings are below."
        ),
    ]


def _settings(name: str, config: PearlConfig | RecurrentConfig) -> str:
    return f"{name}:\n\n```toml\n{to_toml(config).strip()}\n```"


def _count(steps: float) -> str:
    return f"{steps:,.0f}" if math.isfinite(steps) else "never"


def _scores(made: Made) -> str:
    """Return every number as CSV, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["reproduction", "run", "learner", "seed", "quantity", "environment_steps", "value"]
    )
    run = "quick" if made.record.quick else "full"
    first = made.place.seed * made.scale.seeds
    for name, curves in made.curves.items():
        for index, curve in enumerate(curves):
            where = [made.record.name, run, name, first + index]
            for steps, value in zip(curve.steps, curve.returns, strict=True):
                writer.writerow([*where, "held-out return of the last episode", steps, repr(value)])
            for episode, value in enumerate(made.returns[name][index].mean(0), start=1):
                what = f"return of episode {episode} on unseen tasks"
                writer.writerow([*where, what, curve.steps[-1], repr(float(value))])
    for name, value in made.anchors.items():
        writer.writerow([made.record.name, run, name, "", "exact return", "", repr(value)])
    return text.getvalue()


def _figure(made: Made) -> "Figure":
    """Draw the return of the last episode against environment steps, on a logarithmic axis."""
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    for colour, (name, curves) in zip(PALETTE, made.curves.items(), strict=False):
        for index, curve in enumerate(curves):
            label = name if index == 0 else None
            axes.plot(curve.steps, curve.returns, color=colour, lw=1.4, alpha=0.85, label=label)
    for style, (name, value) in zip(("--", ":"), made.anchors.items(), strict=False):
        axes.axhline(value, color=GREY, lw=1.2, ls=style, label=name)
    axes.set_xscale("log")
    title = TITLE + f" ({QUICK})" * made.record.quick
    dress(axes, xlabel="environment steps", ylabel=f"mean return of episode {EPISODES}")
    figure.suptitle(title, fontsize=LARGE, color=INK)
    legend_below(figure, axes)
    return figure
