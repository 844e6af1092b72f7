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
        "The sequence was chosen as one that fine-tuning forgets. Three hexagons and then three acrobots it did not forget, "
        "and new tasks of the second family were now and then solved without training; with a head for each task and no code "
        "little was forgotten of cart-poles and acrobots in turns."
    ),
    (
        "Scored by the policy's best actions, cart-poles looked unlearnt that were learnt: two of three actions push the same "
        "way. Hence actions drawn from the policy."
    ),
    (
        "A penalty is most of a clipped gradient, or next to nothing of it: EWC with 20, MAS with 1 and L2 with 0.3 hardly "
        "learnt after the first task; EWC with 1 and MAS with 0.03 forgot as much as fine-tuning. The coefficients here lie "
        "between. With them and seed 100, `python scripts/train_incremental_two_families.py --dir runs/tried --seed 100 "
        "method:ewc --method.coefficient 5` and its like gave an average performance of 0.37 and a forgetting of 0.44 (EWC), "
        "0.42 and 0.36 (online EWC), 0.39 and 0.20 (MAS), 0.36 and 0.28 (L2)."
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
