"""What runs in a worker process: one environment, whose failures are answers instead of deaths.

Gymnasium's worker sends an exception through a queue of its own, which blocks for ever on one that
cannot be pickled. A `Guard` never raises: it answers with a `Fault` in the info.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from mtrl.envs.failures import all_finite
from mtrl.envs.task import Task
from mtrl.errors import MissingExtraError, MtrlError, UsageError

__all__ = ["ANSWER", "Answer", "Fault", "Guard", "GuardMaker"]

ANSWER = "answer"
"""The only key in the info of a guard: Gymnasium hands what is there on as it is."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why an environment gave no answer: `cause` in one line, `details` a traceback or nothing.

    `refusal` is the class of an error that a new worker would meet again, such as a wrong option.
    """

    cause: str
    details: str = ""
    refusal: type[Exception] | None = None


class Answer(NamedTuple):
    """What a guard says beside the numbers: the environment's own info, or why there is none."""

    info: dict[str, Any]
    task: Task | None = None
    fault: Fault | None = None


class _NotFiniteError(MtrlError):
    """An observation or a reward is NaN or infinite."""


class _NoAttributeError(AttributeError):
    """An attribute was looked up that the environment does not have."""


def _fault(error: BaseException) -> Fault:
    """Describe an exception in words: the exception itself might not survive the pipe."""
    if isinstance(error, _NotFiniteError):
        return Fault(cause=str(error))
    details = "".join(traceback.format_exception(error))
    for refusal in (UsageError, MissingExtraError, _NoAttributeError):
        if isinstance(error, refusal):
            return Fault(cause=str(error), details=details, refusal=refusal)
    if isinstance(error, MtrlError):
        # A family that names the task itself: the parent does so too, and wants only the cause.
        cause = str(error) if error.__cause__ is None else repr(error.__cause__)
        return Fault(cause=cause, details=details)
    # Where it was raised, for readers of one line.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}:{frame.lineno} in {frame.name}"
    return Fault(cause=f"{type(error).__name__}: {error} ({place})", details=details)


def _check_finite(what: str, value: Any) -> None:
    if not all_finite(value):
        raise _NotFiniteError(f"returned {what} that is not finite: {value}")


def _attempt(function: Callable[..., Any], *args: Any) -> Any:
    """Return what `function` returns, or a `Fault` for whatever it raises."""
    try:
        return function(*args)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the code is someone else's
        return _fault(error)


class Guard(gym.Env[Any, Any]):
    """An environment made at its first use, so that making it is under the timeout as well.

    Args:
        pickled: a function that makes the environment.
        observation_space: that of the environment, which is checked.
        action_space: likewise.
    """

    def __init__(
        self, pickled: bytes, observation_space: gym.Space[Any], action_space: gym.Space[Any]
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self._pickled = pickled
        self._env: gym.Env[Any, Any] | None = None
        # Sent with a fault, and never looked at: only its form matters.
        self._obs = observation_space.sample()

    def _made(self) -> gym.Env[Any, Any]:
        if self._env is None:
            env = pickle.loads(self._pickled)()
            for name in ("observation_space", "action_space"):
                its, families = getattr(env, name), getattr(self, name)
                if its != families:
                    raise UsageError(f"{name} of the environment is {its}, its family's {families}")
            self._env = env
        return self._env

    def _task(self, options: dict[str, Any] | None) -> Task | None:
        task = (options or {}).get("task")
        if task is None and self._made().has_wrapper_attr("task"):
            task = self._made().get_wrapper_attr("task")
        return task if isinstance(task, Task) else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the info holds an `Answer` with its task."""
        result = _attempt(self._reset, seed, options)
        if isinstance(result, Fault):
            return self._obs, {ANSWER: Answer({}, fault=result)}
        self._obs, answer = result
        return self._obs, {ANSWER: answer}

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, Answer]:
        obs, info = self._made().reset(seed=seed, options=options)
        _check_finite("an observation", obs)
        return obs, Answer(info, self._task(options))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Apply `action`; the info holds an `Answer`, and with a fault the rest means nothing."""
        result = _attempt(self._step, action)
        if isinstance(result, Fault):
            return self._obs, 0.0, False, False, {ANSWER: Answer({}, fault=result)}
        self._obs, *rest, info = result
        return (self._obs, *rest, {ANSWER: Answer(info)})

    def _step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = obs, reward, *_ = self._made().step(action)
        _check_finite("an observation", obs)
        _check_finite("a reward", reward)
        return result

    def look_up(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return an attribute of the environment, called if it can be, or a `Fault`."""
        return _attempt(self._look_up, name, args, kwargs)

    def _look_up(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._made().has_wrapper_attr(name):
            raise _NoAttributeError(f"the environment has no attribute {name!r}")
        attribute = self._made().get_wrapper_attr(name)
        return attribute(*args, **kwargs) if callable(attribute) else attribute

    def assign(self, name: str, value: Any) -> Any:
        """Set an attribute of the environment; return a `Fault` if that fails."""
        return _attempt(lambda: self._made().set_wrapper_attr(name, value))

    def finish(self) -> None:
        """Close the environment and end the process."""
        if self._env is not None:
            self._env.close()
        raise SystemExit

    def close(self) -> None:
        """Nothing: Gymnasium calls this after a failure too, when closing may do more harm."""


@dataclass(frozen=True, kw_only=True)
class GuardMaker:
    """Makes a guard, and in a worker also fits the process out for it.

    Gymnasium makes one in the parent too, to learn the spaces: there it costs nothing, because
    the environment within is not made.
    """

    pickled: bytes
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    parent: int

    def __call__(self) -> Guard:
        if os.getpid() != self.parent:
            _settle()
        return Guard(self.pickled, self.observation_space, self.action_space)


def _settle() -> None:
    """Make the process one that can be ended with all that it starts, and that ends by itself."""
    os.setpgid(0, 0)
    # Ctrl-C is for the parent, which may want to save what it has before it closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Forks of one server share its global state, and environments of others may draw from it.
    np.random.seed(None)  # noqa: NPY002
    threading.Thread(target=_die_with_the_parent, daemon=True).start()


def _die_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)
