"""Gymnasium wrappers that know of tasks, for the environments of any `TaskFamily`.

They need `info["task_id"]`, and where they say so the environment's `task` and `family`. Each also
has a vector version, except `Trial`, of which a vector environment holds one per sub-environment.
"""

from mtrl.envs.wrappers.context import TaskContext, VectorTaskContext
from mtrl.envs.wrappers.episode_table import EpisodeTable, TaskSummary
from mtrl.envs.wrappers.normalize_observation import (
    NormalizeObservation,
    VectorNormalizeObservation,
)
from mtrl.envs.wrappers.normalize_reward import NormalizeReward, VectorNormalizeReward
from mtrl.envs.wrappers.task_statistics import TaskStatistics, VectorTaskStatistics
from mtrl.envs.wrappers.trial import Trial

__all__ = [
    "EpisodeTable",
    "NormalizeObservation",
    "NormalizeReward",
    "TaskContext",
    "TaskStatistics",
    "TaskSummary",
    "Trial",
    "VectorNormalizeObservation",
    "VectorNormalizeReward",
    "VectorTaskContext",
    "VectorTaskStatistics",
]
