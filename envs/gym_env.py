"""The Gymnasium face of a family with batched dynamics: one slot."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from mtrl.envs.family import TaskSource
from mtrl.envs.simulation import Simulation
from mtrl.envs.slots import Slots, check_source
from mtrl.envs.task import Task
from mtrl.errors import UsageError

__all__ = ["BatchedGymEnv"]


class BatchedGymEnv(gym.Env[NDArray[np.float32], Any]):
    """One environment of `family`; `info["task_id"]` names the task on every reset and step.

    `reset(options={"task": task})` plays that task for one episode; the next one comes from the
    source again. `reset(seed=s)` begins a reproducible sequence of episodes, of tasks as well
    where they are drawn.

    Args:
        family: what simulates the environments.
        source: a task, or the split to draw a task from at every reset.
        render_mode: one of the family's `render_modes`, or None.
    """

    observation_space: gym.Space[Any]

    def __init__(
        self, family: Simulation, source: TaskSource, *, render_mode: str | None = None
    ) -> None:
        if render_mode is not None and render_mode not in family.render_modes:
            raise UsageError(
                f"render_mode is {render_mode!r}; family {family.name!r} has "
                f"{list(family.render_modes)} and None"
            )
        self.metadata = {"render_modes": list(family.render_modes), "render_fps": family.render_fps}
        self.render_mode = render_mode
        self.family = family
        self.observation_space = family.observation_space
        self.action_space = family.action_space
        self._slots = Slots(family, [source])
        self._renderer = None if render_mode is None else family.renderer(render_mode)
        self._last_action: Any = None
        self._over = False

    @property
    def task(self) -> Task:
        """The task of the current episode.

        Raises:
            UsageError: there is none before the first reset.
        """
        if not self._slots.tasks:
            raise UsageError(f"environment of {self.family.name!r} has no task before reset()")
        return self._slots.tasks[0]

    def set_task_source(self, source: TaskSource) -> None:
        """Take the tasks of the next episodes from `source`; the current episode goes on."""
        self._slots.sources[0] = check_source(self.family, source)

    def _info(self) -> dict[str, Any]:
        return {"task_id": self.task.id}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode; `options={"task": task}` chooses its task."""
        super().reset(seed=seed)
        if seed is None and self._slots.seeds[0] is None:
            seed = self.np_random_seed
        obs = self._slots.reset([seed], [self._slots.option_task(options)])
        self._over, self._last_action = False, None
        self._show()
        return obs[0], self._info()

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply `action`; one outside a bounded space is clipped by the family.

        Raises:
            UsageError: the episode is over or was never begun, or the action has the wrong shape or
                is not finite.
        """
        if self._over:
            raise UsageError(
                f"environment of family {self.family.name!r}, task {self.task.id}: "
                "the episode is over; call reset()"
            )
        result = self._slots.step([action])
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        self._over, self._last_action = terminated or truncated, action
        self._show()
        return result.obs[0], float(result.reward[0]), terminated, truncated, self._info()

    def _show(self) -> None:
        if self.render_mode == "human":
            self.render()

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture of the current state, or None without one to return.

        Raises:
            MissingExtraError: the family is drawn by a package that is not installed.
        """
        if self._renderer is None:
            return None
        return self._renderer.draw(self.task, self._slots.env.state[0], self._last_action)

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
