"""RL² and PEARL, which adapt from episode to episode of a trial, and what they are trained with.

RL² learns on-policy and plays as many episodes in training as MAML. PEARL learns off-policy and plays one in
`PEARL_SHARE` of them, which is what it is for: its time goes into gradient steps on what it has seen.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import gymnasium as gym

from mtrl.agents.pearl.settings import PEARL
from mtrl.meta.pearl.config import PearlConfig
from mtrl.meta.recurrent.ppo import RL2
from mtrl.meta.recurrent.training import RecurrentConfig
from mtrl.meta.reinforcement import ReinforcementConfig, reinforcement_family

__all__ = ["PEARL_SHARE", "TRIAL_LEARNERS", "episodes_of", "trial_config"]

TRIAL_LEARNERS = ("rl2", "pearl")
PEARL_SHARE = 20
"""PEARL plays one in so many of MAML's episodes."""
RL2_TRIALS = 20
"""Of an iteration of RL²: fewer than MAML's episodes would make, and more iterations of them, as in trials on
navigation it learned more from as many steps so."""

_RL2: Mapping[str, RL2] = MappingProxyType(
    {"navigation2d": RL2(initial_std=0.5, min_std=0.05, final_learning_rate=1e-4)}
)
"""As `scripts/train_rl2_navigation2d.py`."""
_PEARL: Mapping[str, PEARL] = MappingProxyType({"navigation2d": PEARL()})
"""As `scripts/train_pearl_navigation2d.py`. Elsewhere the encoder is shown where a transition led, which says how
the dynamics differ if they do."""


def trial_config(name: str, base: ReinforcementConfig, episodes: int) -> Any:
    """Return the settings of "rl2" or "pearl" on the family of `base`; None where it has no form.

    Args:
        name: of the learner.
        base: MAML's settings.
        episodes: of a trial.
    """
    if name == "rl2":
        return _recurrent(base, episodes)
    actions = reinforcement_family(base).action_space
    return _pearl(base, episodes) if isinstance(actions, gym.spaces.Box) else None


def episodes_of(base: ReinforcementConfig) -> int:
    """Return the episodes that MAML plays in training."""
    rounds = base.learner.inner_steps + 1
    return base.iterations * base.tasks_per_batch * base.episodes_per_task * rounds


def _shared(base: ReinforcementConfig) -> dict[str, Any]:
    names = ("family", "preset", "family_options", "max_episode_steps", "train_tasks", "device")
    return {name: getattr(base, name) for name in names}


def _pace(base: ReinforcementConfig, iterations: int) -> dict[str, Any]:
    """Return `iterations`, with as many evaluations and checkpoints in them as `base` has in its own."""
    every = max(1, iterations * base.evaluate_every // base.iterations)
    return {"iterations": iterations, "evaluate_every": every, "checkpoint_every": every}


def _recurrent(base: ReinforcementConfig, episodes: int) -> RecurrentConfig:
    iterations = max(1, episodes_of(base) // (RL2_TRIALS * episodes))
    return RecurrentConfig(
        **_shared(base),
        **_pace(base, iterations),
        learner=_RL2.get(base.family, RL2()),
        tasks_per_batch=RL2_TRIALS,
        episodes_per_trial=episodes,
        test_tasks=base.test_tasks,
    )


def _pearl(base: ReinforcementConfig, episodes: int) -> PearlConfig:
    settings = PearlConfig(
        **_shared(base),
        learner=_PEARL.get(base.family, PEARL(next_observations=True)),
        tasks=80,
        tasks_per_collection=20,
        initial_episodes=5,
        prior_episodes=2,
        posterior_episodes=2,
        test_tasks=base.test_tasks,
        test_steps=max(1, episodes - 1),
    )
    first = settings.tasks * settings.initial_episodes
    each = settings.tasks_per_collection * (settings.prior_episodes + settings.posterior_episodes)
    iterations = max(1, (episodes_of(base) // PEARL_SHARE - first) // each)
    return replace(settings, **_pace(base, iterations))
