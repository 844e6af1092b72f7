"""Networks for many tasks, in plain PyTorch: trunk, conditioning and heads, built from dataclasses."""

from mtrl.agents.networks.compositions import ParameterCompositions
from mtrl.agents.networks.conditioning import (
    Conditioning,
    Embedding,
    Film,
    OneHot,
    TaskParameters,
)
from mtrl.agents.networks.heads import Head, HeadConfig, PerTask, Shared
from mtrl.agents.networks.mixture import MixtureOfExperts, orthonormal
from mtrl.agents.networks.network import MultiTaskNetwork, NetworkConfig, TrunkConfig
from mtrl.agents.networks.plain import CNN, MLP
from mtrl.agents.networks.soft_modules import SoftModules
from mtrl.agents.networks.tasks import TaskInput, TaskSpec
from mtrl.agents.networks.trunk import Trunk
from mtrl.agents.networks.unshared import Unshared

__all__ = [
    "CNN",
    "MLP",
    "Conditioning",
    "Embedding",
    "Film",
    "Head",
    "HeadConfig",
    "MixtureOfExperts",
    "MultiTaskNetwork",
    "NetworkConfig",
    "OneHot",
    "ParameterCompositions",
    "PerTask",
    "Shared",
    "SoftModules",
    "TaskInput",
    "TaskParameters",
    "TaskSpec",
    "Trunk",
    "TrunkConfig",
    "Unshared",
    "orthonormal",
]
