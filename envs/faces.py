"""The environments of a family that simulates: written once, for every such family.

They are a Gymnasium environment, a Gymnasium vector environment and a Stable-Baselines3 `VecEnv`.
The same seed gives the same numbers in all of them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtrl.envs.family import TaskSource
from mtrl.envs.gym_env import BatchedGymEnv
from mtrl.envs.simulation import Simulation
from mtrl.envs.vector_env import BatchedVectorEnv

if TYPE_CHECKING:
    from mtrl.envs.sb3_env import BatchedVecEnv

__all__ = ["FacedFamily"]


class FacedFamily(Simulation):
    """A simulation with environments.

    A task source is a task, or `"train"` or `"test"` for a new task of that split at every reset.
    """

    def make(self, task: TaskSource, render_mode: str | None = None) -> BatchedGymEnv:
        """Return a Gymnasium environment of `task`."""
        return BatchedGymEnv(self, task, render_mode=render_mode)

    def make_vec(self, tasks: Sequence[TaskSource], seed: int | None = None) -> BatchedVectorEnv:
        """Return a Gymnasium vector environment, one sub-environment per task source.

        `seed` is that of the first reset, as if it were given there.
        """
        return BatchedVectorEnv(self, tasks, seed=seed)

    def make_sb3(self, tasks: Sequence[TaskSource], seed: int | None = None) -> "BatchedVecEnv":
        """Return a Stable-Baselines3 `VecEnv`, one sub-environment per task source."""
        # Stable-Baselines3 takes seconds to import, and most users of a family do without it.
        from mtrl.envs.sb3_env import BatchedVecEnv

        return BatchedVecEnv(self, tasks, seed=seed)
