"""The Gymnasium face of a `ContextFamily`.

Two random streams: one decides which task comes next, the other what happens inside it. The first
episode after `reset(seed=s)` is that of the wrapped environment under seed s; each further one
begins with a seed of its own from the second stream, so that it does not matter how many random
numbers the one before took, nor whether the environment had to be made anew between them.
"""

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces.utils import flatten

from mtrl.envs.contexts.recipe import Instance
from mtrl.envs.contexts.spaces import action_mask, fit_action, fit_observation
from mtrl.envs.failures import Blaming
from mtrl.envs.family import TaskSource
from mtrl.envs.task import Task, check_split
from mtrl.errors import MissingExtraError, MtrlError, UsageError
from mtrl.seeding import numpy_generator

if TYPE_CHECKING:
    from mtrl.envs.contexts.family import ContextFamily

__all__ = ["ContextEnv"]


class ContextEnv(gym.Env[Any, Any]):
    """One environment of `family`; `info["task_id"]` names the task on every reset and step.

    `reset(options={"task": task})` plays that task for one episode; other options are the wrapped
    environment's. Where tasks have different choices, `info["action_mask"]` says which are the
    task's own.

    Args:
        family: the environment and what varies in it.
        source: a task, or the split to draw a task from at every reset.
        render_mode: one of the wrapped environment's, or None.
    """

    def __init__(
        self, family: "ContextFamily", source: TaskSource, *, render_mode: str | None = None
    ) -> None:
        modes = family.metadata.get("render_modes", [])
        if render_mode is not None and render_mode not in modes:
            raise UsageError(
                f"render_mode is {render_mode!r}; family {family.name!r} has {list(modes)} and None"
            )
        self.family = family
        self.metadata = family.metadata
        self.render_mode = render_mode
        self.observation_space = family.observation_space
        self.action_space = family.action_space
        self.set_task_source(source)
        self._instance: Instance | None = None
        self._task: Task | None = None
        self._task_stream: np.random.Generator | None = None
        self._episode_stream: np.random.Generator | None = None
        self._over = self._own_actions = True

    @property
    def task(self) -> Task:
        """The task of the current episode.

        Raises:
            UsageError: there is none before the first reset.
        """
        if self._task is None:
            raise UsageError(f"environment of {self.family.name!r} has no task before reset()")
        return self._task

    @property
    def wrapped(self) -> gym.Env[Any, Any]:
        """The environment that plays the current task.

        Raises:
            UsageError: there is none before the first reset.
        """
        if self._instance is None:
            raise UsageError(f"environment of {self.family.name!r}: call reset() before step()")
        return self._instance.env

    def set_task_source(self, source: TaskSource) -> None:
        """Take the tasks of the next episodes from `source`; the current episode goes on."""
        if isinstance(source, Task):
            self.family.parameters.check(source)
            self._source: TaskSource = source
        else:
            self._source = check_split(source)

    def _next_task(self, options: dict[str, Any]) -> Task:
        chosen = options.pop("task", None)
        if chosen is None and not isinstance(self._source, Task):
            assert self._task_stream is not None
            return self.family.sample(1, self._task_stream, self._source)[0]
        task = self._source if chosen is None else chosen
        if not isinstance(task, Task):
            raise UsageError(f"options['task'] is {task!r}; it must be an mtrl.envs.task.Task")
        self.family.parameters.check(task)
        return task

    def _next_seed(self, seed: int | None) -> int:
        """Return the wrapped environment's seed; with a `seed`, begin both streams anew."""
        if seed is None and self._episode_stream is None:
            seed = self.np_random_seed
        if seed is None:
            assert self._episode_stream is not None
            return int(self._episode_stream.integers(2**31))
        self._task_stream = numpy_generator(seed, "tasks")
        self._episode_stream = numpy_generator(seed, "episodes")
        return seed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `options={"task": task}` chooses its task.

        Raises:
            UsageError: not a task of this family.
            MtrlError: the wrapped environment fails; the message names the task.
        """
        super().reset(seed=seed)
        inner_seed = self._next_seed(seed)
        rest = dict(options or {})
        self._over, self._task = True, self._next_task(rest)
        with Blaming(self.family.name, self._task, "reset") as blaming:
            self._prepare(self._task, blaming)
            observation, info = self.wrapped.reset(seed=inner_seed, options=rest or None)
            blaming.finite("observation", observation)
        self._over = False
        return self._seen(observation), self._info(info)

    def _prepare(self, task: Task, blaming: Blaming) -> None:
        """Make the wrapped environment that of `task`."""
        keywords = self.family.recipe.keywords_of(task.params)
        try:
            if self._instance is None or self._instance.keywords != keywords:
                self.close()
                self._instance = Instance(self.family.recipe, keywords, self.render_mode)
                self._check_spaces()
                # Comparing spaces takes longer than many a step.
                self._own_actions = self.wrapped.action_space == self.action_space
            self._instance.set(task.params)
        except MissingExtraError:
            raise
        except MtrlError as error:  # it knows the cause, and not the task
            raise blaming.failed(str(error)) from error

    def _check_spaces(self) -> None:
        own = (self.wrapped.observation_space, self.wrapped.action_space)
        if own not in self.family.spaces:
            raise MtrlError(
                f"its spaces {own} are none of those at the ends of the ranges; give the keywords "
                "that change them as a finite list of values"
            )

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply `action`.

        Raises:
            UsageError: the episode is over or was never begun, or the action is not finite or not
                one of the choices.
            MtrlError: the wrapped environment fails, or returns what is not finite; the message
                names the task.
        """
        env = self.wrapped
        if self._over:
            raise UsageError(
                f"environment of family {self.family.name!r}, task {self.task.id}: "
                "the episode is over; call reset()"
            )
        self._check_action(action)
        self._over = True  # should it fail
        with Blaming(self.family.name, self.task, "step") as blaming:
            if not self._own_actions:
                action = fit_action(action, env.action_space, self.action_space)
            observation, reward, terminated, truncated, info = env.step(action)
            blaming.finite("observation", observation)
            blaming.finite("reward", reward)
        self._over = bool(terminated or truncated)
        return (
            self._seen(observation),
            float(reward),
            bool(terminated),
            bool(truncated),
            self._info(info),
        )

    def _check_action(self, action: Any) -> None:
        space = self.action_space
        if isinstance(space, gym.spaces.Box):
            array = np.asarray(action)
            good = array.shape == space.shape and bool(np.isfinite(array).all())
        else:
            good = not isinstance(space, gym.spaces.Discrete) or space.contains(action)
        if not good:
            raise UsageError(
                f"environment of family {self.family.name!r}, task {self.task.id}: "
                f"action {action} is not in {space}"
            )

    def _seen(self, observation: Any) -> Any:
        padded = fit_observation(observation, self.family.padded_space)
        return flatten(self.family.padded_space, padded) if self.family.flatten else padded

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        if self.family.choices_differ:
            own: Any = self.wrapped.action_space
            common: Any = self.action_space
            info = {**info, "action_mask": action_mask(own, common)}
        return {**info, "task_id": self.task.id}

    def render(self) -> Any:
        """Return what the wrapped environment draws."""
        return self.wrapped.render()

    def close(self) -> None:
        """Close the wrapped environment; a reset makes another."""
        if self._instance is not None:
            instance, self._instance = self._instance, None
            instance.env.close()
