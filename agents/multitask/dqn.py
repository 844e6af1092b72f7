"""DQN for many tasks (Mnih et al. 2015), as Stable-Baselines3 has it, with double Q-learning as an option."""

from typing import ClassVar

import gymnasium as gym
from stable_baselines3.common.policies import BasePolicy

from mtrl.agents.multitask.off_policy import MultiTaskOffPolicyAlgorithm
from mtrl.agents.policies import MultiTaskQPolicy
from mtrl.agents.q_learning import DeepQ

__all__ = ["MultiTaskDQN"]


class MultiTaskDQN(MultiTaskOffPolicyAlgorithm, DeepQ):
    """Stable-Baselines3's DQN on a `MultiTaskVecEnv`; the update is the parent's own.

    `options` of `DeepQ` change the loss; those that need its own replay buffer are refused.

    What it adds: minibatches in which the tasks have equal shares, a part of the replay buffer for
    each task, task weights that an objective moves, and returns logged per task. Arguments are those of
    `MultiTaskOffPolicyAlgorithm`, whose settings are `DeepQ`'s; "MultiTaskPolicy" is `MultiTaskQPolicy`.
    """

    acts_in = (gym.spaces.Discrete,)
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **DeepQ.policy_aliases,
        "MultiTaskPolicy": MultiTaskQPolicy,
    }
