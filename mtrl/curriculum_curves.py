"""A curriculum's state as numbers for curves, by tag."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl.envs.curricula import (
    AlpGmm,
    Curriculum,
    DomainRandomization,
    FiniteCurriculum,
    Learnability,
    LearningProgress,
    LevelReplay,
    SelfPaced,
    Staged,
    TeacherStudent,
    WorstRegret,
)

__all__ = ["curriculum_values", "tagged"]


def curriculum_values(curriculum: Curriculum, names: Sequence[str]) -> dict[str, float]:
    """Return the state of a curriculum in numbers, by tag.

    Args:
        curriculum: over a box, or over as many tasks as there are names.
        names: of the tasks, in the curriculum's order.
    """
    values: dict[str, float] = {}
    if isinstance(curriculum, FiniteCurriculum):
        shares = curriculum.probabilities()
        drawn = shares[shares > 0]
        values |= tagged("probability", names, shares)
        values["curriculum/entropy"] = float(-(drawn * np.log(drawn)).sum()) + 0.0
    return values | _own_values(curriculum, names)


def _own_values(curriculum: Curriculum, names: Sequence[str]) -> dict[str, float]:
    match curriculum:
        case Staged():
            return {"curriculum/stage": float(curriculum.stage)}
        case LearningProgress():
            return tagged("progress", names, curriculum.progress)
        case TeacherStudent() if curriculum.variant != "sampling":
            return tagged("progress", names, np.abs(curriculum.estimates))
        case LevelReplay():
            return tagged("score", names, curriculum.scores) | tagged(
                "staleness", names, curriculum.ages
            )
        case Learnability():
            return tagged("learnability", names, curriculum.scores)
        case WorstRegret():
            return tagged("weight", names, curriculum.weights)
        case AlpGmm():
            return {"curriculum/progress": curriculum.progress}
        case SelfPaced():
            return {"curriculum/divergence": curriculum.divergence()}
        case DomainRandomization():
            return _bounds(curriculum)
        case _:
            return {}


def _bounds(curriculum: DomainRandomization) -> dict[str, float]:
    low, high = (curriculum.box.scaled(bound) for bound in curriculum.bounds)
    coordinates = curriculum.box.coordinates
    return {
        **tagged("lower", coordinates, low),
        **tagged("upper", coordinates, high),
        "curriculum/entropy": curriculum.entropy,
    }


def tagged(kind: str, names: Sequence[str], numbers: Any) -> dict[str, float]:
    """Return each number under its tag, `curriculum/<kind>/<name>`."""
    return {
        f"curriculum/{kind}/{name}": float(number)
        for name, number in zip(names, numbers, strict=True)
    }
