"""Experts: whoever can be asked what to do in a state, scripted or trained."""

from mtrl.agents.experts.cartpole import PAPER_GAINS, CartPoleExpert
from mtrl.agents.experts.expert import Expert, Remembering, restart
from mtrl.agents.experts.heuristics import (
    BipedalWalkerExpert,
    LunarLanderExpert,
    MountainCarContinuousExpert,
    MountainCarExpert,
)
from mtrl.agents.experts.pendulum import PendulumExpert
from mtrl.agents.experts.pid import PID, Derivative, Gains
from mtrl.agents.experts.policy import PolicyExpert, model_expert, policy_expert
from mtrl.agents.experts.scripted import scripted_expert, scripted_families
from mtrl.agents.experts.tasks import TaskExperts

__all__ = [
    "PAPER_GAINS",
    "PID",
    "BipedalWalkerExpert",
    "CartPoleExpert",
    "Derivative",
    "Expert",
    "Gains",
    "LunarLanderExpert",
    "MountainCarContinuousExpert",
    "MountainCarExpert",
    "PendulumExpert",
    "PolicyExpert",
    "Remembering",
    "TaskExperts",
    "model_expert",
    "policy_expert",
    "restart",
    "scripted_expert",
    "scripted_families",
]
