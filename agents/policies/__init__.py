"""Networks for many tasks as Stable-Baselines3 policies, told of the task by the observation."""

from mtrl.agents.policies.actor_critic import MultiTaskActorCriticPolicy
from mtrl.agents.policies.multitask_policy import MultiTaskPolicy
from mtrl.agents.policies.observation import TaskObservation
from mtrl.agents.policies.q_policy import MultiTaskQPolicy
from mtrl.agents.policies.sac_policy import MultiTaskSACPolicy

__all__ = [
    "MultiTaskActorCriticPolicy",
    "MultiTaskPolicy",
    "MultiTaskQPolicy",
    "MultiTaskSACPolicy",
    "TaskObservation",
]
