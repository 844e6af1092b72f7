"""Deep Q-learning with more than Stable-Baselines3's DQN, and its start from an expert.

- `DeepQ`: double, n-step, prioritised, soft and large-margin Q-learning as options of DQN.
- `QImitation`: AQIL, SQIL and DQfD on it, in two phases, with what passes over stated in `CarryOver`.
"""

from mtrl.agents.q_learning.batch import ReplayBatch, Successors
from mtrl.agents.q_learning.budget import Budget
from mtrl.agents.q_learning.carry_over import CarryOver
from mtrl.agents.q_learning.dqn import DeepQ, LossTerms
from mtrl.agents.q_learning.features import ScaledFeatures
from mtrl.agents.q_learning.graded_reward import GradedReward
from mtrl.agents.q_learning.imitation import QImitation
from mtrl.agents.q_learning.methods import Aqil, Dqfd, Method, Sqil, sqil_hard_max
from mtrl.agents.q_learning.options import DeepQOptions
from mtrl.agents.q_learning.plans import Mode, Plan
from mtrl.agents.q_learning.prioritized import PrioritizedReplayBuffer, PrioritySettings
from mtrl.agents.q_learning.progress import Phase, Progress
from mtrl.agents.q_learning.replay import QReplayBuffer, ReplaySettings
from mtrl.agents.q_learning.transitions import Transitions

__all__ = [
    "Aqil",
    "Budget",
    "CarryOver",
    "DeepQ",
    "DeepQOptions",
    "Dqfd",
    "GradedReward",
    "LossTerms",
    "Method",
    "Mode",
    "Phase",
    "Plan",
    "PrioritizedReplayBuffer",
    "PrioritySettings",
    "Progress",
    "QImitation",
    "QReplayBuffer",
    "ReplayBatch",
    "ReplaySettings",
    "ScaledFeatures",
    "Sqil",
    "Successors",
    "Transitions",
    "sqil_hard_max",
]
