"""Curricula: which task comes next, chosen from how those before went."""

from mtrl.envs.curricula.alp_gmm import AlpGmm, AlpSettings
from mtrl.envs.curricula.box import BoxCurriculum, TaskBox
from mtrl.envs.curricula.credit import Judge, solved_at
from mtrl.envs.curricula.finite import FiniteCurriculum, Uniform
from mtrl.envs.curricula.learning_progress import LearningProgress
from mtrl.envs.curricula.level_replay import LevelReplay, ReplaySettings
from mtrl.envs.curricula.measured import Adversary, Learnability, WorstRegret
from mtrl.envs.curricula.protocol import Curriculum, OutcomeKind, Proposal
from mtrl.envs.curricula.randomization import DomainRandomization, RandomizationSettings
from mtrl.envs.curricula.self_paced import Gaussian, SelfPaced, SelfPacedSettings
from mtrl.envs.curricula.sources import CurriculumSource, VectorCurriculumSource
from mtrl.envs.curricula.staged import Staged, StageSettings
from mtrl.envs.curricula.teacher_student import TeacherSettings, TeacherStudent, TeacherVariant

__all__ = [
    "Adversary",
    "AlpGmm",
    "AlpSettings",
    "BoxCurriculum",
    "Curriculum",
    "CurriculumSource",
    "DomainRandomization",
    "FiniteCurriculum",
    "Gaussian",
    "Judge",
    "Learnability",
    "LearningProgress",
    "LevelReplay",
    "OutcomeKind",
    "Proposal",
    "RandomizationSettings",
    "ReplaySettings",
    "SelfPaced",
    "SelfPacedSettings",
    "StageSettings",
    "Staged",
    "TaskBox",
    "TeacherSettings",
    "TeacherStudent",
    "TeacherVariant",
    "Uniform",
    "VectorCurriculumSource",
    "WorstRegret",
    "solved_at",
]
