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

__all__ = ["PILOTS", "dex_table"]

SEEDS, QUICK_SEEDS = 5, 2
PILOTS = (
    (
        "Settings were chosen on seeds 0, 100 and 101 with 49,152 steps for each level; those of the table "
        "are fewer, so that the whole command takes minutes. Rewards were scaled for a discount of 0.99."
    ),
    (
        "With one trunk for actions and values and rewards as they are, 400,000 steps of the easiest level were "
        "survived for 364 steps, and 200,000 of it for 70. With a trunk each, scaled rewards, a discount of 0.95 and twice "
        "the step size, 120,000 steps of `one gate` gave 496; with a discount of 0.97 and the old step size, 74."
    ),
    (
        "From scratch the ten levels were survived for 500, 193, 219, 48, 72, 50, 42, 35, 47 and 33 steps, by the "
        "chain for 500, 437, 500, 418, 488, 495, 444, 422, 333 and 203 (one seed). With all the steps of the "
        "chain, 491,520, `storm` from scratch gave 280."
    ),
    (
        "Negative transfer for equal steps on the level was looked for and not found, one seed each: not from the "
        "hardest level to the two easiest (500 and 500; from scratch 500 and 193), nor from `turning` to the easiest (454), nor from a level "
        "whose walls are not seen before they arrive to the two easiest (500 and 386), nor from one whose walls are "
        "nearly open (500 and 477), nor to levels with left and right exchanged (486 and 287), nor to one where openings "
        "are seen at random (481, and 435 from scratch). Most of what a new network lacks is the same for all "
        "levels, and is there even after a level that was not learnt."
    ),
    (
        "`three gates` can be survived by rhythm: its openings move by one of two sides from wall to wall, so that one side in "
        "either direction always does. `two gates` needs eyes; half-way through its steps the pair was behind "
        "learning from scratch (116 against 167), and ahead at the end (437 against 193)."
    ),
)
"""Survival in steps of single agents, of 100 greedy episodes."""


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
        render_page(results, record, PILOTS, found),
        render_scores(results, record),
        lambda: draw_figure(results, record),
        met,
    )
