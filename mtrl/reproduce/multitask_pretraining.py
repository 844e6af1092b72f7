"""Steps until five new cart-poles are solved, with and without the experts of five others first."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from mtrl.agents.experts import TaskExperts, scripted_expert
from mtrl.evaluation.statistics import Interval
from mtrl.figure_style import GREY, INK, LARGE, PALETTE, dress, legend_below, new_figure
from mtrl.reproduce.carry_out import Outcome, Place, record_of, require_figures, write_files
from mtrl.reproduce.jobs import Finished, Job, carry_out_jobs
from mtrl.reproduce.multitask_pretraining_results import Comparison, claims
from mtrl.reproduce.multitask_pretraining_training import (
    Curve,
    Settings,
    Start,
    all_tasks,
    greedy_returns,
)
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
from mtrl.versions import library_versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["multitask_pretraining_table"]

TITLE = "A shared Q-network that experts of other tasks have taught"
SEEDS, QUICK_SEEDS = 6, 2
QUICK_SETTINGS = Settings(
    teaching_steps=1_000, steps=1_000, evaluate_every=250, test_episodes=2, updates_per_round=1
)
STARTS: Mapping[Start, str] = {"scratch": "from scratch", "pretrained": "with pretraining"}


def multitask_pretraining_table(place: Place) -> Outcome:
    """Train both starts on all seeds, and write the page, the numbers and the figure.

    Raises:
        Interrupted: asked to stop by a signal; finished trainings are kept.
        MtrlError: a training failed; the message names it.
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    clock, revision = time.monotonic(), commit()
    settings = QUICK_SETTINGS if place.quick else Settings()
    count = QUICK_SEEDS if place.quick else SEEDS
    seeds = range(count * place.seed, count * (place.seed + 1))
    code = {**library_versions(), "commit": revision}
    jobs = jobs_of(settings, seeds, place.work / f"reproduce-{place.stem}", code)
    found = {job.name for job in jobs.values() if job.finished() is not None}
    carry_out_jobs(list(jobs.values()), place.processes)
    trained = time.monotonic()
    made = {key: done for key, job in jobs.items() if (done := job.finished()) is not None}
    comparison = _compare(settings, seeds, made)
    record = replace(
        record_of(place, revision, time.monotonic() - clock),
        processes=place.processes,
        parts=[Part(job.name, made[key].seconds, job.name in found) for key, job in jobs.items()],
        test_seconds=time.monotonic() - trained,
    )
    return write_files(
        place,
        _page(comparison, record),
        _scores(comparison, record, seeds),
        lambda: _figure(comparison, record),
        None if place.quick else all(claims(comparison).values()),
    )


Key = tuple[Start, int]


def jobs_of(
    settings: Settings, seeds: Sequence[int], folder: Path, code: Mapping[str, str]
) -> dict[Key, Job]:
    """Return all trainings."""
    return {
        (start, seed): Job(
            name=f"{STARTS[start]}, seed {seed}",
            stem=f"{start}-seed-{seed}",
            function="mtrl.reproduce.multitask_pretraining_training:train_start",
            told={"start": start, "settings": asdict(settings), "seed": seed},
            folder=folder,
            code=code,
        )
        for start in get_args(Start)
        for seed in seeds
    }


def _compare(settings: Settings, seeds: Sequence[int], made: Mapping[Key, Finished]) -> Comparison:
    return Comparison(
        settings=settings,
        experts=np.array([_expert_return(settings, seed) for seed in seeds]),
        curves={
            start: [Curve.from_json(made[start, seed].values) for seed in seeds] for start in STARTS
        },
    )


def _expert_return(settings: Settings, seed: int) -> float:
    tasks = all_tasks(settings, seed)
    experts = TaskExperts([scripted_expert(task) for task in tasks])
    return float(greedy_returns(settings, tasks, tasks[settings.old_tasks :], experts, seed).mean())


# The page ---------------------------------------------------------------------------------------------


