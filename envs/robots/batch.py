"""Batches of a MuJoCo family's slots: one for the faces, one whose episodes end and stand still."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.envs.noise import episode_keys, uniforms
from mtrl.envs.restoring import restored_array
from mtrl.envs.robots.bodies import Bodies, available_threads, gymnasium_model
from mtrl.envs.robots.robot import Snapshot
from mtrl.envs.simulation import StepResult
from mtrl.envs.task import Task, params_of
from mtrl.errors import MtrlError, UsageError

if TYPE_CHECKING:
    from mtrl.envs.robots.family import MujocoFamily

__all__ = ["Move", "MujocoBatch", "MujocoEpisodes"]

Array = NDArray[np.float64]
Slots = NDArray[np.intp]


class Move(NamedTuple):
    """One step of some slots, as a reward needs it, the slots first.

    Attributes:
        velocity: mean over the step along each axis, in m/s: (slots, axes).
        place: where the robot is now, in metres: (slots, axes).
        action: as it was given, in float32.
        healthy: whether the robot has not fallen.
        contact: sum of the squared contact forces and torques, if the robot observes them.
    """

    velocity: Array
    place: Array
    action: NDArray[np.float32]
    healthy: NDArray[np.bool_]
    contact: Array


class MujocoBatch:
    """Slots of one family, each with its own task, seed and episode; `reset` comes first.

    Args:
        family: says which robot, models and rewards.
        tasks: one per slot, which the caller has checked.
    """

    def __init__(self, family: "MujocoFamily", tasks: Sequence[Task]) -> None:
        self.family = family
        self.tasks = list(tasks)
        self.params = params_of(tasks)
        _, frame_skip = gymnasium_model(family.robot.gymnasium_id)
        self._bodies = Bodies(
            self._models(tasks),
            frame_skip=frame_skip,
            fields=family.robot.fields,
            threads=family.threads or available_threads(),
        )
        self._everywhere = np.arange(len(tasks))
        self.episodes = np.zeros(len(tasks), np.int64)
        self.steps = np.zeros(len(tasks), np.int64)
        self._seeds = np.zeros(len(tasks), np.int64)

    def _models(self, tasks: Sequence[Task]) -> list[Any]:
        made = {task: self.family.model(task) for task in dict.fromkeys(tasks)}
        return [made[task] for task in tasks]

    def set_tasks(self, slots: Sequence[int], tasks: Sequence[Task]) -> None:
        """Give these slots other tasks, just before their next reset."""
        changed = [i for i, slot in enumerate(slots) if self.tasks[slot] is not tasks[i]]
        models = self._models([tasks[i] for i in changed])
        for i, model in zip(changed, models, strict=True):
            self.tasks[slots[i]], self._bodies.models[slots[i]] = tasks[i], model
        for name, values in params_of(tasks).items():
            self.params[name][slots] = values

    @property
    def state(self) -> Array:
        """Positions and velocities, from which a picture is drawn."""
        return np.concatenate([self._bodies.qpos, self._bodies.qvel], axis=1)

    def reset(self, seeds: NDArray[np.int64], episodes: NDArray[np.int64]) -> Array:
        """Begin these episodes of these seeds, one per slot, and return the observations."""
        self._seeds, self.episodes = seeds.copy(), episodes.copy()
        return self._begin(self._everywhere)

    def reset_slots(self, slots: Slots) -> Array:
        """Begin the next episode in these slots and return their observations."""
        self.episodes[slots] += 1
        return self._begin(slots)

    def _begin(self, slots: Slots) -> Array:
        keys = episode_keys(self._seeds[slots], self.episodes[slots])
        positions, velocities = self._bodies.qpos.shape[1], self._bodies.qvel.shape[1]
        width = positions + velocities
        noise = uniforms(keys, np.zeros_like(keys), width, torch.float64)
        qpos, qvel = self.family.robot.start(noise, positions)
        self.steps[slots] = 0
        self._check(slots, self._bodies.reset(slots, self._bodies.start + qpos, qvel))
        return self.family.robot.observe(self._snapshot(slots))

    def _snapshot(self, slots: Slots) -> Snapshot:
        bodies = self._bodies
        fields = {name: values[slots] for name, values in bodies.fields.items()}
        masses = bodies.models[0].body_mass
        return Snapshot(bodies.qpos[slots], bodies.qvel[slots], fields, masses)

    def _check(self, slots: Slots, diverged: NDArray[np.bool_]) -> None:
        if diverged.any():
            slot = int(slots[diverged.argmax()])
            task = self.tasks[slot]
            raise MtrlError(
                f"environment {slot} of family {self.family.name!r}, task {task.id} "
                f"({dict(task.params)}): the simulation diverged in step {self.steps[slot]}; "
                "give the family narrower ranges"
            )

    def step(self, action: NDArray[Any]) -> StepResult:
        """Apply one action per slot; what is returned is the caller's own."""
        obs, reward, terminated = self.step_slots(self._everywhere, action)
        return StepResult(obs, reward, terminated, self.steps >= self.family.horizon)

    def step_slots(
        self, slots: Slots, action: NDArray[Any]
    ) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Apply these actions in these slots; return observations, rewards and terminated.

        Raises:
            MtrlError: a simulation diverged; the message names the family and the task.
        """
        family, robot = self.family, self.family.robot
        before = robot.place(self._snapshot(slots))
        self.steps[slots] += 1
        self._check(slots, self._bodies.step(slots, action))
        now = self._snapshot(slots)
        place, healthy = robot.place(now), robot.healthy(now)
        velocity = (place - before) / self._bodies.seconds_per_step
        move = Move(velocity, place, action, healthy, robot.contact(now))
        params = {name: values[slots] for name, values in self.params.items()}
        terminated = ~healthy if family.terminate_when_unhealthy else np.zeros_like(healthy)
        return robot.observe(now), family.reward(params, move), terminated

    def _arrays(self) -> dict[str, NDArray[Any]]:
        counts = {"seeds": self._seeds, "episodes": self.episodes, "steps": self.steps}
        return counts | self._bodies.arrays()

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return (tensors, JSON values): all that steps and resets depend on beside the tasks."""
        return {name: torch.from_numpy(kept.copy()) for name, kept in self._arrays().items()}, {}

    def load_state_dict(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken of a batch with the same tasks.

        Raises:
            CheckpointError: the state is not one of such a batch.
        """
        arrays = self._arrays()
        restored = {name: restored_array(tensors, name, like) for name, like in arrays.items()}
        for name, array in arrays.items():
            array[:] = restored[name]


class MujocoEpisodes:
    """One episode in every slot, as tensors: what `mtrl.rollouts.EpisodeBatch` asks for.

    A slot that has ended stands still until the next reset: its observation stays, its reward is 0
    and its flags stay. It is not simulated any more. Observations and rewards are float32.

    Args:
        family: says which robot, models and rewards.
        tasks: one per slot, which the caller has checked.
        device: of the tensors; the simulation is on the host.
    """

    def __init__(
        self, family: "MujocoFamily", tasks: Sequence[Task], device: torch.device | str
    ) -> None:
        self._batch = MujocoBatch(family, tasks)
        self._device = torch.device(device)
        self._running = np.zeros(len(tasks), np.bool_)
        self._terminated, self._truncated = self._running.copy(), self._running.copy()
        self._obs = np.zeros((len(tasks), family.robot.observation_size), np.float32)

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""
        return self._batch.family.horizon

    def reset(self, seeds: Tensor) -> Tensor:
        """Begin episode 0 of the int64 `seeds`, one per slot; return the observations."""
        if seeds.shape != (len(self._running),):
            slots = len(self._running)
            raise UsageError(f"seeds has shape {tuple(seeds.shape)}; give {slots} of them")
        numbers = seeds.cpu().numpy()
        self._obs[:] = self._batch.reset(numbers, np.zeros_like(numbers))
        self._running[:] = True
        self._terminated[:] = self._truncated[:] = False
        return self._tensor(self._obs)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Apply one action per slot; return observations, rewards, terminated and truncated.

        Raises:
            UsageError: an action that is not finite; the message names the family and the task.
            MtrlError: a simulation diverged.
        """
        slots = self._running.nonzero()[0]
        reward = np.zeros(len(self._running), np.float32)
        if len(slots) > 0:
            given = self._checked(slots, actions.detach().cpu().numpy()[slots])
            self._obs[slots], reward[slots], self._terminated[slots] = self._batch.step_slots(
                slots, given
            )
            self._truncated[slots] = self._batch.steps[slots] >= self.horizon
            self._running = ~(self._terminated | self._truncated)
        flags = self._tensor(self._terminated), self._tensor(self._truncated)
        return self._tensor(self._obs), self._tensor(reward), *flags

    def _checked(self, slots: Slots, actions: NDArray[Any]) -> NDArray[np.float32]:
        good = np.isfinite(actions).all(axis=1)
        if not good.all():
            slot = int(slots[good.argmin()])
            task = self._batch.tasks[slot]
            raise UsageError(
                f"environment {slot} of family {self._batch.family.name!r}, task {task.id}: "
                f"action {actions[good.argmin()]} is not finite"
            )
        return actions.astype(np.float32)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A copy: the arrays are written to in the next step.
        return torch.from_numpy(array.copy()).to(self._device)
