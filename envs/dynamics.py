"""Task families whose dynamics fit in tensors, and the batch that runs them on any device.

A family gives three pure functions over a leading axis of slots; a slot is one environment with
its own task, seed and episode. All randomness comes in as an argument, from `mtrl.envs.noise`.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.envs.arrays import on_numpy
from mtrl.envs.noise import episode_keys, uniforms
from mtrl.envs.simulation import Renderer, Simulation
from mtrl.envs.task import Task, params_of
from mtrl.errors import UsageError

__all__ = ["BatchedEnv", "Dynamics", "TensorParams"]

TensorParams = dict[str, Tensor]
"""One tensor per named task parameter, shaped (slots,) or (slots, size)."""


class Functions(NamedTuple):
    """A family's functions, for arrays of one kind."""

    derive: Callable[..., Any]
    reset: Callable[..., Any]
    step: Callable[..., Any]
    observe: Callable[..., Any]


class Dynamics(Simulation):
    """What a family with batched dynamics defines; `BatchedFamily` adds its environments.

    `reset_noise` and `step_noise` say how many uniform numbers per slot the functions are given.
    Parameters, states and noise are numbers of `dtype`; observations are cast to that of their
    space, and rewards may be of another.
    """

    reset_noise: ClassVar[int] = 0
    step_noise: ClassVar[int] = 0
    dtype: ClassVar[torch.dtype] = torch.float32
    takes_numpy: ClassVar[bool] = False
    """Whether `reset`, `step` and `observe` take NumPy arrays too (see `mtrl.envs.arrays`)."""

    @abstractmethod
    def reset(self, params: TensorParams, noise: Tensor) -> Tensor:
        """Return first states, shaped (slots, state), from noise shaped (slots, reset_noise)."""

    @abstractmethod
    def step(
        self, params: TensorParams, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next states, rewards (slots,) and terminated (slots,); change no argument.

        The rewards may be an array that `params` holds.
        """

    @abstractmethod
    def observe(self, params: TensorParams, state: Tensor) -> Tensor:
        """Return the observations of `state`, shaped (slots, *observation shape)."""

    def derive(self, params: TensorParams) -> TensorParams:
        """Return what `reset`, `step` and `observe` are given: here the parameters themselves.

        A family adds what would otherwise be computed in every step from the parameters alone.
        """
        return params

    def functions(self, bridge: Callable[[Callable[..., Any]], Any] | None) -> Functions:
        """Return the functions, each wrapped by `bridge` (of `mtrl.envs.arrays`) if it is given."""
        functions = Functions(self.derive, self.reset, self.step, self.observe)
        return functions if bridge is None else Functions(*map(bridge, functions))

    def step_limits(self, params: Mapping[str, Any]) -> Any:
        """Return after how many steps an episode is truncated: a number, or one per slot."""
        return self.horizon

    def renderer(self, render_mode: str) -> Renderer:
        """Return what draws states in `render_mode`, one of `render_modes`."""
        return Painter(self)

    def render(self, task: Task, state: NDArray[Any]) -> NDArray[np.uint8]:
        """Return a picture of one slot's state, shaped (height, width, 3)."""
        raise UsageError(f"task family {self.name!r} cannot be rendered; use render_mode=None")

    def tensors(
        self,
        tasks: Sequence[Task],
        *,
        repeats: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> TensorParams:
        """Stack the tasks' parameters, each task `repeats` times in succession (task-major).

        `dtype` is the family's unless given.

        Raises:
            UsageError: there is no task, or one that is not of this family.
        """
        for task in set(tasks):
            self.parameters.check(task)
        stacked = {name: torch.from_numpy(array) for name, array in params_of(tasks).items()}
        return {
            name: tensor.to(device, dtype or self.dtype).repeat_interleave(repeats, dim=0)
            for name, tensor in stacked.items()
        }


class Painter:
    """Draws with the family's own `render`, which needs nothing that must be closed."""

    def __init__(self, family: Dynamics) -> None:
        self._family = family

    def draw(self, task: Task, state: NDArray[Any], action: Any) -> NDArray[np.uint8]:
        """Return the family's picture."""
        return self._family.render(task, state)

    def close(self) -> None:
        """Nothing is open."""


class BatchedEnv:
    """Slots of one family stepped together on a device; the host never waits for a value.

    There is no autoreset. A slot ends when it is terminated or when its `step_limits` are reached
    (truncated; both may hold in the same step, as under Gymnasium's TimeLimit). A slot that has
    ended stands still until it is reset: its observation stays, its reward is 0 and its flags
    stay as they were in its last step. Returned tensors may be the batch's own: do not write into
    them.

    Args:
        family: the dynamics.
        params: one tensor per parameter with the slots first, as `family.tensors` makes them; they
            determine the device and the floating type. The first episodes have seeds 0, 1, ...
    """

    def __init__(self, family: Dynamics, params: Mapping[str, Tensor]) -> None:
        self.family = family
        self.params = dict(params)
        like = next(iter(self.params.values()))
        self.num_slots, self.device, self.dtype = len(like), like.device, like.dtype
        on_cpu = family.takes_numpy and self.device.type == "cpu"
        self._functions = family.functions(on_numpy if on_cpu else None)
        self._no_noise = torch.empty((self.num_slots, 0), device=self.device, dtype=self.dtype)
        self._noisy = family.reset_noise + family.step_noise > 0
        self.reset(torch.arange(self.num_slots, device=self.device))

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""
        return self.family.horizon

    def _noise(self, width: int, steps: Tensor) -> Tensor:
        if width == 0:
            return self._no_noise
        return cast(Tensor, uniforms(self._keys, steps, width, self.dtype))

    def _fresh_state(self) -> Tensor:
        if self._noisy:
            self._keys = episode_keys(self.seeds, self.episodes)
        # Step 0's numbers are the reset's; the first step uses those of step 1.
        noise = self._noise(self.family.reset_noise, torch.zeros_like(self.episodes))
        return cast(Tensor, self._functions.reset(self._derived, noise))

    def reset(self, seeds: Tensor, episodes: Tensor | None = None) -> Tensor:
        """Begin an episode in every slot and return the observations.

        Args:
            seeds: int64, one per slot.
            episodes: int64, one per slot: which episode of its seed each slot begins (default 0).
        """
        if seeds.shape != (self.num_slots,):
            raise UsageError(f"seeds has shape {tuple(seeds.shape)}; give {self.num_slots} of them")
        self.seeds = seeds.to(self.device, torch.int64)
        zeros = torch.zeros_like(self.seeds)
        self.episodes = zeros if episodes is None else episodes.to(zeros)
        self.steps = zeros
        self._terminated = torch.zeros_like(zeros, dtype=torch.bool)
        self._running = ~self._terminated
        self._derived = self._functions.derive(self.params)
        self.state = self._fresh_state()
        self._limits = self.family.step_limits(self.params)
        return self.observe()

    def reset_where(self, mask: Tensor) -> Tensor:
        """Begin the next episode in the slots where `mask` holds; return all observations."""
        self.episodes = self.episodes + mask
        self.steps = self.steps.masked_fill(mask, 0)
        self._terminated = self._terminated & ~mask
        self._running = self._running | mask
        self.state = torch.where(mask[:, None], self._fresh_state(), self.state)
        return self.observe()

    def observe(self) -> Tensor:
        """Return the current observations."""
        return cast(Tensor, self._functions.observe(self._derived, self.state))

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Apply one action per slot; return (observation, reward, terminated, truncated)."""
        running = self._running
        self.steps = self.steps + running
        noise = self._noise(self.family.step_noise, self.steps)
        state, reward, terminated = self._functions.step(self._derived, self.state, action, noise)
        self.state = torch.where(running[:, None], state, self.state)
        reward = torch.where(running, reward, 0.0)
        self._terminated = torch.where(running, terminated, self._terminated)
        truncated = self.steps >= self._limits
        self._running = ~(self._terminated | truncated)
        return self.observe(), reward, self._terminated, truncated
