"""What TensorBoard shows of a training of AQIL, once per episode."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from mtrl.agents.q_learning import QImitation
from mtrl.meta.watching import Charts
from mtrl.runs import Run

__all__ = ["CHARTS", "EpisodeLog"]

CHARTS: Charts = {
    "Q-imitation": {
        "Return of every episode": ["q_imitation/return"],
        "Regret to the expert": ["q_imitation/regret"],
        "Rewards of a step": ["q_imitation/environment_reward", "q_imitation/imitation_reward"],
        "Agreement with the expert": ["q_imitation/agreement"],
        "Level of the Q-values": ["q_imitation/q_level"],
        "Q-values before and after the switch": ["q_imitation/switch/q_.+"],
    }
}
"""The CUSTOM SCALARS page."""

SMOOTHING = 25
EVERY = 10
"""Of the states, those of each tenth step tell the Q-values' level."""
_RECORDED = {
    "q_imitation/imitation_reward": "imitation/reward",
    "q_imitation/agreement": "imitation/agreement",
}


class EpisodeLog(BaseCallback):
    """Logs each training episode in `run`, those of all environments in the order in which they end.

    Args:
        run: where to.
        expert_level: the expert's mean return, from which regret is counted.

    Attributes:
        returns: the true return of every episode so far.
    """

    def __init__(self, run: Run, expert_level: float) -> None:
        super().__init__()
        self.returns: list[float] = []
        self._run, self._expert_level = run, expert_level
        self._states: list[NDArray[Any]] = []

    @property
    def _agent(self) -> QImitation:
        assert isinstance(self.model, QImitation)
        return self.model

    def _on_training_start(self) -> None:
        """Log what happened at the switch, where one has just been."""
        self._states = []
        found = self._agent.progress.switch
        values = {
            f"q_imitation/switch/{name}": value
            for name, value in found.items()
            if name.startswith("q_") and isinstance(value, float)
        }
        if values:
            self._run.log(self.num_timesteps, values)

    def _on_step(self) -> bool:
        if self.n_calls % EVERY == 0:
            self._states.extend(self.locals["new_obs"])
        for info in self.locals["infos"]:
            if "episode" in info:
                self._log(float(info["episode"]["r"]), float(info["episode"]["l"]))
        return True

    def _log(self, episode_return: float, length: float) -> None:
        self.returns.append(episode_return)
        latest = float(np.mean(self.returns[-SMOOTHING:]))
        values = {
            "q_imitation/return": episode_return,
            "q_imitation/environment_reward": episode_return / length,
            "q_imitation/regret": self._expert_level - latest,
        }
        if self._agent.expert is not None:
            recorded = self._agent.logger.name_to_value
            values |= {
                tag: float(recorded[name]) for tag, name in _RECORDED.items() if name in recorded
            }
        if self._states:
            values["q_imitation/q_level"] = self._level(np.array(self._states))
            self._states = []
        self._run.log(self.num_timesteps, values)

    def _level(self, states: NDArray[Any]) -> float:
        with torch.no_grad():
            q_values = self._agent.q_net(self._agent.policy.obs_to_tensor(states)[0])
        return float(q_values.max(1).values.mean())
