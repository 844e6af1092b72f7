"""What the MuJoCo families share: a robot of Gymnasium's, with the task in the reward or the model.

Observations, dynamics and falling are those of version 5 of Gymnasium's environment. Two things
differ: an episode is truncated after `horizon` steps, and the first states are drawn from Gymnasium's
distribution by `mtrl.envs.noise` rather than by Gymnasium's generator, so that one seed gives one
trajectory in every face.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.faces import FacedFamily
from mtrl.envs.ranged import RangedFamily
from mtrl.envs.robots.batch import Move, MujocoBatch, MujocoEpisodes
from mtrl.envs.robots.bodies import check_mujoco, gymnasium_model
from mtrl.envs.robots.robot import Robot
from mtrl.envs.task import Task
from mtrl.errors import MtrlError, UsageError

__all__ = ["Move", "MujocoFamily", "MujocoRenderer"]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class MujocoFamily(RangedFamily, FacedFamily):
    """A robot whose reward or model depends on the task. See `RangedFamily`.

    Args:
        horizon: steps after which an episode is truncated.
        terminate_when_unhealthy: whether a fall ends the episode.
        threads: how many step a batch; the processors that the process may use unless given. The
            numbers do not depend on it.
    """

    horizon: int = 200
    terminate_when_unhealthy: bool = True
    threads: int | None = None

    robot: ClassVar[Robot]
    render_modes: ClassVar[tuple[str, ...]] = ("human", "rgb_array")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads of {self.name!r} is {self.threads}; it must be at least 1")

    @abstractmethod
    def reward(self, params: Mapping[str, Array], move: Move) -> Array:
        """Return the rewards (slots,) of a step under `params`, one array (slots,) per name."""

    def model(self, task: Task) -> Any:
        """Return the model of `task`, not to be changed: here Gymnasium's."""
        return gymnasium_model(self.robot.gymnasium_id)[0]

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """Gymnasium's."""
        return gym.spaces.Box(-np.inf, np.inf, (self.robot.observation_size,), np.float64)

    @cached_property
    def action_space(self) -> gym.spaces.Box:
        """Gymnasium's: actuator controls. What lies outside is clipped by the actuators alone."""
        strength = self.robot.strength
        return gym.spaces.Box(-strength, strength, (self.robot.action_size,), np.float32)

    def check_installed(self) -> None:
        """Check that MuJoCo can be imported.

        Raises:
            MissingExtraError: it cannot.
        """
        check_mujoco(f"task family {self.name!r}")

    def slot_batch(self, tasks: Sequence[Task]) -> MujocoBatch:
        """Return a batch with one slot per task."""
        return MujocoBatch(self, tasks)

    def batch(
        self, tasks: Sequence[Task], *, repeats: int = 1, device: torch.device | str = "cpu"
    ) -> MujocoEpisodes:
        """Return a batch with `repeats` slots per task, task-major, simulated on the host.

        Raises:
            UsageError: there is no task, or one that is not of this family.
            MissingExtraError: MuJoCo is not installed.
        """
        self.check_installed()
        for task in set(tasks):
            self.parameters.check(task)
        return MujocoEpisodes(self, [task for task in tasks for _ in range(repeats)], device)

    def renderer(self, render_mode: str) -> "MujocoRenderer":
        """Return Gymnasium's own renderer."""
        return MujocoRenderer(self, render_mode)


class MujocoRenderer:
    """Draws a family's states with Gymnasium's environment; one window for all tasks."""

    def __init__(self, family: MujocoFamily, render_mode: str) -> None:
        self._family = family
        self._render_mode = render_mode
        self._env: Any = None

    def draw(self, task: Task, state: Array, action: Any) -> NDArray[np.uint8] | None:
        """Draw `state`: return the picture, or None where it is shown in a window.

        Raises:
            MtrlError: MuJoCo finds no way to draw.
        """
        try:
            picture = self._draw(state)
        except Exception as error:  # OpenGL fails in many ways, and none says what to do
            raise MtrlError(
                f"family {self._family.name!r} cannot be drawn here: {error!r}; without a screen, "
                "set the environment variable MUJOCO_GL to 'egl' or 'osmesa'"
            ) from error
        return None if picture is None else np.asarray(picture)

    def _draw(self, state: Array) -> Any:
        if self._env is None:
            name, mode = self._family.robot.gymnasium_id, self._render_mode
            self._env = gym.make(name, render_mode=mode, disable_env_checker=True).unwrapped
        positions = self._env.model.nq
        self._env.set_state(state[:positions], state[positions:])
        return self._env.render()

    def close(self) -> None:
        """Close Gymnasium's window."""
        if self._env is not None:
            self._env.close()
            self._env = None
