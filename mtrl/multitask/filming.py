"""Episodes of a multi-task agent, kept so that they can be filmed."""

from typing import Any

import numpy as np

from mtrl.evaluation.filming import Episode
from mtrl.multitask.tasks import evaluation_env
from mtrl.multitask.trained import TrainedAgent
from mtrl.seeding import numpy_generator

__all__ = ["play_each"]


def play_each(trained: TrainedAgent, seed: int) -> list[Episode]:
    """Play an episode of every task without exploration, the first that an evaluation plays."""
    first = int(numpy_generator(seed, "evaluation").integers(2**31))
    env = evaluation_env(trained.config, trained.family, trained.tasks, 1, first)
    episodes = [Episode(seed=first + place) for place in range(len(trained.tasks))]
    observations: Any = env.reset()
    running = np.ones(len(episodes), np.bool_)
    while running.any():
        actions, _ = trained.agent.predict(observations, deterministic=True)
        observations, _, dones, _ = env.step(actions)
        rewards = env.get_original_reward()
        for place in running.nonzero()[0].tolist():
            episodes[place].actions.append(np.asarray(actions[place]))
            episodes[place].total += float(rewards[place])
        running &= ~dones
    env.close()
    return episodes
