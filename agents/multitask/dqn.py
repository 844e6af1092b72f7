"""DQN for many tasks (Mnih et al. 2015), as Stable-Baselines3 has it."""

from typing import ClassVar

from stable_baselines3 import DQN
from stable_baselines3.common.policies import BasePolicy

from mtrl.agents.multitask.off_policy import MultiTaskOffPolicyAlgorithm
from mtrl.agents.policies import MultiTaskQPolicy

__all__ = ["MultiTaskDQN"]


class MultiTaskDQN(MultiTaskOffPolicyAlgorithm, DQN):
    """Stable-Baselines3's DQN on a `MultiTaskVecEnv`; the update is the parent's own.

    What it adds: minibatches in which the tasks have equal shares, a part of the replay buffer for
    each task, task weights that an objective moves, and returns logged per task. Arguments are those of
    `MultiTaskOffPolicyAlgorithm`, whose settings are `DQN`'s; "MultiTaskPolicy" is `MultiTaskQPolicy`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **DQN.policy_aliases,
        "MultiTaskPolicy": MultiTaskQPolicy,
    }
