"""Many tasks in one Stable-Baselines3 `VecEnv`: who plays which, told, scaled, counted and kept apart."""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from mtrl.agents.multitask.statistics import RewardScale, RewardScaling, TaskStatistics
from mtrl.envs.arrays import seem_finite
from mtrl.envs.sb3_env import BatchedVecEnv
from mtrl.envs.task import Task
from mtrl.envs.workers.sb3_env import WorkerVecEnv
from mtrl.envs.wrappers.joining import Joiner
from mtrl.errors import MtrlError, UsageError

__all__ = ["MultiTaskVecEnv", "TaskFailedWarning", "find_multi_task_env"]

Slots = NDArray[np.int64]
Step = tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


class TaskFailedWarning(UserWarning):
    """A task gave numbers that are not finite, and is trained on no more."""


class MultiTaskVecEnv(VecEnvWrapper):
    """Environments that play several tasks, each observation with the one-hot context of its task.

    Observations are laid out as `mtrl.envs.wrappers.TaskContext` appends: flattened, the context
    last. `infos[i]["episode"]` of an episode's last step is what Stable-Baselines3's `Monitor` gives.
    Rewards are scaled only if asked; all statistics are of the original ones.

    Environment i plays `tasks[i % len(tasks)]`, until `env_method("set_task_source", ...)` decides
    otherwise. Environments without that method play what they were made with; which it is, they say by
    `info["task_id"]` of their resets.

    A task that gives an observation or a reward that is not finite is named in a
    `TaskFailedWarning`, and `failed_tasks` says why. Its episodes are cut short as if time were up and
    its environments given to the healthy tasks that have the fewest. Environments that take no other
    task go on with zeros in place of its numbers. An environment that raises instead ends the run,
    but for those of our families in one batch (`family.make_sb3`), which are told not to.

    Args:
        venv: environments of one observation space, a Box, and one action space.
        tasks: all tasks that will be met.
        scaling: how rewards are scaled, if they are.
        window: how many of a task's latest episodes `statistics` are over.
        names: of the tasks in statistics and messages; their ids unless given.
        assign: whether to decide who plays what; else the environments' own sources do.

    Attributes:
        tasks: as given.
        names: likewise, or the ids.
        slot_tasks: (environments,), the number of the task that each plays now.
        statistics: of the episodes.
        failed_tasks: why, by name.
        healthy: (tasks,), which tasks have not failed.
        training: whether the scale of rewards goes on learning.

    Raises:
        UsageError: no tasks, the same twice, more than environments, names that do not fit them, or
            spaces that cannot be appended to; later, an environment that plays another task.
        MtrlError: no task is left that has not failed.
    """

    def __init__(
        self,
        venv: VecEnv,
        tasks: Sequence[Task],
        *,
        scaling: RewardScaling | None = None,
        window: int = 100,
        names: Sequence[str] | None = None,
        assign: bool = True,
    ) -> None:
        self.tasks = tuple(tasks)
        self._places = _places(self.tasks)
        self.names = _names(self.tasks, names)
        context = gym.spaces.Box(0.0, 1.0, (len(self.tasks),), np.float32)
        self._joiner = Joiner(venv.observation_space, {"context": context}, "append")
        super().__init__(venv, observation_space=self._joiner.space)
        self.statistics = TaskStatistics(self.names, window=window)
        sizes = {"tasks": len(self.tasks), "slots": self.num_envs}
        self._scale = None if scaling is None else RewardScale(scaling, **sizes)
        self.training = True
        self.failed_tasks: dict[str, str] = {}
        self.healthy = np.ones(len(self.tasks), np.bool_)
        self._units = np.eye(len(self.tasks), dtype=np.float32)
        self._play(np.arange(self.num_envs) % len(self.tasks))
        self._takes_tasks = self._assign() if assign else _takes_tasks(venv)
        if isinstance(venv.unwrapped, BatchedVecEnv):
            venv.unwrapped.pass_nonfinite()
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._rewards = np.zeros(self.num_envs, np.float32)
        self._made = time.time()

    def get_original_reward(self) -> NDArray[np.float32]:
        """Return the last step's rewards (environments,) as they were before scaling."""
        return self._rewards.copy()

    # Who plays what

    def _assign(self) -> bool:
        if len(self.tasks) > self.num_envs:
            raise UsageError(
                f"{len(self.tasks)} tasks for {self.num_envs} environments: some would never be "
                "played; make at least one environment per task, or let sources of tasks decide "
                "(assign=False)"
            )
        if not _takes_tasks(self.venv):
            return False
        for slot, place in enumerate(self.slot_tasks.tolist()):
            self.venv.env_method("set_task_source", self.tasks[place], indices=[slot])
        return True

    def _play(self, tasks: Slots, slots: Any = slice(None)) -> None:
        """Note that these slots, or all, play these tasks from now on."""
        if isinstance(slots, slice):
            self.slot_tasks = tasks.copy()
            self._contexts = self._units[tasks]
        else:
            self.slot_tasks[slots] = tasks
            self._contexts[slots] = self._units[tasks]

    def _told(self, slots: Sequence[int]) -> Slots:
        """Return the tasks of the episodes that have just begun in these slots."""
        reset_infos = self.venv.unwrapped.reset_infos
        found = [self._place(slot, reset_infos[slot]) for slot in slots]
        return np.array(found, np.int64)

    def _place(self, slot: int, info: dict[str, Any]) -> int:
        if "task_id" not in info:
            raise UsageError(
                f"environment {slot} does not say its task: info has no 'task_id' after a reset; "
                "use environments of a task family"
            )
        if info["task_id"] not in self._places:
            raise UsageError(
                f"environment {slot} plays task {info['task_id']}, which is not among the "
                f"{len(self.tasks)} tasks; add it to tasks"
            )
        return self._places[info["task_id"]]

    # Episodes

    def reset(self) -> NDArray[Any]:
        """Begin an episode everywhere and return the observations."""
        obs: Any = self.venv.reset()
        self.reset_infos = list(self.venv.unwrapped.reset_infos)
        self._play(self._told(range(self.num_envs)))
        self._begin(slice(None))
        if self.failed_tasks or not np.isfinite(obs).all():
            obs = self._without_failed(obs)
        return self._joined(obs)

    def _begin(self, slots: Any) -> None:
        self._returns[slots], self._lengths[slots] = 0.0, 0
        if self._scale is not None:
            self._scale.begin(slots)

    def step_wait(self) -> Step:
        """Take the step and tell, scale and count."""
        obs: Any
        obs, rewards, dones, infos = self.venv.step_wait()
        ended = dones.nonzero()[0].tolist()
        if not _all_finite(obs, rewards, [infos[slot] for slot in ended]):
            self._find_failed(obs, rewards, dones, infos)
        if self.failed_tasks:
            rewards, ended = self._isolate(obs, rewards, dones, infos)
        self._rewards = rewards
        self._returns += rewards
        self._lengths += 1
        if self._scale is not None:
            if self.training:
                self._scale.update(rewards, self.slot_tasks)
            rewards = self._scale(rewards, self.slot_tasks)
        if ended:
            self._end(ended, infos)
            if self.failed_tasks or not seem_finite(obs):
                obs = self._without_failed(obs)
        return self._joined(obs), rewards, dones, infos

    def _end(self, ended: list[int], infos: list[dict[str, Any]]) -> None:
        """Count the episodes that have ended, and note what the slots play next."""
        last = np.array([infos[slot]["terminal_observation"] for slot in ended])
        joined = self._joiner(last, self._contexts[ended], batch=(len(ended),))
        played = (self.slot_tasks[ended], self._returns[ended], self._lengths[ended])
        elapsed, begun = round(time.time() - self._made, 6), self.venv.unwrapped.reset_infos
        rows = zip(ended, joined, *(values.tolist() for values in played), strict=True)
        for slot, terminal, task, total, length in rows:
            info, self.reset_infos[slot] = infos[slot], begun[slot]
            info["terminal_observation"] = terminal
            if "task_failed" in info:
                continue
            info["episode"] = {"r": round(total, 6), "l": length, "t": elapsed}
            success = info.get("is_success")
            judged = None if success is None else bool(success)
            self.statistics.add(task, total, length, judged)
        told = self._told(ended)
        # Most play one task for ever.
        if (told != played[0]).any():
            self._play(told, ended)
        self._begin(ended)

    def _joined(self, obs: Any) -> NDArray[Any]:
        joined: NDArray[Any] = self._joiner(obs, self._contexts, batch=(self.num_envs,))
        return joined

    # Tasks that fail

    def _find_failed(
        self, obs: Any, rewards: Any, dones: NDArray[np.bool_], infos: list[dict[str, Any]]
    ) -> None:
        for slot, (done, info) in enumerate(zip(dones, infos, strict=True)):
            # Where an episode has ended, the observation is the next one's: seen to after it began.
            last = info["terminal_observation"] if done else obs[slot]
            for what, value in (("observation", last), ("reward", rewards[slot])):
                if not np.isfinite(value).all():
                    self._fail(int(self.slot_tasks[slot]), f"{what} {value} of environment {slot}")

    def _isolate(
        self, obs: Any, rewards: Any, dones: NDArray[np.bool_], infos: list[dict[str, Any]]
    ) -> tuple[NDArray[np.float32], list[int]]:
        """Cut the episodes of failed tasks short; return clean rewards and the slots that end.

        `obs`, `dones` and `infos` are changed in place.
        """
        failed = ~self.healthy[self.slot_tasks]
        for slot in failed.nonzero()[0].tolist():
            info = infos[slot]
            info["task_failed"] = True
            if self._takes_tasks and not dones[slot]:
                dones[slot], info["terminal_observation"] = True, obs[slot].copy()
            if dones[slot]:
                info["terminal_observation"] = _finite(info["terminal_observation"])
                info["TimeLimit.truncated"] = True
        obs[failed & ~dones] = 0
        return np.where(failed, np.float32(0), rewards), dones.nonzero()[0].tolist()

    def _fail(self, task: int, why: str) -> None:
        name = self.names[task]
        if name in self.failed_tasks:
            return
        self.failed_tasks[name] = f"{why} is not finite"
        self.healthy[task] = False
        if len(self.failed_tasks) == len(self.tasks):
            raise MtrlError(
                f"no task is left that gives finite numbers; the last was {name}: "
                f"{self.failed_tasks[name]}"
            )
        played = self.tasks[task]
        warnings.warn(
            f"task {name} of family {played.family!r}, {dict(played.params)}, failed: "
            f"{self.failed_tasks[name]}; it is left out of training, the other tasks go on",
            TaskFailedWarning,
            stacklevel=2,
        )

    def _without_failed(self, obs: Any) -> Any:
        """Return first observations of healthy tasks where failed ones have just begun."""
        obs = obs.copy()
        while True:
            for slot in (~np.isfinite(obs.reshape(self.num_envs, -1)).all(1)).nonzero()[0].tolist():
                self._fail(int(self.slot_tasks[slot]), f"first observation {obs[slot]}")
            failed = (~self.healthy[self.slot_tasks]).nonzero()[0].tolist()
            if not failed:
                return obs
            if not self._takes_tasks:
                obs[failed] = 0
                return obs
            for slot in failed:
                obs[slot] = self._begin_again(slot)
                self._play(np.array([self._place(slot, self.reset_infos[slot])]), [slot])

    def _begin_again(self, slot: int) -> NDArray[Any]:
        """Give the slot a healthy task and begin its episode; return the first observation."""
        players = np.bincount(self.slot_tasks, minlength=len(self.tasks))
        task = int(np.where(self.healthy, players, self.num_envs + 1).argmin())
        self.venv.env_method("set_task_source", self.tasks[task], indices=[slot])
        ((first, info),) = self.venv.env_method("reset", indices=[slot])
        self.venv.unwrapped.reset_infos[slot] = self.reset_infos[slot] = info
        return np.asarray(first)

    # Checkpoints

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values) for a checkpoint: all of this wrapper, nothing of `venv`."""
        arrays = {"tasks": self.slot_tasks, "returns": self._returns, "lengths": self._lengths}
        tensors = {f"slot/{k}": torch.from_numpy(array.copy()) for k, array in arrays.items()}
        statistics, values = self.statistics.state_dict()
        tensors |= {f"statistics/{name}": tensor for name, tensor in statistics.items()}
        if self._scale is not None:
            scale = self._scale.state_dict()
            tensors |= {f"scale/{name}": tensor for name, tensor in scale.items()}
        ids = [task.id for task in self.tasks]
        return tensors, {"tasks": ids, "statistics": values, "failed": dict(self.failed_tasks)}

    def load_state_dict(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            UsageError: it is of other tasks, of another number of environments, or only one of the two
                scales rewards.
        """
        self._check_fits(tensors, values)
        part = {key: _under(f"{key}/", tensors) for key in ("slot", "statistics", "scale")}
        self.statistics.load_state_dict(part["statistics"], values["statistics"])
        if self._scale is not None:
            self._scale.load_state_dict(part["scale"])
        slot = {name: tensor.numpy().copy() for name, tensor in part["slot"].items()}
        self._play(slot["tasks"])
        self._returns, self._lengths = slot["returns"], slot["lengths"]
        self.failed_tasks = dict(values["failed"])
        self.healthy = np.array([name not in self.failed_tasks for name in self.names])

    def _check_fits(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        if values["tasks"] != [task.id for task in self.tasks]:
            raise UsageError(
                f"the state is of tasks {', '.join(values['tasks'])} and the environment's are "
                f"{', '.join(task.id for task in self.tasks)}; give the same in the same order"
            )
        saved = len(tensors["slot/tasks"])
        if saved != self.num_envs:
            raise UsageError(
                f"the state is of {saved} environments and there are {self.num_envs}; make as many"
            )
        if ("scale/mean" in tensors) != (self._scale is not None):
            raise UsageError(
                "one of state and environment scales rewards and the other does not; give scaling "
                "as it was when the state was saved"
            )


def find_multi_task_env(env: Any) -> MultiTaskVecEnv:
    """Return the `MultiTaskVecEnv` that `env` is or wraps.

    Raises:
        UsageError: there is none.
    """
    inner = env
    while inner is not None:
        if isinstance(inner, MultiTaskVecEnv):
            return inner
        inner = getattr(inner, "venv", None)
    raise UsageError(
        f"env is {env!r}, which is no MultiTaskVecEnv: the algorithm must know who plays which "
        "task; wrap the VecEnv in MultiTaskVecEnv(venv, tasks)"
    )


def _places(tasks: Sequence[Task]) -> dict[str, int]:
    if not tasks:
        raise UsageError("tasks is empty; give at least one task")
    places: dict[str, int] = {}
    for place, task in enumerate(tasks):
        if task.id in places:
            raise UsageError(
                f"tasks[{places[task.id]}] and tasks[{place}] are the same task, {task.id} of family "
                f"{task.family!r}, {dict(task.params)}; list each once"
            )
        places[task.id] = place
    return places


def _names(tasks: Sequence[Task], names: Sequence[str] | None) -> tuple[str, ...]:
    found = tuple(task.id for task in tasks) if names is None else tuple(names)
    if len(found) != len(tasks) or len(set(found)) < len(found):
        raise UsageError(
            f"names are {', '.join(found)} for {len(tasks)} tasks; give each task its own name"
        )
    return found


def _takes_tasks(venv: VecEnv) -> bool:
    if isinstance(venv.unwrapped, BatchedVecEnv | WorkerVecEnv):
        return True
    return venv.has_attr("set_task_source")


def _all_finite(obs: Any, rewards: Any, ended: list[dict[str, Any]]) -> bool:
    if not (seem_finite(rewards) and seem_finite(obs)):
        return False
    return not ended or seem_finite(np.array([info["terminal_observation"] for info in ended]))


def _finite(values: Any) -> NDArray[Any]:
    return np.asarray(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0))


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
