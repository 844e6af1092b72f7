"""Scores for prioritised level replay, from the critic of whichever algorithm of Stable-Baselines3 learns.

Sources: Jiang et al. 2021 (arXiv:2010.03934), table 1: the L1 value loss where advantages are
estimated (PPO, A2C), the one-step error where only values are (DQN, SAC).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from mtrl.agents.multitask.ppo import MultiTaskPPO
from mtrl.envs.curricula.protocol import Proposal
from mtrl.envs.curricula.sb3_source import CurriculumVecEnv, find_curriculum_env
from mtrl.envs.curricula.scores import EpisodeScore, gae_score
from mtrl.errors import UsageError

__all__ = ["LevelScores"]


class LevelScores(BaseCallback):
    """Tells the curriculum of a `CurriculumVecEnv` how much was to be learnt from what it proposed.

    On-policy algorithms: after every rollout, the mean of |A_t| over each part of an episode in it.
    Others: when an episode ends, the mean of |r_t + discount V(s_{t+1}) - V(s_t)|, V being the value
    of the greedy action when the step was taken. Episodes that the curriculum did not propose are
    left out.

    Raises:
        UsageError: the algorithm's environment has no curriculum of scores, it has no critic, or
            the curriculum is robust and the algorithm none that leaves episodes out.
    """

    _env: CurriculumVecEnv

    def __init__(self) -> None:
        super().__init__()
        self._episodes: list[EpisodeScore] = []

    def _init_callback(self) -> None:
        found = find_curriculum_env(self.training_env)
        if found is None or found.curriculum.outcome != "score":
            raise UsageError(
                "the environment has no curriculum of scores; wrap it in CurriculumVecEnv with "
                "LevelReplay, or leave LevelScores out"
            )
        if found.selects and not isinstance(self.model, MultiTaskPPO):
            raise UsageError(
                f"robust level replay trains on replayed tasks only, and {type(self.model).__name__} "
                "trains on every step; use MultiTaskPPO, or set robust to False"
            )
        self._env = found
        self._on_policy = isinstance(self.model, OnPolicyAlgorithm)
        if not (self._on_policy or hasattr(self.model, "q_net") or hasattr(self.model, "critic")):
            raise UsageError(
                f"{type(self.model).__name__} has neither a rollout buffer, q_net nor critic; "
                "compute its scores with mtrl.envs.curricula.scores"
            )
        if len(self._episodes) != found.num_envs:
            self._episodes = [EpisodeScore() for _ in range(found.num_envs)]
        self._begin_rollout()

    def _begin_rollout(self) -> None:
        self._steps = 0
        self._playing = list(self._env.played)
        # (environment, first step, step after the last, proposal) of each part of an episode.
        self._parts: list[tuple[int, int, int, Proposal | None]] = []
        self._starts = [0] * self._env.num_envs

    def _on_rollout_start(self) -> None:
        self._begin_rollout()

    def _on_step(self) -> bool:
        self._steps += 1
        if not self._on_policy:
            self._see_errors()
        for slot in np.flatnonzero(self.locals["dones"]).tolist():
            if self._on_policy:
                self._end_part(slot)
            else:
                self._tell_episode(slot)
            self._playing[slot] = self._env.played[slot]
        return True

    def _on_rollout_end(self) -> None:
        if not self._on_policy:
            return
        for slot in range(self._env.num_envs):
            self._end_part(slot)
        buffer: Any = self.locals.get("rollout_buffer", getattr(self.model, "rollout_buffer", None))
        # Returns are advantages plus values, also where the buffer has normalised its advantages.
        advantages = buffer.returns - buffer.values
        for slot, start, end, played in self._parts:
            if played is not None:
                self._env.curriculum.update(played, gae_score(advantages[start:end, slot]))

    def _end_part(self, slot: int) -> None:
        if self._steps > self._starts[slot]:
            self._parts.append((slot, self._starts[slot], self._steps, self._playing[slot]))
        self._starts[slot] = self._steps

    # Without advantages

    def _see_errors(self) -> None:
        model: Any = self.model
        dones, infos = self.locals["dones"], self.locals["infos"]
        following = np.array(self.locals["new_obs"])
        ended = np.flatnonzero(dones).tolist()
        for slot in ended:
            following[slot] = self._normalised(infos[slot]["terminal_observation"])
        terminal = dones & ~np.array([info.get("TimeLimit.truncated", False) for info in infos])
        before, after = self._values(model._last_obs), self._values(following)
        targets = self.locals["rewards"] + model.gamma * np.where(terminal, 0, after)
        for episode, error in zip(self._episodes, np.abs(targets - before).tolist(), strict=True):
            episode.add(error, 1)

    def _normalised(self, observation: Any) -> Any:
        normalise = self.model.get_vec_normalize_env()
        return observation if normalise is None else normalise.normalize_obs(observation)

    def _values(self, observations: NDArray[Any]) -> NDArray[np.float64]:
        """Return the value (environments,) of the greedy action in each observation."""
        model: Any = self.model
        with torch.no_grad():
            seen, _ = model.policy.obs_to_tensor(observations)
            if hasattr(model, "q_net"):
                values: Tensor = model.q_net(seen).amax(1)
            else:
                actions = model.actor(seen, deterministic=True)
                values = torch.cat(model.critic(seen, actions), 1).amin(1)
        return values.double().cpu().numpy()

    def _tell_episode(self, slot: int) -> None:
        played, episode = self._playing[slot], self._episodes[slot]
        if played is not None and episode.steps:
            self._env.curriculum.update(played, episode.mean)
        self._episodes[slot] = EpisodeScore()

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return, in JSON's types, the scores of episodes under way; at the start of a rollout only."""
        return {"episodes": [[episode.mean, episode.steps] for episode in self._episodes]}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; before training begins."""
        self._episodes = [
            EpisodeScore(mean=float(mean), steps=int(steps)) for mean, steps in values["episodes"]
        ]
