"""Failures inside an environment that others wrote, reported with its family, its task and the cause."""

import math
from types import TracebackType
from typing import Any, Self

import numpy as np
from gymnasium.error import DependencyNotInstalled

from mtrl.envs.task import Task
from mtrl.errors import MissingExtraError, MtrlError

__all__ = ["Blaming", "all_finite", "missing_package"]


def missing_package(family: str, error: BaseException) -> MissingExtraError:
    """Return the error for an environment whose package is not installed; `error` names it."""
    return MissingExtraError(
        f"task family {family!r} needs a package that is not installed: {error}"
    )


def all_finite(value: Any) -> bool:
    """Return whether no number in an observation or reward, however nested, is NaN or infinite."""
    if isinstance(value, float | int):  # a reward, most often
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    if isinstance(value, tuple | list):
        return all(map(all_finite, value))
    array = np.asarray(value)
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


class Blaming:
    """A `with` statement's guard: what an environment raises becomes an error that names its task.

    Args:
        family: its name.
        task: what the environment was given.
        doing: what it was asked to do, such as "step".
    """

    def __init__(self, family: str, task: Task, doing: str) -> None:
        self._family, self._task, self._doing = family, task, doing

    def __enter__(self) -> Self:
        return self

    def failed(self, cause: str) -> MtrlError:
        """Return the error that this environment did `cause`."""
        task = self._task
        return MtrlError(
            f"environment of task family {self._family!r}, task {task.id} {dict(task.params)}, "
            f"failed in {self._doing}: {cause}"
        )

    def finite(self, what: str, value: Any) -> None:
        """Check an observation or a reward.

        Raises:
            MtrlError: a number in it is NaN or infinite.
        """
        if not all_finite(value):
            raise self.failed(f"the {what} is {value}, which is not finite")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, MtrlError):
            return
        if isinstance(error, DependencyNotInstalled | ModuleNotFoundError):
            raise missing_package(self._family, error) from error
        # An environment that calls sys.exit would end the run without its last words.
        if isinstance(error, Exception | SystemExit):
            raise self.failed(repr(error)) from error
