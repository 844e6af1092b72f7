"""An agent of Q-imitation, an expert and demonstrations that are small enough for tests."""

import numpy as np
from replay_steps import recorded
from stable_baselines3.common.env_util import make_vec_env

from mtrl.agents.q_learning import Budget, QImitation

SMALL = {
    "buffer_size": 400,
    "learning_starts": 10,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "target_update_interval": 40,
    "policy_kwargs": {"net_arch": [16]},
    "seed": 1,
    "device": "cpu",
}


class Balance:
    """Pushes under the pole, and remembers what it was asked and told."""

    def __init__(self):
        self.seen, self.ended = [], []

    def actions(self, observations):
        self.seen.append(np.array(observations))
        return (observations[:, 2] + 0.5 * observations[:, 3] > 0).astype(int)

    def restart(self, ended):
        self.ended.append(np.array(ended))


def agent(method=None, envs=1, env=None, policy="MlpPolicy", **other):
    env = make_vec_env("CartPole-v1", envs) if env is None else env
    return QImitation(policy, env, method=method, **(SMALL | other))


def demonstrations(count=40):
    """Return steps whose numbers look like cart-pole's."""
    given, rng = recorded(count, terminated=[count // 2]), np.random.default_rng(0)
    given.observations = rng.normal(size=(count, 4)).astype(np.float32)
    given.next_observations = rng.normal(size=(count, 4)).astype(np.float32)
    given.actions = (given.observations[:, 2] > 0).astype(np.int64)
    given.rewards = np.ones(count)
    return given


def pretrained(steps=60, envs=1, **other):
    return agent(envs=envs, **other).pretrain(Budget(steps=steps), expert=Balance())
