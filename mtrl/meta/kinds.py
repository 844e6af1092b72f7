"""The kinds of run, by the name that the command line and a run's manifest give them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from mtrl.errors import UsageError
from mtrl.meta.distributed import Processes
from mtrl.meta.pearl.config import PearlConfig, pearl_family, pearl_tasks
from mtrl.meta.recurrent.training import (
    RecurrentConfig,
    build_recurrent_policy,
    meta_train_recurrent,
    recurrent_family,
)
from mtrl.meta.reinforcement import (
    ReinforcementConfig,
    build_policy,
    meta_train_reinforcement,
    seen_episodes,
)
from mtrl.meta.supervised import (
    SupervisedConfig,
    build_regressor,
    meta_train_supervised,
    seen_points,
)
from mtrl.meta.task_source import TrainingTasks, chosen_tasks
from mtrl.multitask.config import MultiTaskConfig
from mtrl.runs import Run
from mtrl.seeding import numpy_generator, torch_generator

if TYPE_CHECKING:
    from mtrl.incremental.config import IncrementalConfig

__all__ = ["KINDS", "Kind", "check_device", "get_kind", "kind_of"]


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
        name: on the command line and in the manifest.
        settings: returns the dataclass of its settings.
        check: raises UsageError if settings cannot be carried out, before anything is written.
        train: trains as the settings say in an open run, and returns what it made.
        train_together: the same in each of several processes that share a run; None if there is no such way.
    """

    name: str
    settings: Callable[[], type[Any]]
    check: Callable[[Any], None]
    train: Callable[[Any, Run], Any]
    train_together: Callable[[Any, Run, Processes], Any] | None = None

    @cached_property
    def config(self) -> type[Any]:
        """The dataclass of its settings, imported when first asked for."""
        return self.settings()


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
    family = seen_points(config)
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    chosen_tasks(config, family, TrainingTasks(family, config.train_tasks, held_out))
    build_regressor(config, family).initial(torch_generator(config.seed, "initial"))


def _check_reinforcement(config: ReinforcementConfig) -> None:
    check_device(config.device)
    family = seen_episodes(config)
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    chosen_tasks(config, family, TrainingTasks(family, config.train_tasks, held_out))
    build_policy(config, family).initial(torch_generator(config.seed, "initial"))


def _check_recurrent(config: RecurrentConfig) -> None:
    check_device(config.device)
    family = recurrent_family(config)
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    TrainingTasks(family, config.train_tasks, held_out)
    build_recurrent_policy(config, family)


def _check_pearl(config: PearlConfig) -> None:
    check_device(config.device)
    family = pearl_family(config)
    held_out = family.sample(config.test_tasks, numpy_generator(config.seed, "test tasks"), "test")
    pearl_tasks(config, family, held_out)


def _train_pearl(config: PearlConfig, run: Run) -> Any:
    # As for multi-task runs.
    from mtrl.meta.pearl.training import train_pearl

    return train_pearl(config, run)


def _check_multitask(config: MultiTaskConfig) -> None:
    # Stable-Baselines3 takes seconds to import, and the other kinds do without it.
    from mtrl.multitask.tasks import build_agent, multitask_family, train_tasks, training_env

    check_device(config.device)
    family = multitask_family(config)
    build_agent(config, training_env(config, family, train_tasks(config, family)))


def _incremental_config() -> type["IncrementalConfig"]:
    from mtrl.incremental.config import IncrementalConfig

    return IncrementalConfig


def _check_incremental(config: "IncrementalConfig") -> None:
    from mtrl.incremental.tasks import check_plan

    check_device(config.device)
    check_plan(config)


def _train_incremental(config: "IncrementalConfig", run: Run) -> Any:
    from mtrl.incremental.training import train_incremental

    return train_incremental(config, run)


def _train_multitask(config: MultiTaskConfig, run: Run) -> Any:
    from mtrl.multitask.training import train_multitask

    return train_multitask(config, run)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "supervised",
            lambda: SupervisedConfig,
            _check_supervised,
            meta_train_supervised,
            meta_train_supervised,
        ),
        Kind(
            "rl",
            lambda: ReinforcementConfig,
            _check_reinforcement,
            meta_train_reinforcement,
            meta_train_reinforcement,
        ),
        Kind("recurrent", lambda: RecurrentConfig, _check_recurrent, meta_train_recurrent),
        Kind("pearl", lambda: PearlConfig, _check_pearl, _train_pearl),
        Kind("multitask", lambda: MultiTaskConfig, _check_multitask, _train_multitask),
        # Last: what looks a kind up by its settings need not import this one's.
        Kind("incremental", _incremental_config, _check_incremental, _train_incremental),
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


def kind_of(config: Any) -> Kind:
    """Return the kind of run that `config` has the settings of."""
    return next(kind for kind in KINDS.values() if isinstance(config, kind.config))
