"""A Gymnasium vector environment in worker processes, for environments that others wrote.

Such an environment may raise, end its process, hang or return NaN. Its worker is then replaced by a
new one, a number of times, and the episode that was lost ends as truncated.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from mtrl.envs.failures import all_finite
from mtrl.envs.family import TaskFamily, TaskSource
from mtrl.envs.task import Task, check_split
from mtrl.envs.workers.crew import Begun, Crew
from mtrl.envs.workers.guard import ANSWER, Answer, Fault
from mtrl.envs.workers.worker import WorkerSettings
from mtrl.errors import UsageError

__all__ = ["WorkerSettings", "WorkerVectorEnv"]

Flags = NDArray[np.bool_]
Stepped = tuple[Any, NDArray[np.float64], Flags, Flags, dict[str, Any]]


@dataclass(kw_only=True)
class _Outcome:
    """What came of one environment's step or reset; `infos` are merged in their order."""

    obs: Any = None
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    infos: list[dict[str, Any]] = field(default_factory=list)
    fault: Fault | None = None


class WorkerVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """Environments of one family, a process each; equal to a SAME_STEP `SyncVectorEnv` of them.

    An environment that raises, ends its process, hangs or returns what is not finite is made anew
    in a new process and begins an episode there, while the others go on. In that step
    `info["worker_restarted"]` holds the cause, the reward is 0, and the episode is truncated with
    its last observation as `final_obs`: what the action did is not known. (Where the episode had
    ended by itself, and the reset after it failed, the step is reported as it was.)

    Processes start at the first reset. Rendering is not offered: `family.make` draws in this one.

    Args:
        family: makes the environments; it must go through cloudpickle.
        sources: per environment a task, or the split to draw tasks from.
        seed: that of the first reset, if none is given there; environment i has seed + i.
        settings: timeout, number of restarts, and how processes are started.
    """

    def __init__(
        self,
        family: TaskFamily,
        sources: Sequence[TaskSource],
        *,
        seed: int | None = None,
        settings: WorkerSettings | None = None,
    ) -> None:
        if not sources:
            raise UsageError("tasks is empty; give one task (or split) per environment")
        self.family = family
        self.num_envs = len(sources)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = family.observation_space
        self.single_action_space = family.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._space_of_one = batch_space(self.single_observation_space, 1)
        self._observations: Any = create_empty_array(self.single_observation_space, self.num_envs)
        self._task_ids: list[str | None] = [None] * self.num_envs
        checked = [self._checked_source(source) for source in sources]
        self._crew = Crew(family, checked, settings or WorkerSettings())
        self._first_seed = seed
        self._begun = False

    def _checked_source(self, source: TaskSource) -> TaskSource:
        if not isinstance(source, Task):
            return check_split(source)
        if source.family != self.family.name:
            raise UsageError(f"a task of family {source.family!r}, not {self.family.name!r}")
        return source

    @property
    def tasks(self) -> list[Task]:
        """The task that each environment plays now, in the episode of the last observation.

        Raises:
            UsageError: there was no reset, or an environment has no attribute `task`.
        """
        tasks = [task for task in self._crew.tasks if task is not None]
        if len(tasks) < self.num_envs:
            raise UsageError(
                f"environments of {self.family.name!r} do not say what they play: call reset(), "
                "or give the environment an attribute `task`"
            )
        return tasks

    @property
    def restarts(self) -> list[int]:
        """How often the worker of each environment has been replaced."""
        return self._crew.restarts

    @property
    def pids(self) -> list[int | None]:
        """The process id of each worker, None where no process runs."""
        return self._crew.pids

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]  # as Sync
        """The seed of each environment."""
        return self.get_attr("np_random_seed")

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            seed = self._first_seed
        self._first_seed = None
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int):
            return [seed + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise UsageError(f"seed has {len(seed)} entries; give one, or {self.num_envs}")
        return list(seed)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode everywhere; `options={"task": task}` chooses one task for all.

        Raises:
            UsageError: a list of seeds of the wrong length, a partial reset, or what an environment
                itself refuses with this error.
            WorkerError: an environment failed too often; all processes have been ended.
        """
        if options is not None and "reset_mask" in options:
            raise UsageError("options['reset_mask'] needs autoreset disabled; this is SAME_STEP")
        self._begun = False
        begun = self._crew.begin(range(self.num_envs), dict(enumerate(self._seeds(seed))), options)
        outcomes = [_Outcome() for _ in range(self.num_envs)]
        for index, episode in begun.items():
            self._continue(index, outcomes[index], episode)
        self._begun = True
        obs, *_, info = self._batch(outcomes)
        return obs, info

    def step(self, actions: Any) -> Stepped:
        """Apply one action per environment and reset those whose episode ends.

        Raises:
            UsageError: no reset since the start or the last error, actions of the wrong shape or
                not finite, or what an environment itself refuses with this error.
            WorkerError: an environment failed too often; all processes have been ended.
        """
        if not self._begun:
            raise UsageError(f"environments of {self.family.name!r}: call reset() before step()")
        self._check(actions)
        self._begun = False  # until all of it has succeeded
        space = self.single_action_space
        replies = self._crew.exchange(
            "step", {i: ((_row(space, actions, i),), {}) for i in range(self.num_envs)}
        )
        outcomes = [self._outcome(index, replies[index]) for index in range(self.num_envs)]
        self._crew.handle({i: each.fault for i, each in enumerate(outcomes) if each.fault})
        for index, episode in self._crew.begin(self._crew.lost).items():
            self._continue(index, outcomes[index], episode)
        self._begun = True
        return self._batch(outcomes)

    def _check(self, actions: Any) -> None:
        shape = self.action_space.shape
        if shape is not None and np.shape(actions) != shape:
            raise UsageError(f"actions have shape {np.shape(actions)}, wanted {shape}")
        if all_finite(actions):
            return
        for index in range(self.num_envs):
            action = _row(self.single_action_space, actions, index)
            if not all_finite(action):
                raise UsageError(f"{self._crew.name(index)}: action {action} is not finite")

    def _outcome(self, index: int, reply: Any) -> _Outcome:
        """Return what came of a step, with the fault that prevented it or that followed it."""
        if isinstance(reply, Fault):
            return self._lost(index, reply)
        obs, rewards, terminated, truncated, infos = reply
        answer: Answer = infos[ANSWER][0]
        ended = bool(terminated[0] or truncated[0])
        if answer.fault is not None and not ended:
            return self._lost(index, answer.fault)
        outcome = _Outcome(
            obs=self._only(obs),
            reward=rewards[0],
            terminated=terminated[0],
            truncated=truncated[0],
            infos=[answer.info],
            fault=answer.fault,
        )
        if ended:
            final: Answer = infos["final_info"][ANSWER][0]
            last = {"final_obs": infos["final_obs"][0], "final_info": final.info}
            outcome.infos = [last, answer.info]
            self._crew.plays(index, answer.task)
        self._task_ids[index] = answer.info.get("task_id")
        return outcome

    def _lost(self, index: int, fault: Fault) -> _Outcome:
        """Return the end of an episode whose environment is gone."""
        task_id = self._task_ids[index]
        last = list(iterate(self.observation_space, self._observations))[index]
        info = {} if task_id is None else {"task_id": task_id}
        final = {"final_obs": deepcopy(last), "final_info": info}
        return _Outcome(truncated=True, infos=[final], fault=fault)

    def _continue(self, index: int, outcome: _Outcome, episode: Begun) -> None:
        """Add to an outcome the episode that has begun."""
        outcome.obs = self._only(episode.obs)
        outcome.infos.append(episode.info)
        if episode.cause is not None:
            outcome.infos.append({"worker_restarted": episode.cause})
        self._task_ids[index] = episode.info.get("task_id")

    def _only(self, obs: Any) -> Any:
        """Return the observation in a batch of one."""
        return next(iter(iterate(self._space_of_one, obs)))

    def _batch(self, outcomes: Sequence[_Outcome]) -> Stepped:
        infos: dict[str, Any] = {}
        for index, outcome in enumerate(outcomes):
            for info in outcome.infos:
                infos = self._add_info(infos, info, index)
        self._observations = concatenate(
            self.single_observation_space, [each.obs for each in outcomes], self._observations
        )
        return (
            deepcopy(self._observations),
            np.array([each.reward for each in outcomes], np.float64),
            np.array([each.terminated for each in outcomes], np.bool_),
            np.array([each.truncated for each in outcomes], np.bool_),
            infos,
        )

    def set_task_source(self, source: TaskSource, indices: Iterable[int] | None = None) -> None:
        """Take the tasks of the next episodes of these environments, or all, from `source`.

        The current episodes go on. A restarted environment keeps its source.

        Raises:
            UsageError: it is no task of this family, and no split.
        """
        checked = self._checked_source(source)
        chosen = range(self.num_envs) if indices is None else indices
        self._crew.set_sources({index: checked for index in chosen})

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every environment, or look an attribute up; return what each gives.

        `set_task_source` is the only method whose effect a restarted environment remembers.

        Raises:
            AttributeError: there is no such attribute.
            UsageError: the environment refuses the arguments.
            WorkerError: it raised, or its process died; the next step or reset replaces it.
        """
        return self.call_some(range(self.num_envs), name, *args, **kwargs)

    def call_some(
        self, indices: Iterable[int], name: str, *args: Any, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Do what `call` does in the environments with these indices only."""
        chosen = list(indices)
        if name == "set_task_source":
            self.set_task_source(args[0] if args else kwargs["source"], chosen)
            return (None,) * len(chosen)
        return tuple(self._crew.call(name, dict.fromkeys(chosen, (args, kwargs))))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of every environment; raises what `call` raises."""
        return self.call(name)

    def set_attr(self, name: str, values: Any, indices: Iterable[int] | None = None) -> None:
        """Set an attribute in all or these environments, to one value or a list of one each.

        Raises:
            UsageError: the number of values is not that of the environments.
            WorkerError: an environment failed.
        """
        chosen = list(range(self.num_envs) if indices is None else indices)
        if not isinstance(values, list | tuple):
            values = [values] * len(chosen)
        if len(values) != len(chosen):
            raise UsageError(f"{len(values)} values of {name!r} for {len(chosen)} environments")
        self._crew.assign(name, dict(zip(chosen, values, strict=True)))

    def close_extras(self, **kwargs: Any) -> None:
        """End all processes; environments are closed first, but not waited for beyond seconds."""
        self._crew.close()


def _row(space: gym.Space[Any], actions: Any, index: int) -> Any:
    """Return a batch of one action out of a batch in the form of the batched `space`."""
    if isinstance(space, gym.spaces.Dict):
        return {name: _row(sub, actions[name], index) for name, sub in space.items()}
    if isinstance(space, gym.spaces.Tuple):
        parts = zip(space.spaces, actions, strict=True)
        return tuple(_row(sub, part, index) for sub, part in parts)
    return actions[index : index + 1]
