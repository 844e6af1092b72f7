"""2-D navigation: move a point to a hidden goal.

Finn et al. 2017 (section 5.3) and Li et al. 2017 adapt policies to it. State and observation are
the position; an action in [-1, 1] per axis moves the point by a tenth of it. The reward is minus
the L2 distance to the goal AFTER the move. Both follow the authors' code
(github.com/cbfinn/maml_rl, point_env_randgoal.py under `normalize`). The MAML paper's text has the
squared distance, but its return of -40.41 before adaptation fits L2, with which standing still
returns -38.3, and not the square, with which it returns -16.7.

Task parameters, in units of length: `goal` (x, y), and `start` (x, y), which is the origin unless
it varies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.envs.batched import BatchedFamily
from mtrl.envs.dynamics import TensorParams
from mtrl.envs.family import FamilySpec
from mtrl.envs.parameters import ParameterSpace, Range
from mtrl.envs.task import Task, params_of
from mtrl.errors import UsageError

__all__ = ["GOAL_TOLERANCE", "HALF_WIDTH", "STEP_SIZE", "Navigation2D", "navigation2d"]

STEP_SIZE = 0.1
"""How far an action of 1 moves the point along its axis."""
HALF_WIDTH = 0.5
"""Goals and varying starts are uniform in the square of this half-width around the origin."""
GOAL_TOLERANCE = 0.01
"""The goal is reached when both coordinates are nearer to it than this."""


@dataclass(frozen=True, kw_only=True)
class Navigation2D(BatchedFamily):
    """The family; `terminate_at_goal` ends an episode once the goal is reached, as the code does.

    Args:
        varying_start: the start is drawn with the task, uniform in the goals' square.
        terminate_at_goal: end when both coordinates are within `GOAL_TOLERANCE` of the goal.
        horizon: steps after which an episode is truncated.
    """

    varying_start: bool = False
    terminate_at_goal: bool = False
    horizon: int = 100
    name: ClassVar[str] = "navigation2d"
    units: ClassVar[Mapping[str, str]] = {"goal": "length (x, y)", "start": "length (x, y)"}
    render_modes: ClassVar[tuple[str, ...]] = ("rgb_array",)

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise UsageError(f"horizon of 'navigation2d' is {self.horizon}; it must be at least 1")

    @cached_property
    def observation_space(self) -> gym.spaces.Box:
        """Positions; no action sequence leads outside."""
        # One step more than can be made, against the rounding of the sum.
        reach = HALF_WIDTH + STEP_SIZE * (self.horizon + 1)
        return gym.spaces.Box(-reach, reach, (2,), np.float32)

    @cached_property
    def action_space(self) -> gym.spaces.Box:
        """Velocities in units of `STEP_SIZE`; what lies outside is clipped."""
        return gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    @cached_property
    def parameters(self) -> ParameterSpace:
        """Uniform goals, and uniform starts if they vary."""
        square = Range(-HALF_WIDTH, HALF_WIDTH, size=2)
        origin = Range(0.0, 0.0, size=2)
        ranges = {"goal": square, "start": square if self.varying_start else origin}
        return ParameterSpace(self.name, ranges)

    def reset(self, params: TensorParams, noise: Tensor) -> Tensor:
        """Return the start positions, shaped (slots, 2)."""
        return params["start"]

    def step(
        self, params: TensorParams, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Move, then pay the distance to the goal."""
        position = state + STEP_SIZE * action.clamp(-1.0, 1.0)
        offset = position - params["goal"]
        x, y = offset.unbind(-1)
        # Written out: a norm's rounding may depend on the batch, a correctly rounded root cannot.
        reward = -torch.sqrt(x * x + y * y)
        if self.terminate_at_goal:
            return position, reward, (offset.abs() < GOAL_TOLERANCE).all(-1)
        return position, reward, torch.zeros_like(reward, dtype=torch.bool)

    def observe(self, params: TensorParams, state: Tensor) -> Tensor:
        """Return the positions: the goal is hidden."""
        return state

    def standing_still_returns(self, tasks: Sequence[Task]) -> NDArray[np.float64]:
        """Return each task's exact undiscounted return when the point never moves."""
        return self._returns(tasks, speed=0.0)

    def oracle_returns(self, tasks: Sequence[Task]) -> NDArray[np.float64]:
        """Return each task's exact highest undiscounted return.

        Both coordinates go to the goal at full speed: every distance is then the least possible.
        """
        return self._returns(tasks, speed=STEP_SIZE)

    def _returns(self, tasks: Sequence[Task], speed: float) -> NDArray[np.float64]:
        """Sum the distances when each coordinate nears the goal at `speed` until it is there."""
        params = params_of(tasks)
        offset = np.abs(params["goal"] - params["start"])[:, None, :]
        steps = np.arange(1, self.horizon + 1)[None, :, None]
        # Rounded, so that 0.3 - 3 * 0.1 is 0 and not just above it.
        left = np.maximum(np.round(offset - speed * steps, 12), 0.0)
        distance = np.linalg.norm(left, axis=-1)
        if self.terminate_at_goal:
            there = (left < GOAL_TOLERANCE).all(-1)
            ended_before = np.cumsum(there, axis=1) - there > 0
            distance = np.where(ended_before, 0.0, distance)
        return np.asarray(-distance.sum(axis=1))

    def render(self, task: Task, state: NDArray[Any]) -> NDArray[np.uint8]:
        """Draw the goals' square with the goal in red and the point in blue, 128 pixels wide."""
        image = np.full((128, 128, 3), 255, np.uint8)
        centres = (np.arange(128) + 0.5) / 64 - 1.0  # the picture spans [-1, 1] on both axes
        x, y = np.meshgrid(centres, -centres)
        image[np.maximum(abs(x), abs(y)) <= HALF_WIDTH] = 230
        goal = np.asarray(task.params["goal"])
        for (at_x, at_y), colour in ((goal, (200, 30, 30)), (np.clip(state, -1, 1), (30, 60, 200))):
            image[np.hypot(x - at_x, y - at_y) <= 0.05] = colour
        return image


navigation2d = FamilySpec(
    name="navigation2d",
    factory=Navigation2D,
    presets={"fixed-start": {}, "varying-start": {"varying_start": True}},
    summary="move a point to a hidden goal in the plane",
)
