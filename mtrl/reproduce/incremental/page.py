"""What `mtrl reproduce incremental` writes: the page, and all its numbers as CSV."""

import csv
import io
from collections.abc import Callable, Mapping

import numpy as np

from mtrl.config import to_dict
from mtrl.evaluation.continual import cw_forgetting
from mtrl.evaluation.statistics import Interval, PairedDifference
from mtrl.progress import format_duration
from mtrl.reproduce.incremental.plan import BASELINE, METHODS, TASKS, Scale, sequence_config
from mtrl.reproduce.incremental.results import Row, Summary, claims
from mtrl.reproduce.incremental.trainings import Trained
from mtrl.reproduce.page import QUICK, Record, bullets, markdown_table, provenance, quick_notice
from mtrl.toml_writer import dumps

__all__ = ["TITLE", "render_page", "render_scores"]

TITLE = "Six tasks one after another: what is kept, what is carried over"
SOURCE = "Wołczyk et al. 2021 (arXiv:2105.10919, Continual World)"

DEFINITIONS = (
    (
        "A score is the mean share of the way from a task's low return to its high one that episodes get, each "
        "cut to [0, 1]; the bounds are in the table of tasks. Actions are drawn from the policy, as in training. All "
        "scores of a task begin with the same states and use the same random numbers."
    ),
    (
        "Average performance is the mean score of all tasks at the end of the sequence. Forgetting is the "
        "score of a task at the end of its own stage less that at the end of the sequence, a mean over all six; "
        "below zero, tasks got better after their stage. Both are Continual World's."
    ),
    (
        "Forward transfer is (AUC - AUC of the task learnt alone) / (1 - AUC of the task learnt alone), a mean over "
        "all six, by the area under the score against the stage's steps; also Continual World's. Its interval "
        "takes the references as given."
    ),
    (
        "Learnt is the mean score of a task at the end of its own stage: what is kept is kept of that. A method "
        "that learns less has less to forget."
    ),
    (
        "A negative transfer is flagged where a task's mean area is below that of the task learnt alone, and the "
        "95 % interval of the chance that a run of the sequence has the larger one lies below one half "
        "(`mtrl.evaluation.continual.negative_transfer`)."
    ),
)

CHOICES = (
    (
        "Observations are of 4 numbers in cart-pole and 12 in hexagon, those of cart-pole padded with eight zeros. "
        "Hexagon has three actions and cart-pole two, of which two of the three mean the first: a policy that "
        "halves its chance between them has another best action than it mostly takes, hence actions drawn from it."
    ),
    (
        "One network with one head for all tasks, told the task by a one-hot code; the columns, which are "
        "defined with a head for each task, have one, no code, and a column of the same size for each task, so that "
        "they have about six times the parameters. Their forward transfer is against the common network's "
        "references."
    ),
    (
        "The values' network is guarded by no method but cloning and A-GEM, which concern both, and the columns; "
        "it is not needed to act."
    ),
    (
        "PPO remembers of a task what its last rollout holds: 512 steps for the Fisher information, for A-GEM's memory "
        "and for cloning."
    ),
    "The optimiser begins anew with each task, and the step size falls to zero within it, for every method.",
    "PackNet's part of a stage after pruning is within the stage's steps: all methods take as many.",
)


