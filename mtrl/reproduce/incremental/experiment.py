"""Carries out `mtrl reproduce incremental`: trains what is not trained yet, and writes the files."""

import time
from dataclasses import replace

from mtrl.reproduce.carry_out import Outcome, Place, record_of, require_figures, write_files
from mtrl.reproduce.incremental.figure import draw_figure
from mtrl.reproduce.incremental.page import render_page, render_scores
from mtrl.reproduce.incremental.plan import FULL, QUICK_SCALE
from mtrl.reproduce.incremental.results import claims, summarise
from mtrl.reproduce.incremental.trainings import train
from mtrl.reproduce.provenance import commit
from mtrl.versions import library_versions

__all__ = ["PILOTS", "incremental_table"]

PILOTS: tuple[str, ...] = (
    (
        "The sequence was chosen as one that fine-tuning forgets. With three hexagons and then three acrobots "
        "(strong motors, light links, 20,000 steps each) it forgot nothing: -0.10, while new tasks of the second "
        "family were now and then solved without training. With two cart-poles and two acrobots in turns it "
        "forgot 0.35, and 0.07 with a head for each task and no code."
    ),
    (
        "The same four tasks, scored by the policy's best actions, left cart-poles at 0.3 that were learnt: two of "
        "three actions push the same way. Hence actions drawn from the policy."
    ),
    (
        "On the sequence of this page, with 16,384 steps for each task and seed 100, fine-tuning had an average "
        "performance of 0.48 and forgot 0.42; cloning with the coefficients of this page had 0.79 and forgot 0.00."
    ),
    (
        "A penalty is most of a clipped gradient, or next to nothing of it: in the same pilots EWC with 20, MAS with 1 "
        "and L2 with 0.3 ended at 0.07, 0.26 and 0.08, hardly learning after the first task; EWC with 1 and MAS with "
        "0.03 learnt every task and ended at 0.38 and 0.39, forgetting 0.51 and 0.46, as much as fine-tuning. The "
        "coefficients here lie between, and were not tried out."
    ),
)
"""Single agents, seeds 0 and 100."""


def incremental_table(place: Place) -> Outcome:
    """Train every method with all seeds, and each task alone; write the page, the numbers, the figure.

    Raises:
        Interrupted: asked to stop by a signal; the same command goes on, within trainings too.
        MtrlError: a training failed; the message names it.
        MissingExtraError: matplotlib is not installed.
    """
    require_figures()
    clock, revision = time.monotonic(), commit()
    scale = QUICK_SCALE if place.quick else FULL
    trained = train(place, scale, {**library_versions(), "commit": revision})
    summary = summarise(trained, place.seed)
    record = record_of(place, revision, time.monotonic() - clock)
    record = replace(record, processes=place.processes)
    return write_files(
        place,
        render_page(summary, trained, scale, record, PILOTS),
        render_scores(trained, record),
        lambda: draw_figure(summary, trained, record),
        None if place.quick else all(claims(summary).values()),
    )
