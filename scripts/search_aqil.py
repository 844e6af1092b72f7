"""Try other settings of the AQIL experiment, on seeds that its table does not have.

    python scripts/search_aqil.py --dir runs/search-aqil
    python scripts/search_aqil.py --dir runs/search-aqil --trials base long-episodes --seeds 100 101 102

Each trial is a named change of the settings of `mtrl reproduce aqil`. All modes are trained on every seed, and a row for
the trial is appended to `trials.csv`; trainings that are there already are not repeated.
`docs/results/aqil-search.md` says what came of it.
"""

import csv
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from mtrl.errors import UsageError, guarded
from mtrl.reproduce.aqil import compare, jobs_of
from mtrl.reproduce.aqil_results import Comparison
from mtrl.reproduce.aqil_training import AqilSettings
from mtrl.reproduce.jobs import carry_out_jobs
from mtrl.reproduce.trainings import cpu_count
from mtrl.versions import library_versions

FIRST_SEED = 100
"""Below are the table's."""

TABLE = AqilSettings()
BASE = replace(TABLE, updates_per_episode=100, exploration_share=0.1)
"""What the search began with."""
SHORT = 0.04
"""Exploration over 20 of 500 episodes in place of 50."""
TRIALS: dict[str, AqilSettings] = {
    "base": BASE,
    "long-episodes": replace(BASE, step_limit=10_000),
    "short-exploration": replace(BASE, exploration_share=SHORT),
    "more-updates": replace(BASE, updates_per_episode=200),
    "few-environments": replace(BASE, environments=10),
    "single": replace(BASE, double=False),
    "zero-start": replace(BASE, optimistic=False),
    "plain": replace(BASE, double=False, optimistic=False),
    "few-updates": replace(BASE, updates_per_episode=50),
    "few-updates-short-exploration": replace(BASE, updates_per_episode=50, exploration_share=SHORT),
    "fewer-updates": replace(BASE, updates_per_episode=30),
    "fewer-updates-short-exploration": replace(
        BASE, updates_per_episode=30, exploration_share=SHORT
    ),
    "table": TABLE,
}
"""What is tried, by name."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to try."""

    dir: Path
    """Folder for the trainings and trials.csv."""
    trials: tuple[str, ...] = ()
    """Names in TRIALS; all of them if left out."""
    seeds: tuple[int, ...] = (100, 101, 102, 103)
    """Of the trainings; from 100 on."""
    processes: int = field(default_factory=cpu_count)
    """Trainings at a time, one thread each; as many as CPU cores if left out."""


def main(search: Search) -> None:
    """Carry out one trial after another."""
    names = search.trials or tuple(TRIALS)
    for name in names:
        if name not in TRIALS:
            raise UsageError(f"no trial {name!r}; there are {', '.join(TRIALS)}")
    if min(search.seeds) < FIRST_SEED:
        raise UsageError(f"seed {min(search.seeds)} may be the table's; take {FIRST_SEED} or more")
    for name in names:
        settings = TRIALS[name]
        jobs = jobs_of(settings, search.seeds, search.dir, library_versions())
        carry_out_jobs(jobs, search.processes)
        comparison, seconds = compare(jobs, settings, seed=FIRST_SEED)
        _append(search.dir / "trials.csv", _row(name, comparison, sum(seconds.values())))


def _row(name: str, comparison: Comparison, seconds: float) -> dict[str, object]:
    ratio = comparison.ratio
    return {
        "trial": name,
        "seeds": len(comparison.rows[0].means),
        **{row.mode: round(row.mean.estimate) for row in comparison.rows},
        "ratio": round(ratio.estimate, 2),
        "low": round(ratio.low, 2),
        "high": round(ratio.high, 2),
        "seconds": round(seconds),
    }


def _append(table: Path, row: dict[str, object]) -> None:
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(tyro.cli(Search, description=__doc__))))
