"""The kinds of run, by the name that the command line and a run's manifest give them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mtrl.errors import UsageError
from mtrl.meta.reinforcement import (
    ReinforcementConfig,
    build_policy,
    meta_train_reinforcement,
    reinforcement_family,
)
from mtrl.meta.supervised import (
    SupervisedConfig,
    build_regressor,
    few_shot_family,
    meta_train_supervised,
)
from mtrl.meta.task_source import TrainingTasks
from mtrl.multitask.config import MultiTaskConfig
from mtrl.runs import Run
from mtrl.seeding import numpy_generator, torch_generator

__all__ = ["KINDS", "Kind", "check_device", "get_kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
        name: on the command line and in the manifest.
        config: the dataclass of its settings.
        check: raises UsageError if settings cannot be carried out, before anything is written.
        train: trains as the settings say in an open run, and returns what it made.
    """

    name: str
    config: type[Any]
    check: Callable[[Any], None]
    train: Callable[[Any, Run], Any]


def check_device(name: str) -> None:
    """Check that torch can use the device.

    Raises:
        UsageError: it cannot.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used ({reason}); use cpu") from error


def _check_supervised(config: SupervisedConfig) -> None:
    check_device(config.device)
    family = few_shot_family(config.family, config.preset)
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    TrainingTasks(family, config.train_tasks, held_out)
    build_regressor(config, family).initial(torch_generator(config.seed, "initial"))


def _check_reinforcement(config: ReinforcementConfig) -> None:
    check_device(config.device)
    family = reinforcement_family(config)
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    TrainingTasks(family, config.train_tasks, held_out)
    build_policy(config, family).initial(torch_generator(config.seed, "initial"))


def _check_multitask(config: MultiTaskConfig) -> None:
    # Stable-Baselines3 takes seconds to import, and the other kinds do without it.
    from mtrl.multitask.tasks import build_agent, multitask_family, train_tasks, training_env

    check_device(config.device)
    family = multitask_family(config)
    build_agent(config, training_env(config, family, train_tasks(config, family)))


def _train_multitask(config: MultiTaskConfig, run: Run) -> Any:
    from mtrl.multitask.training import train_multitask

    return train_multitask(config, run)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("supervised", SupervisedConfig, _check_supervised, meta_train_supervised),
        Kind("rl", ReinforcementConfig, _check_reinforcement, meta_train_reinforcement),
        Kind("multitask", MultiTaskConfig, _check_multitask, _train_multitask),
    )
}


def get_kind(name: str) -> Kind:
    """Return the kind called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in KINDS:
        raise UsageError(f"unknown kind of run {name!r}; there are {', '.join(KINDS)}")
    return KINDS[name]
