"""How results are measured and stated: intervals, comparisons and adaptation curves."""

from mtrl.evaluation.statistics import (
    Interval,
    PairedDifference,
    Profile,
    interval,
    iqm,
    normal_interval,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)

__all__ = [
    "Interval",
    "PairedDifference",
    "Profile",
    "interval",
    "iqm",
    "normal_interval",
    "paired_difference",
    "performance_profile",
    "probability_of_improvement",
    "stratified_interval",
]
