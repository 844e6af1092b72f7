"""`mtrl reproduce dex`: trains what is not trained yet, and writes the page, the numbers, the figure."""

import time
from collections import defaultdict
from dataclasses import replace

from mtrl.reproduce.carry_out import Outcome, Place, record_of, require_figures, write_files
from mtrl.reproduce.dex.courses import FULL, QUICK_SETTINGS, Course
from mtrl.reproduce.dex.figure import draw_figure
from mtrl.reproduce.dex.jobs import carry_out_jobs, jobs_of
from mtrl.reproduce.dex.page import render_page, render_scores
from mtrl.reproduce.dex.results import Results, claims
from mtrl.reproduce.dex.training import Taken
from mtrl.reproduce.provenance import commit
from mtrl.versions import library_versions

__all__ = ["TRIED", "dex_table"]

SEEDS, QUICK_SEEDS = 5, 2
TRIED = (
    (
        "Settings were chosen on seed 0, which is one of the table's, and on 100 and 101, with "
        "more steps for each level; those of the table are fewer, so that the whole command "
        "takes minutes."
    ),
    (
        "One trunk for actions and values with rewards as they are did not survive the easiest "
        "level to its end in many times the table's steps. A trunk for each, scaled rewards, a "
        "shorter discount and a larger step size learnt `one gate`; a longer discount and a "
        "smaller step size with them did not."
    ),
    (
        "Single chains had shown what the table measures: ahead for equal steps on the level, "
        "behind on the hardest level for equal steps in all."
    ),
    (
        "Negative transfer for equal steps on the level was looked for, with one seed each, of "
        "which no flag can come, and none was plain: not from the hardest level to the two "
        "easiest, nor from `turning` to the easiest, nor from a level whose walls are not "
        "seen before they arrive or are nearly open to the two easiest, nor to levels with left "
        "and right exchanged, nor to one where openings are seen at random. Most of what a new "
        "network lacks is the same for all levels, and is there even after a level that was not "
        "learnt."
    ),
    (
        "`three gates` can be survived by rhythm: its openings move by one of two sides from "
        "wall to wall, so that one side in either direction always does. `two gates` needs eyes; "
        "half-way through its steps the pair was behind learning from scratch, and ahead at the "
        "end."
    ),
)
"""What came before the settings, without its numbers: no command gives those again."""


def dex_table(place: Place) -> Outcome:
    """Take all courses with all seeds, and write the page, the numbers and the figure.

    Raises:
        Interrupted: asked to stop by a signal; finished trainings are kept.
        MtrlError: a training failed; the message names it.
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    clock, revision = time.monotonic(), commit()
    settings = QUICK_SETTINGS if place.quick else FULL
    count = QUICK_SEEDS if place.quick else SEEDS
    seeds = range(count * place.seed, count * (place.seed + 1))
    jobs = jobs_of(
        settings,
        seeds,
        place.work / f"reproduce-{place.stem}",
        {**library_versions(), "commit": revision},
    )
    found = sum(job.finished() is not None for job in jobs)
    carry_out_jobs(jobs, place.processes)
    taken: dict[Course, list[Taken]] = defaultdict(list)
    for job in jobs:
        made = job.finished()
        assert made is not None, "carry_out_jobs returns when all are finished"
        taken[job.course].append(made)
    results = Results(settings, seeds, taken)
    met = None if place.quick else all(claims(results).values())
    record = replace(
        record_of(place, revision, time.monotonic() - clock), processes=place.processes
    )
    return write_files(
        place,
        render_page(results, record, TRIED, found),
        render_scores(results, record),
        lambda: draw_figure(results, record),
        met,
    )
