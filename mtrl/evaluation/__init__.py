"""How results are measured and stated: intervals, comparisons and adaptation curves."""

from mtrl.evaluation.statistics import (
    Interval,
    PairedDifference,
    interval,
    iqm,
    normal_interval,
    paired_difference,
    probability_of_improvement,
    stratified_interval,
)

__all__ = [
    "Interval",
    "PairedDifference",
    "interval",
    "iqm",
    "normal_interval",
    "paired_difference",
    "probability_of_improvement",
    "stratified_interval",
]
