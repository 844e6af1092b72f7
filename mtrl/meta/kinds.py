"""The kinds of run, by the name that the command line and a run's manifest give them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mtrl.errors import UsageError
from mtrl.meta.parameters import MetaParams
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
        train: meta-trains as the settings say in an open run.
    """

    name: str
    config: type[Any]
    check: Callable[[Any], None]
    train: Callable[[Any, Run], MetaParams]


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


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("supervised", SupervisedConfig, _check_supervised, meta_train_supervised),
        Kind("rl", ReinforcementConfig, _check_reinforcement, meta_train_reinforcement),
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
