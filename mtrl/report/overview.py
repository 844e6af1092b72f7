"""What was run: the runs, what is wrong with them, their settings, versions and commands."""

import shlex
from collections.abc import Collection, Sequence
from typing import Any

from mtrl.report.curves import MEAN_RETURN, held_out_tags
from mtrl.report.grouping import Group, differing
from mtrl.report.page import Block, Code, Marked, Problems, Section, Table, Text
from mtrl.report.reading import LoggedSession, RunRecord
from mtrl.report.words import NONE, direction, number, plural

__all__ = [
    "commands_section",
    "overview_section",
    "problems_section",
    "sessions_section",
    "settings_section",
]

AVERAGE = "incremental/average_performance"


def overview_section(groups: Sequence[Group]) -> Section:
    """Return a row for each run: what it is, how far it got, how it adapts."""
    header = ("run", "experiment", "kind", "family", "learner", "seed", "device", "state")
    scores = ("score", "before", "after")
    rows = [_overview_row(group, run) for group in groups for run in group.runs]
    count = sum(len(group.runs) for group in groups)
    table = Table(
        caption="Runs, the steps that are saved of each, and the last score that it logged: on "
        "held-out tasks before and after adaptation, or on its own tasks",
        header=header + scores,
        rows=tuple(rows),
    )
    intro = (
        f"{plural(count, 'run')} in {plural(len(groups), 'experiment')}: runs that differ in the "
        "seed only are one experiment."
    )
    return Section(title="Runs", blocks=(Text(text=intro), table))


def problems_section(runs: Sequence[RunRecord], kinds: Collection[str]) -> tuple[Section, ...]:
    """Return what is damaged or missing in each run, if anything is."""
    items = [f"{run.name}: {problem}" for run in runs for problem in _problems(run, kinds)]
    if not items:
        return ()
    return (Section(title="What is missing", blocks=(Problems(items=tuple(items)),)),)


def settings_section(groups: Sequence[Group]) -> Section:
    """Return the settings in which the experiments differ, and those that they share."""
    known = [group for group in groups if group.settings]
    tables = [group.settings for group in known]
    names = list(dict.fromkeys(name for table in tables for name in table))
    different = differing(tables)
    blocks: list[Block] = []
    if different:
        blocks.append(
            Table(
                caption="Settings in which the experiments differ, and their seeds",
                header=("setting", *(group.label for group in known)),
                rows=(
                    *(
                        (name, *(Marked(_setting(table, name)) for table in tables))
                        for name in different
                    ),
                    ("seed", *(group.seeds for group in known)),
                ),
            )
        )
    elif known:
        text = f"Seed: {known[0].seeds}."
        several = len(known[0].runs) > 1
        blocks.append(Text(text=f"Nothing but the seed differs. {text}" if several else text))
    same = [name for name in names if name not in different]
    if same:
        rows = tuple((name, _setting(tables[0], name)) for name in same)
        shared = "Settings that all experiments share" if len(groups) > 1 else "Settings"
        blocks.append(Table(caption=shared, header=("setting", "value"), rows=rows))
    if not blocks:
        blocks.append(Text(text="No run's settings can be read."))
    return Section(title="Settings", blocks=tuple(blocks))


def sessions_section(runs: Sequence[RunRecord]) -> Section:
    """Return when and with which versions the runs were started, and by which command."""
    sessions = [(run, session) for run in runs for session in run.sessions]
    names = list(dict.fromkeys(name for _, session in sessions for name in session.versions))
    odd = differing([dict(session.versions) for _, session in sessions])
    rows = [_session_row(run, session, names, odd) for run, session in sessions]
    if not rows:
        return Section(title="Made by", blocks=(Text(text="No run's manifest can be read."),))
    table = Table(
        caption="Starts and resumptions, with versions; those that differ stand out",
        header=("run", "started", *names),
        rows=tuple(rows),
    )
    commands = "\n".join(session.command for _, session in sessions)
    text = Text(text="The commands, in the same order:")
    return Section(title="Made by", blocks=(table, text, Code(text=commands)))


def commands_section(runs: Sequence[RunRecord], kinds: Collection[str]) -> Section:
    """Return the commands that continue, evaluate and show each run."""
    lines = []
    for run in runs:
        where = shlex.quote(str(run.directory))
        if run.kind in kinds:
            done = "  # finished: give more --iterations" if run.finished else ""
            lines += [f"mtrl train --resume {where}{done}", f"mtrl evaluate {where}"]
        lines.append(f"mtrl watch {where}")
    text = Text(text="To continue, evaluate and watch the runs:")
    return Section(title="Going on", blocks=(text, Code(text="\n".join(lines))))


def _overview_row(group: Group, run: RunRecord) -> tuple[str, ...]:
    settings = run.settings
    several = settings.get("families", [settings.get("family", NONE)])
    family = ", ".join(map(str, several)) if isinstance(several, list) else str(several)
    preset = settings.get("preset")
    state = _state(run)
    return (
        run.name,
        group.label,
        run.kind or NONE,
        family if preset is None else f"{family} ({preset})",
        _learner(settings),
        str(settings.get("seed", NONE)),
        str(settings.get("device", NONE)),
        state if run.finished else Marked(state),
        *_last_score(run),
    )


def _learner(settings: dict[str, Any]) -> str:
    """Return what learns: the learner, or the algorithm and the method that guards earlier tasks."""
    names = ("learner.kind", "algorithm.kind", "method.kind")
    return ", ".join(str(settings[name]) for name in names if name in settings) or NONE


def _last_score(run: RunRecord) -> tuple[str, str, str]:
    """Return what the last score is, and its value before and after adaptation."""
    tags = held_out_tags([run])
    if tags:
        before, after = (number(run.metrics[tag].values[-1]) for tag in (tags[0], tags[-1]))
        return direction([run]).partition(" (")[0], before, after
    for tag, what in ((MEAN_RETURN, "mean return"), (AVERAGE, "average performance")):
        if tag in run.metrics:
            return what, NONE, number(run.metrics[tag].values[-1])
    return NONE, NONE, NONE


def _state(run: RunRecord) -> str:
    if run.saved_step is None:
        return "nothing saved"
    if run.finished is None:
        return f"saved at step {run.saved_step:,}"
    words = "finished" if run.finished else "unfinished"
    total = "" if run.last_step is None else f" of {run.last_step:,}"
    return f"{words}, {run.saved_step:,}{total}"


def _problems(run: RunRecord, kinds: Collection[str]) -> list[str]:
    problems = list(run.problems)
    if run.kind is not None and run.kind not in kinds:
        problems.append(
            f"its kind {run.kind!r} is unknown here, so that nothing is said of how to resume "
            "or evaluate it; use the mtrl that made it"
        )
    evaluated = None if run.evaluation is None else run.evaluation.iteration
    if evaluated is not None and run.saved_step is not None and evaluated != run.saved_step:
        problems.append(
            f"its evaluation is of iteration {evaluated:,}, and it is saved at "
            f"{run.saved_step:,}: evaluate it again"
        )
    if run.finished is False and run.saved_step is not None:
        problems.append(f"it is {_state(run)}")
    if not run.metrics:
        problems.append("it has logged nothing, so that it has no curves")
    return problems


def _setting(table: dict[str, Any], name: str) -> str:
    if name not in table:
        return NONE
    value = table[name]
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _session_row(
    run: RunRecord, session: LoggedSession, names: Sequence[str], odd: Sequence[str]
) -> tuple[str, ...]:
    versions = [
        Marked(session.versions.get(name, NONE)) if name in odd else session.versions.get(name, "")
        for name in names
    ]
    return (run.name, session.started, *versions)
