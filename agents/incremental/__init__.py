"""Tasks learnt one after another by one agent, and what keeps the earlier ones from being forgotten."""

from mtrl.agents.incremental.agem import AGEM
from mtrl.agents.incremental.cloning import BehaviourCloningReplay
from mtrl.agents.incremental.columns import ColumnsTrunk, ProgressiveColumns
from mtrl.agents.incremental.method import FineTune, Method, MethodSettings
from mtrl.agents.incremental.packnet import PackNet
from mtrl.agents.incremental.quadratic import EWC, L2, MAS, OnlineEWC
from mtrl.agents.incremental.runner import IncrementalRunner, TaskSequence
from mtrl.agents.incremental.scoring import EpisodeScorer, Scorer
from mtrl.agents.incremental.switch import TaskSwitch

MethodConfig = (
    FineTune
    | L2
    | EWC
    | OnlineEWC
    | MAS
    | PackNet
    | AGEM
    | BehaviourCloningReplay
    | ProgressiveColumns
)
"""Every method, for a field of a configuration."""

__all__ = [
    "AGEM",
    "EWC",
    "L2",
    "MAS",
    "BehaviourCloningReplay",
    "ColumnsTrunk",
    "EpisodeScorer",
    "FineTune",
    "IncrementalRunner",
    "Method",
    "MethodConfig",
    "MethodSettings",
    "OnlineEWC",
    "PackNet",
    "ProgressiveColumns",
    "Scorer",
    "TaskSequence",
    "TaskSwitch",
]
