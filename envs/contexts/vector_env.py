"""The Gymnasium vector face of a `ContextFamily`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mtrl.envs.contexts.env import ContextEnv
from mtrl.envs.family import TaskSource
from mtrl.errors import UsageError

if TYPE_CHECKING:
    from mtrl.envs.contexts.family import ContextFamily

__all__ = ["ContextVectorEnv"]


class ContextVectorEnv(SyncVectorEnv):
    """Sub-environments of one family, reset in the step that ends their episode (SAME_STEP).

    Args:
        family: the environment and what varies in it.
        sources: per sub-environment a task, or the split to draw tasks from.
        seed: that of the first reset, if none is given there; sub-environment i has seed + i.
    """

    def __init__(
        self, family: "ContextFamily", sources: Sequence[TaskSource], *, seed: int | None = None
    ) -> None:
        if not sources:
            raise UsageError("tasks is empty; give one task (or split) per environment")
        envs = [ContextEnv(family, source) for source in sources]
        super().__init__(
            [lambda env=env: env for env in envs],  # type: ignore[misc]  # each lambda its own
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        self.family = family
        self._first_seed = seed

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode everywhere; `options={"task": task}` chooses one task for all."""
        seed = self._first_seed if seed is None else seed
        self._first_seed = None
        given = seed if seed is None or isinstance(seed, int) else list(seed)
        if isinstance(given, list) and len(given) != self.num_envs:
            raise UsageError(f"seed has {len(given)} entries; give one, or {self.num_envs}")
        return super().reset(seed=given, options=options)
