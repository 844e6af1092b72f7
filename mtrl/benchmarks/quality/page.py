"""The page of a comparison, in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtrl.benchmarks.quality.learners import LEARNERS, Base
from mtrl.benchmarks.quality.plan import Entry, QualitySettings
from mtrl.benchmarks.quality.scores import FamilyScores, LearnerScores
from mtrl.benchmarks.quality.step_sizes import Tried
from mtrl.benchmarks.quality.summary import FamilySummary
from mtrl.benchmarks.quality.trial_learners import PEARL_SHARE, TRIAL_LEARNERS
from mtrl.config import to_toml
from mtrl.meta.pearl.config import PearlConfig
from mtrl.reproduce.experiment import Config
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
    bases: Mapping[str, Base],
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
        *(_settings(f"On {name}, those of MAML", base) for name, base in bases.items()),
        *_trial_settings(entries),
        "## How this was made",
        provenance(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _settings(title: str, config: Config) -> str:
    return f"{title}:\n\n```toml\n{to_toml(config).strip()}\n```"


def _trial_settings(entries: Sequence[Entry]) -> list[str]:
    """Return the settings that do not follow from MAML's alone."""
    shown = {(each.family, each.learner): each for each in reversed(entries)}
    return [
        _settings(
            f"On {family}, those of {LEARNERS[learner]}", shown[family, learner].contender.config
        )
        for family, learner in sorted(shown)
        if learner in TRIAL_LEARNERS
    ]


def _family(summary: FamilySummary, settings: QualitySettings) -> str:
    family = summary.family
    columns = max(map(len, summary.iqm.values()))
    head = [
        "learner",
        family.trained_unit,
        "a step takes",
        *(f"after {k}" for k in range(columns)),
        "mean after the last",
        f"better than {LEARNERS[summary.reference]}",
    ]
    body = []
    for learner, curve in summary.iqm.items():
        scores, chance = family.learners[learner], summary.improvement.get(learner)
        body.append(
            [
                LEARNERS[learner],
                f"{np.mean(scores.trained):,.0f}",
                _cost(family, scores),
                *map(str, curve),
                *[""] * (columns - len(curve)),
                str(summary.mean[learner]),
                "-" if chance is None else str(chance),
            ]
        )
    title = f"## {family.family}: {family.score}, {family.better} is better"
    count = f"{settings.tasks} unseen tasks, seeds: {len(family.seeds)}."
    parts = [
        title,
        count,
        markdown_table(head, body),
        _diverged(family),
        _searches(family, settings),
    ]
    return "\n\n".join(part for part in parts if part)


def _cost(family: FamilyScores, learner: LearnerScores) -> str:
    """Return what a step of adaptation costs on the task."""
    seen = learner.seen
    if not seen[-1]:
        return "nothing"
    if family.score == "error":
        return f"the same {seen[1]} points"
    return f"{seen[1]} episode{'s' * (seen[1] > 1)}"


def _diverged(family: FamilyScores) -> str:
    return bullets(
        [
            f"{LEARNERS[name]}: {each.diverged} of {each.values.size} scores stand for an adaptation "
            "that diverged, and are the worst that any learner has."
            for name, each in family.learners.items()
            if each.diverged
        ]
    )


def _searches(family: FamilyScores, settings: QualitySettings) -> str:
    """Return how step sizes at test were chosen: a row for each learner and scale of later steps."""
    searched = {name: each for name, each in family.learners.items() if each.searches}
    if not searched:
        return ""
    body = [line for name, each in searched.items() for line in _search_rows(LEARNERS[name], each)]
    head = ["learner", "later steps", *(f"{size:g}" for size in settings.step_sizes), "chosen"]
    text = (
        f"Step sizes at test, each training's chosen by the mean {family.score} after the last step on "
        f"{settings.validation_tasks} tasks of the training split; in the table these means over the "
        "seeds, and how many seeds chose:"
    )
    return f"{text}\n\n{markdown_table(head, body)}"


def _search_rows(name: str, learner: LearnerScores) -> list[list[str]]:
    rows = []
    first = learner.searches[0].tried
    for scale in dict.fromkeys(each.later_step_scale for each in first):
        places = [place for place, each in enumerate(first) if each.later_step_scale == scale]
        chosen = [each.chosen for each in learner.searches if each.chosen.later_step_scale == scale]
        times = "the same" if scale == 1 else f"times {scale:g}"
        cells = [_mean([search.tried[place] for search in learner.searches]) for place in places]
        rows.append([name, times, *cells, _counts([each.step_size for each in chosen])])
    return rows


def _mean(tried: Sequence[Tried]) -> str:
    scores = [each.score for each in tried if each.score is not None]
    return f"{np.mean(scores):.3g}" if len(scores) == len(tried) else "diverged"


def _counts(sizes: Sequence[float]) -> str:
    found = {size: sizes.count(size) for size in sorted(sizes)}
    return ", ".join(f"{size:g} ({count})" for size, count in found.items()) or "-"


def _notes(settings: QualitySettings, entries: Sequence[Entry]) -> list[str]:
    missing = _omitted(settings, entries)
    return [
        (
            "IQM: interquartile mean over runs and tasks, with the 95 % interval of the stratified bootstrap, "
            "which resamples runs within each task."
        ),
        (
            "After k: after k steps of adaptation. A step of the gradient learners is one on episodes of the policy "
            "before it, or on the support points, the same for all steps; a step of RL² and PEARL is one more "
            "episode of the trial in the state or the belief. Compare learners at equal experience in the first panel "
            "of the figure, not column by column."
        ),
        (
            "Better than: the chance that a run of the learner scores better on a task than a run of the "
            "reference, each after its last step, averaged over tasks; one half says that they are alike."
        ),
        (
            "Every learner and seed is tested on the same tasks; those that take the same steps with the same "
            "points, or episodes' seeds and noise."
        ),
        (
            "Curves over training are means over seeds on each run's own held-out tasks, with the range of the "
            "seeds."
        ),
        *_learner_notes(entries),
        *(
            f"{LEARNERS[each.learner]} has no form on {each.family} and is left out there."
            for each in missing
        ),
    ]


def _learner_notes(entries: Sequence[Entry]) -> list[str]:
    notes = [
        (
            "Fine-tuning is trained on all tasks as one; from scratch starts at random parameters; both take gradient "
            "steps at test, of a size that is chosen as shown. Fine-tuning has no curve over training, as its step "
            "size is chosen at the end. The oracle reads the task and does not adapt. What has no inner loop meets "
            "more tasks per iteration, so that all play as many episodes or see as many points."
        )
    ]
    shown = {entry.learner: entry.contender.config for entry in entries}
    if "rl2" in shown:
        notes.append("RL² plays as many episodes in training as MAML, in trials of several.")
    if isinstance(found := shown.get("pearl"), PearlConfig):
        each = found.tasks_per_collection * (found.prior_episodes + found.posterior_episodes)
        notes.append(
            f"PEARL learns off-policy: it plays one in {PEARL_SHARE} of MAML's episodes, and takes "
            f"{found.gradient_steps} gradient steps after every {each} of them."
        )
    return notes


def _omitted(settings: QualitySettings, entries: Sequence[Entry]) -> list[Omitted]:
    present = {(entry.family, entry.learner) for entry in entries}
    return [
        Omitted(family=family, learner=learner)
        for family in settings.family_names
        for learner in settings.learner_names
        if (family, learner) not in present
    ]
