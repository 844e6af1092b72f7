"""What `mtrl compare` writes: a page in Markdown, and the scores as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtrl.compare.plan import Kind, Plan
from mtrl.compare.results import Summary, chance_of_a_flag
from mtrl.config import to_toml
from mtrl.evaluation.statistics import Interval
from mtrl.multitask.tasks import task_names
from mtrl.progress import format_duration
from mtrl.reproduce.page import Record, bullets, markdown_table, provenance
from mtrl.reproduce.trainings import cpu_count
from mtrl.versions import library_versions

__all__ = ["TITLES", "Effort", "Facts", "render_page", "render_scores"]

TITLES: Mapping[Kind, str] = {
    "specialists": "specialists",
    "shared": "shared trunk",
    "unshared": "nothing shared",
    "blind": "not told the task",
}
"""What agents are called on the page and in the figure."""

_MEANINGS: Mapping[Kind, str] = {
    "specialists": (
        "Specialists: for every task an agent that has nothing else to learn, with a plain network of the "
        "same layers, the same settings and an equal share of the budget."
    ),
    "shared": "Shared trunk: the settings below, as they are.",
    "unshared": (
        "Nothing shared: the same loop, batches and settings, with a network of the specialists' size for "
        "every task. What it has in common with other tasks is the step at which it learns, the length that "
        "gradients are clipped to and, in PPO on continuous actions, the deviation."
    ),
    "blind": (
        "Not told the task: one plain network for all tasks. It shows what can be had without knowing the "
        "task, and is the negative control."
    ),
}


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What training one kind of agent took.

    Attributes:
        trainings: how many.
        found: how many of them were found finished.
        steps: environment steps, of all.
        seconds: of all, one after the other.
        commits: of the code that finished them.
    """

    trainings: int
    found: int
    steps: int
    seconds: float
    commits: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """How a comparison was made.

    Attributes:
        command: what makes the same page.
        commit: of the code that made the page.
        processes: trainings at a time.
        seconds: of training, this time.
        efforts: by kind of agent.
    """

    command: str
    commit: str
    processes: int
    seconds: float
    efforts: Mapping[Kind, Effort]


