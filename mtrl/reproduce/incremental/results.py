"""What the methods kept, carried over and reached, with intervals over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtrl.evaluation.continual import (
    Measure,
    average_performance,
    cw_forgetting,
    cw_forward_transfer,
    negative_transfer,
)
from mtrl.evaluation.statistics import (
    Interval,
    PairedDifference,
    interval,
    paired_difference,
)
from mtrl.reproduce.incremental.plan import BASELINE
from mtrl.reproduce.incremental.trainings import Trained
from mtrl.seeding import numpy_generator

__all__ = ["Row", "Summary", "claims", "summarise"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method; intervals are over seeds.

    Attributes:
        performance: Continual World's average performance.
        forgetting: its forgetting.
        transfer: its forward transfer.
        learnt: the mean score of a task at the end of its own stage.
        more_performance: that of the method less that of fine-tuning with the same seed; None of
            fine-tuning itself.
        less_forgetting: forgetting of fine-tuning less that of the method.
        negative: by stage, whether it was learnt worse than from scratch, as far as the seeds tell.
        worst_forgetting: the largest forgetting of a stage, as a mean over seeds.
    """

    performance: Interval
    forgetting: Interval
    transfer: Interval
    learnt: Interval
    more_performance: PairedDifference | None
    less_forgetting: PairedDifference | None
    negative: Sequence[bool]
    worst_forgetting: float

    @property
    def helps(self) -> bool:
        """Whether it ends ahead of fine-tuning, by the whole interval."""
        return self.more_performance is not None and self.more_performance.low > 0

    @property
    def keeps(self) -> bool:
        """Whether it forgets less than fine-tuning, by the whole interval."""
        return self.less_forgetting is not None and self.less_forgetting.low > 0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All methods.

    Attributes:
        rows: by method, the best average performance first.
        scratch: the mean score of a task learnt alone.
    """

    rows: Mapping[str, Row]
    scratch: Interval


def summarise(trained: Trained, seed: int) -> Summary:
    """Return every method's measures with 95 % bootstrap intervals over seeds.

    Args:
        trained: what all trainings gave.
        seed: of the resamples; each number has a stream of its own.
    """
    rows = {method: _row(trained, method, seed) for method in trained.matrices}
    best_first = sorted(rows, key=lambda method: -rows[method].performance.estimate)
    alone = interval(trained.alone.mean(1), _rng(seed, "alone"))
    return Summary(rows={method: rows[method] for method in best_first}, scratch=alone)


def claims(summary: Summary) -> dict[str, bool]:
    """Return by claim whether it holds."""
    baseline = summary.rows[BASELINE]
    others = [row for method, row in summary.rows.items() if method != BASELINE]
    return {
        "Fine-tuning forgets: the interval of its forgetting lies above 0.": (
            baseline.forgetting.low > 0
        ),
        "Some method forgets less than fine-tuning, by the whole interval of the difference.": any(
            row.keeps for row in others
        ),
        "Some method ends ahead of fine-tuning, by the whole interval of the difference.": any(
            row.helps for row in others
        ),
        (
            "There is a trade-off: of the methods that forget less, some carry less over to new tasks than "
            "fine-tuning does, as a mean over seeds."
        ): any(row.keeps and row.transfer.estimate < baseline.transfer.estimate for row in others),
    }


def _row(trained: Trained, method: str, seed: int) -> Row:
    matrix, areas = trained.matrices[method], trained.areas[method]
    performance, forgetting = average_performance(matrix), cw_forgetting(matrix)
    transfer = cw_forward_transfer(areas, trained.scratch)
    learnt = performance.values + forgetting.values
    other = None if method == BASELINE else trained.matrices[BASELINE]
    more = less = None
    if other is not None:
        rng = _rng(seed, f"{method} less {BASELINE}")
        more = paired_difference(performance.means, average_performance(other).means, rng)
        less = paired_difference(cw_forgetting(other).means, forgetting.means, rng)
    return Row(
        performance=_interval(performance, method, seed),
        forgetting=_interval(forgetting, method, seed),
        transfer=_interval(transfer, method, seed),
        learnt=interval(learnt.mean(1), _rng(seed, f"{method} learnt")),
        more_performance=more,
        less_forgetting=less,
        negative=negative_transfer(
            areas, trained.scratch, _rng(seed, f"{method} negative")
        ).tolist(),
        worst_forgetting=float(forgetting.values.mean(0).max()),
    )


def _interval(measure: Measure, method: str, seed: int) -> Interval:
    return measure.interval(_rng(seed, f"{method} {measure.name}"))


def _rng(seed: int, name: str) -> np.random.Generator:
    return numpy_generator(seed, f"incremental: {name}")
