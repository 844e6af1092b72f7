"""The page of a comparison, in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtrl.benchmarks.quality.learners import LEARNERS, Config
from mtrl.benchmarks.quality.plan import Entry, QualitySettings
from mtrl.benchmarks.quality.summary import FamilySummary
from mtrl.config import to_toml
from mtrl.reproduce.page import Record, bullets, markdown_table, provenance, quick_notice

__all__ = ["Omitted", "render_page"]


@dataclass(frozen=True, kw_only=True)
class Omitted:
    """A learner that has no form on a family."""

    family: str
    learner: str


def render_page(
    settings: QualitySettings,
    summaries: Sequence[FamilySummary],
    bases: Mapping[str, Config],
    entries: Sequence[Entry],
    record: Record,
) -> str:
    """Return the page, which shows the figure `<stem>.png` beside it.

    Args:
        settings: of the comparison.
        summaries: of every family.
        bases: MAML's settings by family, from which the others' follow.
        entries: everything that was compared.
        record: how it was made.
    """
    sections = [
        "# How well learners adapt" + " (scaled-down run)" * record.quick,
        quick_notice("fewer iterations, seeds and tasks.") if record.quick else "",
        f"![How learners adapt, learn, and on how many tasks they succeed]({record.stem}.png)",
        *(_family(summary, settings) for summary in summaries),
        "## What the numbers are",
        bullets(_notes(settings, entries)),
        "## Settings",
        *(
            f"On {name}, those of MAML:\n\n```toml\n{to_toml(base).strip()}\n```"
            for name, base in bases.items()
        ),
        "## How this was made",
        provenance(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _family(summary: FamilySummary, settings: QualitySettings) -> str:
    family = summary.family
    steps = family.steps
    head = [
        "learner",
        *(f"after {k}" for k in range(steps + 1)),
        f"mean after {steps}",
        f"better than {LEARNERS[summary.reference]}",
    ]
    body = []
    for learner, curve in summary.iqm.items():
        chance = summary.improvement.get(learner)
        body.append(
            [
                LEARNERS[learner],
                *map(str, curve),
                str(summary.mean[learner]),
                "-" if chance is None else str(chance),
            ]
        )
    title = f"## {family.family}: {family.score}, {family.better} is better"
    count = f"{settings.tasks} unseen tasks, seeds: {len(family.seeds)}."
    return "\n\n".join([title, count, markdown_table(head, body), _diverged(summary)]).rstrip()


def _diverged(summary: FamilySummary) -> str:
    found = {name: number for name, number in summary.family.diverged.items() if number}
    return bullets(
        [
            f"{LEARNERS[name]}: {number} of {summary.family.scores[name].size} scores stand for an adaptation "
            "that diverged, and are the worst that any learner has."
            for name, number in found.items()
        ]
    )


def _notes(settings: QualitySettings, entries: Sequence[Entry]) -> list[str]:
    missing = _omitted(settings, entries)
    return [
        (
            "IQM: interquartile mean over runs and tasks, with the 95 % interval of the stratified bootstrap, "
            "which resamples runs within each task."
        ),
        (
            "Better than: the chance that a run of the learner scores better on a task than a run of the "
            "reference, averaged over tasks; one half says that they are alike."
        ),
        "Every learner and seed is tested on the same tasks, with the same points or episodes' seeds and noise.",
        (
            "Curves over training are means over seeds on each run's own held-out tasks, with the range of the "
            "seeds."
        ),
        (
            "Fine-tuning is trained on all tasks as one and takes MAML's steps at test; from scratch takes them "
            "from random parameters; the oracle reads the task and does not adapt. What has no inner loop meets "
            "more tasks per iteration, so that all see as many points or environment steps."
        ),
        *(
            f"{LEARNERS[each.learner]} has no form on {each.family} and is left out there."
            for each in missing
        ),
    ]


def _omitted(settings: QualitySettings, entries: Sequence[Entry]) -> list[Omitted]:
    present = {(entry.family, entry.learner) for entry in entries}
    return [
        Omitted(family=family, learner=learner)
        for family in settings.family_names
        for learner in settings.learner_names
        if (family, learner) not in present
    ]
