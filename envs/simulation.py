"""What the faces of a family need: a description of it, and batches of slots on the host.

A slot is one environment with its own task, seed and episode. `mtrl.envs.dynamics` gives families
such batches for functions of tensors, `mtrl.envs.robots.batch` for simulated bodies.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.envs.parameters import ParameterSpace, TaskStream
from mtrl.envs.task import Split, Task

__all__ = ["Renderer", "Simulation", "SlotBatch", "StepResult", "SupportsNext"]


class StepResult(NamedTuple):
    """One step of all slots, the slots first."""

    obs: NDArray[Any]
    reward: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which slots' episodes are over: terminated or truncated."""
        return self.terminated | self.truncated


class SlotBatch(Protocol):
    """Slots on the CPU, in NumPy, every one of them always running; `reset` comes first.

    A face resets a slot in the step that ends it, or refuses to step it again. What the methods
    return is the caller's own.
    """

    episodes: NDArray[np.int64]
    """Which episode of its seed each slot is in."""

    @property
    def state(self) -> NDArray[Any]:
        """What the family's renderer draws, the slots first."""

    def set_tasks(self, slots: Sequence[int], tasks: Sequence[Task]) -> None:
        """Give these slots other tasks, just before their next reset."""

    def reset(self, seeds: NDArray[np.int64], episodes: NDArray[np.int64]) -> NDArray[Any]:
        """Begin these episodes of these seeds, one per slot, and return the observations."""

    def reset_slots(self, slots: NDArray[np.intp]) -> NDArray[Any]:
        """Begin the next episode in these slots and return their observations."""

    def step(self, action: NDArray[Any]) -> StepResult:
        """Apply one action per slot."""

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values): all that steps and resets depend on beside the tasks."""

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken of a batch with the same tasks.

        Raises:
            CheckpointError: the state is not one of such a batch.
        """


class Renderer(Protocol):
    """Draws states: what `Simulation.renderer` returns."""

    def draw(self, task: Task, state: NDArray[Any], action: Any) -> NDArray[np.uint8] | None:
        """Draw one slot's state and the action that led to it, None after a reset."""

    def close(self) -> None:
        """Close windows, if there are any."""


class SupportsNext(Protocol):
    """Draws tasks one by one: what `Simulation.task_stream` returns."""

    def next(self, split: Split) -> Task:
        """Draw a task of `split`."""

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values) for a checkpoint."""

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""


class Simulation(ABC):
    """A task family that simulates its environments itself; see `mtrl.envs.faces`."""

    name: ClassVar[str]
    render_modes: ClassVar[tuple[str, ...]] = ()
    render_fps: ClassVar[int] = 10
    horizon: int

    @property
    def splits_overlap(self) -> bool:
        """Whether train and test tasks are the same by design."""
        return self.parameters.split_rule == "shared"

    @property
    @abstractmethod
    def observation_space(self) -> gym.spaces.Box:
        """The space of one slot's observation."""

    @property
    @abstractmethod
    def action_space(self) -> gym.Space[Any]:
        """The space of one slot's action."""

    @property
    @abstractmethod
    def parameters(self) -> ParameterSpace:
        """The distribution of the tasks."""

    @abstractmethod
    def slot_batch(self, tasks: Sequence[Task]) -> SlotBatch:
        """Return a batch with one slot per task; the caller has checked the tasks."""

    @abstractmethod
    def renderer(self, render_mode: str) -> Renderer:
        """Return what draws states in `render_mode`, one of `render_modes`."""

    def check_installed(self) -> None:  # noqa: B027  most families need nothing more
        """Check that the packages that this family's environments need are installed.

        Raises:
            MissingExtraError: one is not.
        """

    def sample(self, n: int, rng: np.random.Generator, split: Split) -> list[Task]:
        """Draw `n` tasks of `split`."""
        return self.parameters.sample(n, rng, split)

    def task_stream(self, rng: np.random.Generator) -> SupportsNext:
        """Return what draws, task by task, those that `sample(1, rng, split)` would draw."""
        if type(self).sample is not Simulation.sample:
            return _Samples(self, rng)  # a family that draws its tasks in its own way
        return TaskStream(self.parameters, rng)

    def sample_params(
        self, n: int, rng: np.random.Generator, split: Split
    ) -> dict[str, NDArray[np.float32]]:
        """Draw what `sample` draws from the same generator, as parameters stacked by name."""
        return self.parameters.sample_params(n, rng, split)

    def context(self, task: Task) -> NDArray[np.float32]:
        """Return what tells this task from others as a float32 vector."""
        return self.parameters.vector(task)


class _Samples:
    def __init__(self, family: Simulation, rng: np.random.Generator) -> None:
        self._family, self._rng = family, rng

    def next(self, split: Split) -> Task:
        return self._family.sample(1, self._rng, split)[0]

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], values: dict[str, Any]) -> None:
        self._rng.bit_generator.state = values["rng"]
