"""Settings of curricula, as the command line and configurations write them, and what they make.

Each class has the options of one curriculum of `mtrl.envs.curricula`, whose documentation says what
they mean. Curricula over a list choose among a run's tasks; those over a box choose among all tasks
of a family whose parameters are numbers in ranges.
"""

from mtrl.curricula.boxed import AlpGmm, DomainRandomization, OverBox, SelfPaced
from mtrl.curricula.listed import (
    Learnability,
    LearningProgress,
    LevelReplay,
    Staged,
    TeacherStudent,
    Uniform,
    WorstRegret,
)

__all__ = [
    "AlpGmm",
    "CurriculumConfig",
    "DomainRandomization",
    "Learnability",
    "LearningProgress",
    "LevelReplay",
    "SelfPaced",
    "Staged",
    "TeacherStudent",
    "Uniform",
    "WorstRegret",
    "over_box",
]

CurriculumConfig = (
    Uniform
    | Staged
    | LearningProgress
    | TeacherStudent
    | LevelReplay
    | Learnability
    | WorstRegret
    | AlpGmm
    | SelfPaced
    | DomainRandomization
)


def over_box(settings: CurriculumConfig) -> bool:
    """Return whether the curriculum chooses among all tasks of a family, not among a list."""
    return isinstance(settings, OverBox)
