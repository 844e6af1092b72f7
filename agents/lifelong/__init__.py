"""A life without resets: reward as messages, a memory for each local goal, hooks for prior knowledge.

After Li 2020, Some Insights into Lifelong Reinforcement Learning Systems (arXiv:2001.09608).
"""

from mtrl.agents.lifelong.hooks import LeftFirst, Progress, SameAsNeighbours, Unbiased, unguided
from mtrl.agents.lifelong.life import Life, Probe
from mtrl.agents.lifelong.messages import Event, Message, RewardMachine
from mtrl.agents.lifelong.policy_pool import PolicyPool, PoolSettings
from mtrl.agents.lifelong.q_memory import QMemory, QSettings
from mtrl.agents.lifelong.worlds import HomeFood

__all__ = [
    "Event",
    "HomeFood",
    "LeftFirst",
    "Life",
    "Message",
    "PolicyPool",
    "PoolSettings",
    "Probe",
    "Progress",
    "QMemory",
    "QSettings",
    "RewardMachine",
    "SameAsNeighbours",
    "Unbiased",
    "unguided",
]
