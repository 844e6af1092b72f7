"""Trained policies as experts: those of Stable-Baselines3, and ours."""

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.actions import to_space
from mtrl.errors import UsageError
from mtrl.nets import Params
from mtrl.policies import Categorical, Gaussian, Policy

__all__ = ["PolicyExpert", "model_expert", "policy_expert"]


class Predicting(Protocol):
    """A model of Stable-Baselines3 or of sb3-contrib without recurrent state."""

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, Any]: ...


class PolicyExpert:
    """Whoever a function from observations to actions describes.

    Args:
        choose: from observations (slots, ...) to actions (slots, ...) of the environment's space.
    """

    def __init__(self, choose: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._choose = choose

    def actions(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return an action for each of `observations` (slots, ...).

        Raises:
            UsageError: the function gave another number of actions.
        """
        actions = np.asarray(self._choose(observations))
        if actions.shape[:1] != (len(observations),):
            raise UsageError(
                f"the policy gave actions of shape {actions.shape} for {len(observations)} observations"
            )
        return actions


def model_expert(model: Predicting) -> PolicyExpert:
    """Return a model of Stable-Baselines3 as an expert that does what it holds best.

    Raises:
        UsageError: when asked, if the model is recurrent: it would need the states of its episodes.
    """

    def choose(observations: NDArray[Any]) -> NDArray[Any]:
        actions, state = model.predict(observations, deterministic=True)
        if state is not None:
            raise UsageError("the model is recurrent; an expert has no memory of its states")
        return np.asarray(actions)

    return PolicyExpert(choose)


def policy_expert(policy: Policy, params: Params, action_space: gym.Space[Any]) -> PolicyExpert:
    """Return one of our policies as an expert that does what it holds best.

    Args:
        policy: of `mtrl.policies`.
        params: its parameters, without a task axis.
        action_space: of the environment.

    Raises:
        UsageError: an action space that our policies do not act in.
    """
    device = next(iter(params.values())).device
    scaled = to_space(action_space, device)

    def choose(observations: NDArray[Any]) -> NDArray[Any]:
        batch = torch.as_tensor(np.asarray(observations), dtype=torch.float32, device=device)
        one_task = {name: value.unsqueeze(0) for name, value in params.items()}
        with torch.no_grad():
            distribution = policy(one_task, batch.flatten(1).unsqueeze(0))
            found: NDArray[Any] = scaled(_best(distribution)[0]).cpu().numpy()
        return found

    return PolicyExpert(choose)


def _best(distribution: Any) -> torch.Tensor:
    if isinstance(distribution, Gaussian):
        return distribution.mean
    if isinstance(distribution, Categorical):
        return distribution.logits.argmax(-1)
    raise UsageError(f"the best of a {type(distribution).__name__} is unknown; give its function")
