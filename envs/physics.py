"""What the families of classic control share: Gymnasium's environment, with its constants varied.

A task sets attributes of the Gymnasium environment. At the values of `defaults` the dynamics are
those of `gymnasium_id`, and elsewhere those of that environment with the attributes set; Gymnasium
also draws the pictures.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from mtrl.envs.batched import BatchedFamily
from mtrl.envs.distributions import RangeSpec
from mtrl.envs.ranged import RangedFamily
from mtrl.envs.task import Task
from mtrl.errors import MissingExtraError

__all__ = ["GymnasiumRenderer", "PhysicsFamily", "RangeSpec"]


@dataclass(frozen=True, kw_only=True)
class PhysicsFamily(RangedFamily, BatchedFamily):
    """A Gymnasium environment of classic control, whose constants are task parameters.

    The defaults are Gymnasium's values. See `RangedFamily`.
    """

    gymnasium_id: ClassVar[str]
    dtype: ClassVar[torch.dtype] = torch.float64
    takes_numpy: ClassVar[bool] = True
    render_modes: ClassVar[tuple[str, ...]] = ("human", "rgb_array")
    notes: ClassVar[tuple[str, ...]] = (
        'rendering needs pygame: pip install "mtrl-suite[classic-control]"',
    )

    def attributes(self, task: Task) -> dict[str, Any]:
        """Return by name the attributes of Gymnasium's environment that make it this task."""
        return dict(task.params)

    def gymnasium_env(self, task: Task, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return Gymnasium's own environment with the attributes of `task`, without wrappers."""
        made = gym.make(self.gymnasium_id, render_mode=render_mode, disable_env_checker=True)
        self.set_attributes(made.unwrapped, task)
        return made.unwrapped

    def set_attributes(self, env: gym.Env[Any, Any], task: Task) -> None:
        """Make Gymnasium's environment that of `task`."""
        for name, value in self.attributes(task).items():
            setattr(env, name, value)

    def pose(self, env: Any, state: NDArray[Any], action: Any) -> None:
        """Put Gymnasium's environment in `state`, to which `action` has led."""
        env.state = state.copy()

    def renderer(self, render_mode: str) -> "GymnasiumRenderer":
        """Return Gymnasium's own renderer."""
        return GymnasiumRenderer(self, render_mode)


class GymnasiumRenderer:
    """Draws a family's states with Gymnasium's environment; one window for all tasks."""

    def __init__(self, family: PhysicsFamily, render_mode: str) -> None:
        self._family = family
        self._render_mode = render_mode
        self._env: gym.Env[Any, Any] | None = None

    def draw(self, task: Task, state: NDArray[Any], action: Any) -> NDArray[np.uint8] | None:
        """Draw `state`: return the picture, or None where it is shown in a window.

        Raises:
            MissingExtraError: pygame is not installed.
        """
        if self._env is None:
            self._env = self._family.gymnasium_env(task, self._render_mode)
        self._family.set_attributes(self._env, task)
        self._family.pose(self._env, state, action)
        try:
            picture = self._env.render()
        except DependencyNotInstalled as error:
            raise MissingExtraError(
                f"rendering {self._family.name!r} needs pygame; "
                'pip install "mtrl-suite[classic-control]"'
            ) from error
        return None if picture is None else np.asarray(picture)

    def close(self) -> None:
        """Close Gymnasium's window."""
        if self._env is not None:
            self._env.close()
            self._env = None
