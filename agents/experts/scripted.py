"""The scripted expert of a task: told the task's physics, as a demonstrator would know them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.agents.experts.cartpole import CartPoleExpert
from mtrl.agents.experts.expert import Expert
from mtrl.agents.experts.heuristics import MountainCarContinuousExpert, MountainCarExpert
from mtrl.agents.experts.pendulum import PendulumExpert, PendulumPhysics
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["scripted_expert", "scripted_families"]

Torques = NDArray[Any] | None


def scripted_expert(task: Task, torques: Torques = None) -> Expert:
    """Return the expert of one task.

    Args:
        task: of one of `scripted_families`.
        torques: of a pendulum with choices, those of its family's `torque_choices`.

    Raises:
        UsageError: nobody has scripted an expert for that family; the message lists the known ones.
    """
    if task.family not in _EXPERTS:
        raise UsageError(
            f"there is no scripted expert for family {task.family!r}; there are those for "
            f"{', '.join(_EXPERTS)}. Train one and take model_expert or policy_expert"
        )
    if torques is not None and task.family != "pendulum":
        raise UsageError(f"torques are those of a pendulum, and the task is of {task.family!r}")
    return _EXPERTS[task.family](task, torques)


def scripted_families() -> list[str]:
    """Return the families that `scripted_expert` has an expert for."""
    return list(_EXPERTS)


def _value(task: Task, name: str) -> float:
    return float(np.asarray(task.params[name]))


def _pendulum(task: Task, torques: Torques) -> Expert:
    physics = {name: _value(task, name) for name in ("g", "l", "max_torque")}
    return PendulumExpert(torques, physics=PendulumPhysics(**physics))


_EXPERTS: Mapping[str, Callable[[Task, Torques], Expert]] = MappingProxyType(
    {
        "cartpole": lambda task, _: CartPoleExpert(reversed_motor=_value(task, "force_mag") < 0),
        "mountaincar": lambda task, _: MountainCarExpert(reversed_motor=_value(task, "force") < 0),
        "mountaincar-continuous": lambda task, _: MountainCarContinuousExpert(
            reversed_motor=_value(task, "power") < 0
        ),
        "pendulum": _pendulum,
    }
)