def _page(comparison: Comparison, record: Record) -> str:
    found = {} if record.quick else claims(comparison)
    settings, seeds = comparison.settings, len(comparison.experts)
    sections = [
        f"# {TITLE}" + f" ({QUICK})" * record.quick,
        quick_notice(f"{seeds} seeds of {settings.steps:,} steps.") if record.quick else "",
        f"**{sum(found.values())} of {len(found)} claims hold.**" if found else "",
        bullets([f"{'Yes' if met else 'NO'}: {claim}" for claim, met in found.items()]),
        _steps_table(comparison),
        (
            f"Environment steps of {settings.new_tasks} new tasks together until the mean of their greedy returns is at "
            f"least 95 % of the experts' ({comparison.experts.mean():.0f}), means of {seeds} seeds with 95 % bootstrap intervals "
            "over seeds in brackets; each seed has tasks of its own. A seed that never gets there counts with all "
            f"of its {settings.steps:,} steps, fewer than it would need. Pretraining saves "
            f"{_saved(comparison)} steps, seed by seed."
        ),
        f"![Greedy returns on the new tasks{f', {QUICK}' * record.quick}]({record.stem}.png)",
        "## Each seed",
        _seeds_table(comparison),
        "## Protocol",
        bullets(_protocol(settings)),
        "## How this was made",
        provenance(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _steps_table(comparison: Comparison) -> str:
    head = ["", *STARTS.values(), "ratio"]
    body = [
        [
            name,
            *(_steps(comparison, start, with_teaching) for start in STARTS),
            _interval(comparison.ratio(with_teaching=with_teaching), 2),
        ]
        for name, with_teaching in (
            ("steps of the new tasks", False),
            ("with those of imitation on the old ones", True),
        )
    ]
    return markdown_table(head, body)


def _steps(comparison: Comparison, start: Start, with_teaching: bool) -> str:
    reached = comparison.reached(start)
    there = int(np.isfinite(reached).sum())
    missing = "" if there == len(reached) else f", {there} of {len(reached)} seeds get there"
    return _interval(comparison.mean_steps(start, with_teaching=with_teaching), 0) + missing


def _interval(value: Interval, digits: int) -> str:
    shown = f"{value.estimate:,.{digits}f}"
    if np.isnan(value.low):
        return shown
    return f"{shown} [{value.low:,.{digits}f}, {value.high:,.{digits}f}]"


def _saved(comparison: Comparison) -> str:
    saved = comparison.saved
    return _interval(Interval(estimate=saved.mean, low=saved.low, high=saved.high), 0)


def _seeds_table(comparison: Comparison) -> str:
    head = ["seed", "experts", "old tasks after imitation", "new tasks before any step of them"]
    head += [f"steps, {label}" for label in STARTS.values()]
    head += [f"at the end, {label}" for label in STARTS.values()]
    body = []
    for seed, taught in enumerate(comparison.curves["pretrained"]):
        line = [str(seed), f"{comparison.experts[seed]:.0f}", f"{taught.old_returns.mean():.0f}"]
        line.append(f"{taught.returns[0].mean():.0f}")
        for start in STARTS:
            steps = comparison.reached(start)[seed]
            line.append("never" if np.isnan(steps) else f"{steps:,.0f}")
        line += [f"{comparison.curves[start][seed].returns[-1].mean():.0f}" for start in STARTS]
        body.append(line)
    return markdown_table(head, body)


def _protocol(settings: Settings) -> list[str]:
    first, last = settings.exploration
    return [
        (
            f"Cart-poles of preset `{settings.preset}`: gravity, masses, the pole's length and the motor's force differ. "
            f"{settings.old_tasks} old ones come from the training split, {settings.new_tasks} new ones from the test split."
        ),
        (
            "One Q-network with a shared trunk and head, which is not told which task it plays. "
            f"Pretraining is {settings.teaching_steps:,} steps of AQIL on the old tasks, graded by each task's scripted expert. "
            "Then the same agent goes on with the new tasks and their reward; no expert is asked any more."
        ),
        (
            "Both starts have the same budget on the new tasks, loss, replay and updates. From scratch ε falls from "
            f"{first:g} to {last:g} over {settings.exploration_share:.0%} of the steps; after the switch it is {last:g}, and all "
            "else is `CarryOver`'s default."
        ),
        (
            f"{settings.environments_per_task} environments of each task, {settings.updates_per_round} updates after each step of "
            f"all of them, of {settings.batch_size} steps, double Q-learning, Adam with {settings.learning_rate:g}, γ "
            f"{settings.gamma}, a target network that follows by {settings.target_rate:g}, layers of "
            f"{' and '.join(map(str, settings.hidden))} units."
        ),
        (
            f"Evaluated every {settings.evaluate_every:,} steps, on {settings.test_episodes} greedy episodes of each new task with "
            "the same first states. Settings were chosen on seeds from 100 on."
        ),
    ]


# The numbers and the figure ---------------------------------------------------------------------------


def _scores(comparison: Comparison, record: Record, seeds: Sequence[int]) -> str:
    """Return every evaluation of every new task as CSV in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["reproduction", "run", "start", "seed", "task", "quantity", "steps", "value"])
    run = "quick" if record.quick else "full"
    for seed, level in zip(seeds, comparison.experts.tolist(), strict=True):
        writer.writerow([record.name, run, "", seed, "all new", "expert", "", repr(level)])
    for start, curves in comparison.curves.items():
        for seed, solved, curve in zip(
            seeds, comparison.steps(start).tolist(), curves, strict=True
        ):
            where = [record.name, run, start, seed]
            writer.writerow([*where, "all new", "steps until solved", "", repr(solved)])
            for task, value in enumerate(curve.old_returns.tolist()):
                writer.writerow([*where, f"old {task}", "after imitation", "", repr(value)])
            for steps, returns in zip(curve.steps.tolist(), curve.returns.tolist(), strict=True):
                for task, value in enumerate(returns):
                    writer.writerow(
                        [*where, f"new {task}", "greedy return", int(steps), repr(value)]
                    )
    return text.getvalue()


def _figure(comparison: Comparison, record: Record) -> "Figure":
    """Draw the mean greedy return on the new tasks by step, of each seed and over seeds."""
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    for (start, label), colour in zip(STARTS.items(), PALETTE, strict=False):
        curves = comparison.curves[start]
        means = [curve.returns.mean(1) for curve in curves]
        for curve, mean in zip(curves, means, strict=True):
            axes.plot(curve.steps, mean, color=colour, lw=0.6, alpha=0.4)
        # All seeds are evaluated after the same steps.
        axes.plot(curves[0].steps, np.mean(means, 0), color=colour, lw=1.9, label=label)
    level = float(comparison.levels.mean())
    axes.axhline(level, color=GREY, ls="--", lw=1.2, label="95 % of the experts'")
    dress(axes, xlabel="steps of the new tasks", ylabel="greedy return, mean of the new tasks")
    figure.suptitle(TITLE + f" ({QUICK})" * record.quick, fontsize=LARGE, color=INK)
    legend_below(figure, axes)
    return figure
