"""Runs that differ in the seed only are one experiment; what sets experiments apart is their name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtrl.report.reading import RunRecord

__all__ = ["Group", "arenas", "differing", "grouped"]

SEED = "seed"
_MAIN = ("learner.kind", "algorithm.kind", "method.kind", "family", "preset")
"""Settings whose values need no name beside them."""
_TASKS = ("family", "families", "preset", "tasks.")
"""How the names of settings start that decide which tasks a run meets."""
_LONGEST = 48


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Runs that differ in the seed only.

    Attributes:
        label: what sets them apart from other groups; unique on the page.
        runs: at least one.
    """

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What all of its runs share."""
        return {name: value for name, value in self.runs[0].settings.items() if name != SEED}

    @property
    def seeds(self) -> str:
        """The seeds of its runs."""
        return ", ".join(str(run.settings.get(SEED, "unknown")) for run in self.runs)


def grouped(runs: Sequence[RunRecord]) -> list[Group]:
    """Return the runs in groups, in order of their first run.

    A second run with the settings and the seed of another is no further sample: it gets a group of
    its own, as does a run whose settings cannot be read.
    """
    buckets: dict[Any, list[RunRecord]] = {}
    for run in runs:
        key: Any = (run.kind, _comparable(run)) if run.settings else (run.directory,)
        copies = 0
        while _has_seed(buckets.get((key, copies), []), run):
            copies += 1
        buckets.setdefault((key, copies), []).append(run)
    members = [tuple(bucket) for bucket in buckets.values()]
    labels = _labels(members)
    return [Group(label=label, runs=runs) for label, runs in zip(labels, members, strict=True)]


def differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the settings that are not the same everywhere, in order."""
    names = dict.fromkeys(name for each in settings for name in each)
    # repr, so that 1 differs from 1.0 and True, and what is left out from anything.
    return [
        name
        for name in names
        if len({repr(each[name]) if name in each else "" for each in settings}) > 1
    ]


def _comparable(run: RunRecord) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted((name, repr(value)) for name, value in run.settings.items() if name != SEED)
    )


def _has_seed(bucket: Sequence[RunRecord], run: RunRecord) -> bool:
    return any(other.settings.get(SEED) == run.settings.get(SEED) for other in bucket)


def arenas(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return by name the groups whose scores can be compared: those that learn on the same tasks."""
    found: dict[Any, list[Group]] = {}
    for group in groups:
        tasks = tuple((k, repr(v)) for k, v in group.settings.items() if k.startswith(_TASKS))
        found.setdefault((group.runs[0].kind, tasks), []).append(group)
    names = [_family(members[0]) for members in found.values()]
    return {
        name
        if names.count(name) == 1
        else f"{name}: {', '.join(g.label for g in members)}": members
        for name, members in zip(names, found.values(), strict=True)
    }


def _family(group: Group) -> str:
    family, preset = (group.settings.get(name) for name in ("family", "preset"))
    if family is None:
        return group.label
    return str(family) if preset is None else f"{family} ({preset})"


def _labels(members: Sequence[tuple[RunRecord, ...]]) -> list[str]:
    """Return what sets each group apart, if a few settings do, else its runs' names."""
    settings = [{k: v for k, v in runs[0].settings.items() if k != SEED} for runs in members]
    names = differing(settings)
    main = [name for name in _MAIN if name in names]
    # A learner's own options say nothing more where learners differ: others have none of them.
    own = tuple(each for each in ("learner.", "method.") if f"{each}kind" in names)
    rest = [name for name in names if name not in _MAIN and not name.startswith(own)]
    for chosen in (main, main + rest):
        labels = [_label(each, chosen) for each in settings]
        if len(set(labels)) == len(labels) and all(0 < len(n) <= _LONGEST for n in labels):
            return labels
    return [_by_name(runs) for runs in members]


def _label(settings: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(
        str(settings[name]) if name in _MAIN else f"{name} {settings[name]}"
        for name in names
        if name in settings
    )


def _by_name(runs: Sequence[RunRecord]) -> str:
    first = runs[0].name
    return first if len(runs) == 1 else f"{first} and {len(runs) - 1} more"
