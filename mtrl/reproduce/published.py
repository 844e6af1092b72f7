"""The numbers that the papers print: estimates and the half widths of their 95 % intervals.

Li et al.'s tables are taken from reviews that quote them; eight of the eighteen numbers of their
regression table are in none of these (`UNCONFIRMED`).
"""

from collections.abc import Mapping

from mtrl.evaluation.statistics import Interval

__all__ = [
    "MAML_NAVIGATION",
    "MAML_REGRESSION",
    "META_SGD_NAVIGATION",
    "META_SGD_REGRESSION",
    "UNCONFIRMED",
    "Published",
]

NAN = float("nan")

Published = Mapping[str, Mapping[tuple[str, str], Interval]]
"""Learner to (row, column) of the table to what the paper prints there."""


def _stated(estimate: float, half_width: float = NAN) -> Interval:
    # Rounded: 1.13 + 0.18 is 1.31 and not just below.
    low, high = round(estimate - half_width, 6), round(estimate + half_width, 6)
    return Interval(estimate=estimate, low=low, high=high)


def _grid(
    rows: tuple[str, ...], columns: tuple[str, ...], numbers: list[list[tuple[float, float]]]
) -> dict[tuple[str, str], Interval]:
    return {
        (row, column): _stated(*number)
        for row, line in zip(rows, numbers, strict=True)
        for column, number in zip(columns, line, strict=True)
    }


SHOTS = ("5-shot", "10-shot", "20-shot")

META_SGD_REGRESSION: Published = {
    "Meta-SGD": _grid(
        SHOTS,
        SHOTS,
        [
            [(0.90, 0.16), (0.63, 0.12), (0.50, 0.10)],
            [(0.88, 0.14), (0.53, 0.09), (0.35, 0.06)],
            [(1.01, 0.17), (0.54, 0.08), (0.31, 0.05)],
        ],
    ),
    "MAML": _grid(
        SHOTS,
        SHOTS,
        [
            [(1.13, 0.18), (0.85, 0.14), (0.71, 0.12)],
            [(1.17, 0.16), (0.77, 0.11), (0.56, 0.08)],
            [(1.29, 0.20), (0.76, 0.12), (0.48, 0.08)],
        ],
    ),
}
"""Li et al. 2017 (arXiv:1707.09835): mean squared error; rows meta-training, columns test."""

UNCONFIRMED = frozenset(
    {("10-shot", "5-shot"), ("10-shot", "10-shot"), ("20-shot", "5-shot"), ("20-shot", "10-shot")}
)
"""Cells of `META_SGD_REGRESSION` whose two numbers are quoted from memory."""

META_SGD_NAVIGATION: Published = {
    "Meta-SGD": _grid(
        ("fixed start", "varying start"), ("1 step",), [[(-8.64, 0.68)], [(-10.15, 0.62)]]
    ),
    "MAML": _grid(
        ("fixed start", "varying start"), ("1 step",), [[(-9.12, 0.66)], [(-10.71, 0.76)]]
    ),
}
"""Li et al. 2017: average return after adaptation."""

MAML_REGRESSION: Published = {
    "MAML": _grid(
        ("10-shot",), ("1 step", "5 steps", "10 steps"), [[(0.67, NAN), (0.38, NAN), (0.35, NAN)]]
    )
}
"""Finn et al. 2017 (arXiv:1703.03400), table 2: mean squared error on 5 points."""

MAML_NAVIGATION: Published = {
    "MAML": _grid(
        ("fixed start",),
        ("0 steps", "1 step", "2 steps", "3 steps"),
        [[(-40.41, NAN), (-11.68, NAN), (-3.33, NAN), (-3.23, NAN)]],
    )
}
"""Finn et al. 2017, appendix, 2-D point mass: average return."""