def render_page(plan: Plan, summary: Summary, facts: Facts, *, figure: str) -> str:
    """Return the page, which shows the picture in the file `figure`."""
    algorithm = type(plan.settings.algorithm).__name__
    sections = [
        f"# Does sharing help? {algorithm} on {len(plan.tasks)} tasks of {plan.settings.family}",
        _verdict(plan, summary),
        _overall_table(plan, summary),
        _improvement(summary),
        f"![Return on each task, and what sharing changes]({figure})",
        "## Tasks",
        _task_table(plan, summary),
        _notes(plan),
        "## Agents",
        bullets([_MEANINGS[kind] for kind in plan.kinds]),
        _budget(plan),
        _parameters(plan),
        "## Settings of the shared trunk",
        f"```toml\n{to_toml(plan.settings).strip()}\n```",
        "## How this was made",
        _provenance(facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def render_scores(
    plan: Plan, scores: Mapping[Kind, NDArray[np.float64]], random: NDArray[np.float64] | None
) -> str:
    """Return a line for each agent and seed with its mean return on every task, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["agent", "seed", *task_names(list(plan.tasks))])
    for kind, table in scores.items():
        for seed, row in zip(plan.all_seeds, table.tolist(), strict=True):
            writer.writerow([kind, seed, *map(repr, row)])
    if random is not None:
        writer.writerow(["random", "", *map(repr, random.tolist())])
    return text.getvalue()


def _verdict(plan: Plan, summary: Summary) -> str:
    if summary.tasks[0].transfer is None:
        return ""
    positive, negative = (summary.flagged(flag) for flag in ("positive", "negative"))
    unknown = summary.flagged("not told apart")
    parts = [
        f"positive on {len(positive)}",
        f"negative on {len(negative)}" + f" ({', '.join(negative)})" * bool(negative),
        f"not told apart from none on {len(unknown)}",
    ]
    return f"**Transfer is {', '.join(parts)} of {len(plan.tasks)} tasks.**"


def _overall_table(plan: Plan, summary: Summary) -> str:
    normalised = all(row.normalised is not None for row in summary.overall.values())
    head = ["agent", "IQM return", *["normalised IQM"] * normalised, "lowest IQM of a task"]
    head += ["worst task", "its return"]
    body = []
    for kind, row in summary.overall.items():
        shares = [str(row.normalised)] * normalised
        lowest = f"{row.lowest_iqm:.2f}"
        body.append([TITLES[kind], str(row.iqm), *shares, lowest, row.worst_name, str(row.worst)])
    table = markdown_table(head, body)
    note = (
        "IQM: interquartile mean over tasks and seeds, with the 95 % interval of the stratified bootstrap; "
        "that of a task is over seeds alone; the worst task is that with the lowest mean over seeds."
    )
    if normalised:
        note += " Normalised: 0 are random actions, 1 is the specialists' mean on the task."
    return f"{table}\n\n{note}"


def _improvement(summary: Summary) -> str:
    sentences = [
        f"A training of the shared trunk scores above one of {TITLES[kind]!r} with probability {chance}."
        for kind, chance in summary.improvement.items()
    ]
    return bullets(sentences)


def _task_table(plan: Plan, summary: Summary) -> str:
    transfer = summary.tasks[0].transfer is not None
    head = ["task", *(TITLES[kind] for kind in plan.kinds), *["transfer", ""] * transfer]
    body = []
    for row in summary.tasks:
        cells = [row.name, *(str(row.scores[kind]) for kind in plan.kinds)]
        if row.transfer is not None:
            cells += [_signed(row.transfer), f"{row.flag}"]
        body.append(cells)
    return markdown_table(head, body)


def _signed(value: Interval) -> str:
    return f"+{value}" if value.estimate > 0 else str(value)


def _notes(plan: Plan) -> str:
    seeds = "1 seed" if plan.seeds == 1 else f"{plan.seeds} seeds"
    text = (
        f"Mean undiscounted return over {plan.episodes} greedy episodes and {seeds}, with the 95 % bootstrap "
        "interval over seeds in brackets. All agents play the same episodes: the same start seeds, in "
        "environments that were not trained in."
    )
    if plan.seeds == 1:
        text += " One seed has no interval, and nothing can be told apart."
    if {"shared", "specialists"} <= set(plan.kinds):
        text += (
            " Transfer is the return of the shared trunk less that of the specialist of the same seed; it is "
            "positive or negative where its interval lies on one side of zero."
        )
        chance = chance_of_a_flag(plan.seeds)
        if chance > 0.05:
            text += (
                f" With {seeds} that happens on {chance:.0%} of tasks or more where there is no transfer: "
                "take 6 seeds or more before believing a single flag."
            )
    return text


def _budget(plan: Plan) -> str:
    total = plan.settings.total_steps
    text = f"The budget is {total:,} environment steps for all tasks together"
    if "specialists" in plan.kinds:
        text += f", {plan.specialist_steps:,} for each specialist"
    text += ". Training ends with the rollout in which it is reached."
    return f"{text} {plan.rounding}".strip()


def _parameters(plan: Plan) -> str:
    varying = [
        name
        for name, value in plan.tasks[0].params.items()
        if any(task.params[name] != value for task in plan.tasks)
    ]
    body = [
        [name, task.id, *(_number(task.params[parameter]) for parameter in varying)]
        for name, task in zip(task_names(list(plan.tasks)), plan.tasks, strict=True)
    ]
    return markdown_table(["task", "id", *varying], body)


def _number(value: float | tuple[float, ...]) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{number:.4g}" for number in values)


def _provenance(facts: Facts) -> str:
    record = Record(
        name="",
        stem="",
        quick=False,
        command=facts.command,
        commit=facts.commit,
        versions=library_versions(),
        cpus=cpu_count(),
        total_seconds=facts.seconds,
    )
    head = ["agent", "trainings", "found finished", "steps", "time", "commit"]
    body = [
        [
            TITLES[kind],
            f"{effort.trainings}",
            f"{effort.found}",
            f"{effort.steps:,}",
            format_duration(effort.seconds),
            ", ".join(effort.commits),
        ]
        for kind, effort in facts.efforts.items()
    ]
    note = (
        "Steps and time are those of all trainings of an agent, times added up; "
        f"{facts.processes} ran side by side, one thread each."
    )
    return "\n\n".join([provenance(record), markdown_table(head, body), note])
