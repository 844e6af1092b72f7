"""The tasks, methods and settings of `mtrl reproduce incremental`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from mtrl.agents.incremental import (
    AGEM,
    EWC,
    L2,
    MAS,
    BehaviourCloningReplay,
    ColumnsTrunk,
    FineTune,
    OnlineEWC,
    PackNet,
    ProgressiveColumns,
    TaskSwitch,
)
from mtrl.agents.networks import MLP, OneHot, PerTask, Shared
from mtrl.incremental.config import IncrementalConfig, ListedTask, NetworkSettings
from mtrl.multitask.algorithms import PPO

__all__ = [
    "BASELINE",
    "FULL",
    "METHODS",
    "QUICK_SCALE",
    "TASKS",
    "Scale",
    "scratch_config",
    "sequence_config",
]

BASELINE = "fine-tuning"
METHODS: Mapping[str, Any] = MappingProxyType(
    {
        BASELINE: FineTune(),
        "L2": L2(coefficient=0.03),
        "EWC": EWC(coefficient=5.0),
        "online EWC": OnlineEWC(coefficient=5.0),
        "MAS": MAS(coefficient=0.2),
        "PackNet": PackNet(),
        "A-GEM": AGEM(),
        "cloning": BehaviourCloningReplay(),
        "columns": ProgressiveColumns(),
    }
)
"""What is compared, the baseline first."""

HORIZON = 200
_WALLS = {"wall_speed": 0.02, "openings": 3.0, "jump": 1.0}


def _pole(**changes: float) -> ListedTask:
    return ListedTask(family="cartpole", params={**changes}, low=20.0, high=float(HORIZON))


def _walls(**changes: float) -> ListedTask:
    return ListedTask(family="hexagon", params={**_WALLS, **changes}, low=40.0, high=float(HORIZON))


TASKS: Mapping[str, ListedTask] = MappingProxyType(
    {
        "pole": _pole(),
        "walls": _walls(),
        "reversed": _pole(force_mag=-10.0),
        "fast walls": _walls(wall_speed=0.025, gap=1.2),
        "long": _pole(length=1.0),
        "long reversed": _pole(length=1.0, force_mag=-10.0),
    }
)
"""What is learnt, in this order. A reversed motor asks for the opposite of what was learnt before."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is trained.

    Attributes:
        steps: environment steps of each task.
        seeds: agents of each method, and of the references.
        episodes: of each score.
    """

    steps: int
    seeds: int
    episodes: int


FULL = Scale(steps=20_480, seeds=5, episodes=20)
QUICK_SCALE = Scale(steps=1_024, seeds=2, episodes=2)

PPO_SETTINGS = PPO(
    learning_rate=2e-3,
    final_learning_rate=0.0,
    n_steps=32,
    batch_size=256,
    gamma=0.98,
    ent_coef=0.01,
)
_HIDDEN = (64, 64)


def sequence_config(scale: Scale, method: str, seed: int) -> IncrementalConfig:
    """Return the settings of `method`, a name in `METHODS`, on the whole sequence."""
    config = IncrementalConfig(
        families=("cartpole:wide-200", "hexagon:default"),
        family_options={"hexagon.horizon": HORIZON},
        tasks=dict(TASKS),
        steps_per_task=scale.steps,
        method=METHODS[method],
        # Each task's step sizes fall to zero, so that the last policy of a stage is a settled one.
        switch=TaskSwitch(learning_rate="reset"),
        algorithm=PPO_SETTINGS,
        network=NetworkSettings(
            trunk=MLP(hidden=_HIDDEN, activation="tanh"), conditioning=OneHot(), head=Shared()
        ),
        score="scaled",
        eval_episodes=scale.episodes,
        eval_actions="drawn",
        evaluate_every=max(1, scale.steps // 8),
        log_every=scale.steps,
        checkpoint_every=scale.steps,
        seed=seed,
    )
    if not isinstance(config.method, ProgressiveColumns):
        return config
    columns = ColumnsTrunk(hidden=_HIDDEN, activation="tanh")
    return replace(config, network=NetworkSettings(trunk=columns, head=PerTask()))


def scratch_config(scale: Scale, task: str, seed: int) -> IncrementalConfig:
    """Return the settings of the reference that learns `task` only, from scratch, with the same network."""
    return replace(sequence_config(scale, BASELINE, seed), order=(task,))