def render_page(
    summary: Summary,
    trained: Trained,
    scale: Scale,
    record: Record,
    pilots: tuple[str, ...],
) -> str:
    """Return the page."""
    settings = to_dict(sequence_config(scale, BASELINE, 0))
    shown = {name: value for name, value in settings.items() if name != "tasks"}
    sections = [
        f"# {TITLE}" + f" ({QUICK})" * record.quick,
        quick_notice("two agents of each method, with a twentieth of the steps.")
        if record.quick
        else "",
        f"Measures: {SOURCE}. The sequence is our own.",
        "" if record.quick else _verdict(summary),
        _methods(summary),
        (
            f"Means over {scale.seeds} seeds with the 95 % bootstrap interval over seeds in brackets; the best average "
            "performance comes first. Differences are from fine-tuning with the same seed, positive where "
            f"the method is better. Tasks learnt alone reach {_interval(summary.scratch)} on average."
        ),
        f"![Trade-off, and what was lost of each task{f', {QUICK}' * record.quick}]({record.stem}.png)",
        "" if record.quick else "## What the numbers say",
        "" if record.quick else bullets(_findings(summary)),
        "## Tasks",
        _tasks(trained, summary),
        "## Definitions",
        bullets(DEFINITIONS),
        "## Settings",
        bullets(CHOICES),
        bullets([f"{name}: {_settings(name)}." for name in METHODS]),
        "## What pilots showed",
        bullets(pilots),
        "## Settings of fine-tuning",
        f"```toml\n{dumps(shown).strip()}\n```",
        "## How this was made",
        provenance(record) + "\n" + _effort(trained, record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def render_scores(trained: Trained, record: Record) -> str:
    """Return every score after every stage, and every area, as CSV in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["reproduction", "run", "method", "seed", "stage", "learnt", "task", "quantity", "value"]
    )
    run = "quick" if record.quick else "full"
    for method, matrix in trained.matrices.items():
        learnt = ["", *matrix.order]
        for index, seed in enumerate(matrix.seeds):
            where = [record.name, run, method, seed]
            for stage, name in enumerate(learnt):
                for task, score in zip(matrix.tasks, matrix.scores[index, stage], strict=True):
                    writer.writerow([*where, stage, name, task, "score", repr(float(score))])
            for stage, task in enumerate(matrix.order):
                area = repr(float(trained.areas[method][index, stage]))
                writer.writerow([*where, stage + 1, task, task, "area", area])
    seeds = trained.matrices[BASELINE].seeds
    for quantity, table in (("score", trained.alone), ("area", trained.scratch)):
        for seed, row in zip(seeds, table.tolist(), strict=True):
            for task, value in zip(TASKS, row, strict=True):
                writer.writerow(
                    [record.name, run, "alone", seed, 1, task, task, quantity, repr(value)]
                )
    return text.getvalue()


def _verdict(summary: Summary) -> str:
    found = claims(summary)
    lines = [f"- {'yes' if holds else '**no**'}: {claim}" for claim, holds in found.items()]
    order = ", ".join(summary.rows)
    return (
        f"**{sum(found.values())} of {len(found)} claims hold.**\n\n"
        + "\n".join(lines)
        + f"\n\nOrder by average performance: {order}."
    )


def _methods(summary: Summary) -> str:
    head = ["method", "average performance", "forgetting", "forward transfer", "learnt"]
    head += ["performance gained", "forgetting avoided", "negative transfers"]
    body = [
        [
            method,
            *map(_interval, (row.performance, row.forgetting, row.transfer, row.learnt)),
            _difference(row.more_performance),
            _difference(row.less_forgetting),
            ", ".join(task for task, flag in zip(TASKS, row.negative, strict=True) if flag) or "-",
        ]
        for method, row in summary.rows.items()
    ]
    return markdown_table(head, body)


def _findings(summary: Summary) -> list[str]:
    rows = {name: row for name, row in summary.rows.items() if name != BASELINE}
    found = [
        _listed("Ahead of fine-tuning in average performance", rows, lambda row: row.helps),
        _listed("Forget less than fine-tuning", rows, lambda row: row.keeps),
        _listed(
            "Forget less without ending ahead, because they learn later tasks worse or because the "
            "intervals are wide",
            rows,
            lambda row: row.keeps and not row.helps,
        ),
        _listed("Did not help, in neither", rows, lambda row: not (row.keeps or row.helps)),
    ]
    behind = [
        name
        for name, row in rows.items()
        if row.more_performance is not None and row.more_performance.high < 0
    ]
    if behind:
        found.append(f"Behind fine-tuning in average performance: {', '.join(behind)}.")
    return found


def _listed(what: str, rows: Mapping[str, Row], fits: Callable[[Row], bool]) -> str:
    names = [name for name, row in rows.items() if fits(row)]
    return f"{what}: {', '.join(names) or 'none'}."


def _tasks(trained: Trained, summary: Summary) -> str:
    usual = {"cartpole": TASKS["pole"], "hexagon": TASKS["walls"]}
    head = ["task", "family", "differs from the family's first in", "low", "high", "learnt alone"]
    head += [f"lost by {BASELINE}"]
    lost = cw_forgetting(trained.matrices[BASELINE]).values.mean(0)
    body = []
    for place, (name, task) in enumerate(TASKS.items()):
        first = usual[task.family].params
        changes = {k: v for k, v in task.params.items() if first.get(k) != v}
        body.append(
            [
                name,
                task.family,
                ", ".join(f"{key} {value}" for key, value in changes.items()) or "nothing",
                f"{task.low:g}",
                f"{task.high:g}",
                f"{trained.alone[:, place].mean():.2f}",
                f"{lost[place]:.2f}",
            ]
        )
    return markdown_table(head, body)


def _settings(method: str) -> str:
    values = to_dict(METHODS[method])
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "nothing to set"


def _interval(value: Interval) -> str:
    return f"{value.estimate:.2f} [{value.low:.2f}, {value.high:.2f}]".replace("-0.00", "0.00")


def _difference(value: PairedDifference | None) -> str:
    if value is None or not np.isfinite(value.mean):
        return "-"
    return f"{value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def _effort(trained: Trained, record: Record) -> str:
    return (
        f"- Trainings: {trained.trainings} processes, of which {trained.found} were found finished, "
        f"{record.processes} at a time with one thread each; all of them together "
        f"{format_duration(trained.seconds)}"
    )
