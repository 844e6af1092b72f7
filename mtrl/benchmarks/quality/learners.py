"""The learners that are compared, by name, and their settings on each family.

A family that has no settings here gets the library's defaults, which train and are not tuned. The learners that
adapt within a trial are in `mtrl.benchmarks.quality.trial_learners`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from mtrl.benchmarks.quality.trial_learners import TRIAL_LEARNERS, trial_config
from mtrl.envs.family import FewShotFamily
from mtrl.envs.registry import get_family
from mtrl.errors import UsageError
from mtrl.meta.anil import ANIL
from mtrl.meta.baselines import FineTune, Oracle
from mtrl.meta.cavia import CAVIA
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.reinforcement import ReinforcementConfig
from mtrl.meta.reptile import Reptile
from mtrl.meta.supervised import SupervisedConfig
from mtrl.reproduce.adaptation import (
    CARTPOLE,
    HALFCHEETAH_DIRECTION,
    HALFCHEETAH_VELOCITY,
    PENDULUM,
)
from mtrl.reproduce.experiment import Config
from mtrl.reproduce.navigation import NAVIGATION_SETTINGS

__all__ = ["LEARNERS", "Base", "Contender", "check_learners", "contender", "default_settings"]


Base = SupervisedConfig | ReinforcementConfig
"""MAML's settings on a family, from which those of the others follow."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A learner on a family.

    Attributes:
        config: what it is trained with.
        trained: whether it is trained at all.
        adapting: whether it adapts at test.
        tuned: whether the step size at test is chosen once training is over.
    """

    config: Config
    trained: bool = True
    adapting: bool = True
    tuned: bool = False


LEARNERS: Mapping[str, str] = MappingProxyType(
    {
        "maml": "MAML",
        "fomaml": "first-order MAML",
        "anil": "ANIL",
        "cavia": "CAVIA",
        "meta-sgd": "Meta-SGD",
        "reptile": "Reptile",
        "rl2": "RL²",
        "pearl": "PEARL",
        "fine-tune": "fine-tuning",
        "scratch": "from scratch",
        "no-adaptation": "no adaptation",
        "oracle": "oracle",
    }
)
"""What each learner is called on pages, by its name on the command line."""

_BASELINES = ("fine-tune", "scratch", "no-adaptation", "oracle")

SINUSOID = SupervisedConfig(
    family="sinusoid",
    preset="maml",
    learner=MAML(step_size=0.01),
    hidden=(40, 40),
    shots=10,
    query_shots=10,
    tasks_per_batch=25,
    iterations=15_000,
    learning_rate=3e-3,
    schedule="cosine",
    compile="off",
)
"""As the sinusoid tables of `mtrl reproduce`, with fewer iterations."""

_SETTINGS: Mapping[str, Base] = MappingProxyType(
    {
        "sinusoid": SINUSOID,
        "navigation2d": NAVIGATION_SETTINGS["MAML"],
        "cartpole": replace(CARTPOLE, learner=MAML(step_size=0.5)),
        "pendulum": replace(PENDULUM, learner=MAML(step_size=0.5)),
        "halfcheetah-direction": replace(HALFCHEETAH_DIRECTION, learner=MAML(step_size=0.5)),
        "halfcheetah-velocity": replace(HALFCHEETAH_VELOCITY, learner=MAML(step_size=0.2)),
    }
)
_META_SGD: Mapping[str, MetaSGD] = MappingProxyType(
    {
        str(config.family): config.learner
        for config in (
            replace(SINUSOID, learner=MetaSGD(initial_step_size=(0.005, 0.1))),
            NAVIGATION_SETTINGS["Meta-SGD"],
            CARTPOLE,
            PENDULUM,
            HALFCHEETAH_DIRECTION,
            HALFCHEETAH_VELOCITY,
        )
        if isinstance(config.learner, MetaSGD)
    }
)


def check_learners(names: tuple[str, ...]) -> None:
    """Check that every name is that of a learner, once.

    Raises:
        UsageError: one is not, or comes twice.
    """
    for name in names:
        if name not in LEARNERS:
            raise UsageError(f"unknown learner {name!r}; there are {', '.join(LEARNERS)}")
    if len(set(names)) < len(names):
        raise UsageError(f"a learner comes twice in {', '.join(names)}; name each once")


def default_settings(family: str) -> Base:
    """Return MAML's settings on a family, from which those of the others follow.

    Raises:
        UsageError: there is no such family.
    """
    if family in _SETTINGS:
        return _SETTINGS[family]
    if isinstance(get_family(family), FewShotFamily):
        return SupervisedConfig(family=family, learner=MAML(step_size=0.01), compile="off")
    return ReinforcementConfig(family=family, learner=MAML(step_size=0.5))


def contender(name: str, base: Base, trial_episodes: int = 5) -> Contender | None:
    """Return the learner `name` on the family of `base`; None if it has no form there.

    The step size is that of `base` for all that are meta-trained to take MAML's steps; those that are not get one
    that is chosen for them. The learners without an inner loop get as many samples per iteration as the others,
    as more tasks.

    Args:
        name: of the learner.
        base: MAML's settings.
        trial_episodes: of a trial, for the learners that adapt within one.
    """
    if name in _BASELINES:
        return _baseline(name, base)
    if isinstance(base, ReinforcementConfig):
        if name == "reptile":
            return None
        if name in TRIAL_LEARNERS:
            config = trial_config(name, base, trial_episodes)
            return None if config is None else Contender(config=config)
    elif name in TRIAL_LEARNERS:
        return None
    return Contender(config=_with(base, learner=_MAKERS[name](base)))


def _with(base: Base, **changes: Any) -> Base:
    changed: Base = replace(base, **changes)
    return changed


def _baseline(name: str, base: Base) -> Contender:
    rounds = base.learner.inner_steps + 1
    tasks = base.tasks_per_batch * rounds
    if name == "oracle":
        return Contender(
            config=_with(base, learner=Oracle(), tasks_per_batch=tasks), adapting=False
        )
    # MAML's steps while it trains, which only its own curve shows: at test it takes those chosen for it.
    joint = _with(base, learner=FineTune(**_steps(base)), tasks_per_batch=tasks)
    return Contender(
        config=joint,
        trained=name != "scratch",
        adapting=name != "no-adaptation",
        tuned=name != "no-adaptation",
    )


def _steps(base: Base) -> dict[str, Any]:
    """Return the step size of `base` and what becomes of it later, as several learners spell it."""
    learner = base.learner
    if isinstance(learner, MAML | ANIL | FineTune):
        return {
            "step_size": learner.step_size,
            "later_step_scale": learner.later_step_scale,
        }
    return {}


def _meta_sgd(base: Base) -> MetaSGD:
    if base.family in _META_SGD:
        return _META_SGD[base.family]
    size = _steps(base).get("step_size", 0.1)
    return MetaSGD(initial_step_size=(size, size))


_MAKERS: Mapping[str, Callable[[Base], Any]] = MappingProxyType(
    {
        "maml": lambda base: MAML(**_steps(base)),
        "fomaml": lambda base: MAML(**_steps(base), first_order=True),
        "anil": lambda base: ANIL(**_steps(base)),
        "cavia": lambda base: CAVIA(later_step_scale=_steps(base).get("later_step_scale", 1.0)),
        "meta-sgd": _meta_sgd,
        "reptile": lambda base: Reptile(),
    }
)
