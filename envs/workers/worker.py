"""One environment in a process of its own: an `AsyncVectorEnv` of one, every wait of it bounded.

A vector of such workers instead of one `AsyncVectorEnv` of all: what one worker does never blocks
the others, and one that died is replaced without touching the episodes of the rest.
"""

import functools
import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gymnasium.error import NoAsyncCallError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.utils import CloudpickleWrapper

from mtrl.envs.family import TaskFamily, TaskSource
from mtrl.envs.workers.guard import Fault, GuardMaker
from mtrl.errors import UsageError

__all__ = ["Command", "Context", "Worker", "WorkerSettings", "starter"]

Context = Literal["forkserver", "spawn"]
Command = Literal["reset", "step", "call"]

_REAP_SECONDS = 5.0
"""How long a killed process may take to be gone: it depends on the system, not on the process."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How much is forgiven.

    Args:
        timeout: seconds for one answer: to a step, a reset or a call.
        start_timeout: seconds for the start of a process, and as many for its first reset, which
            makes the environment and imports what it needs.
        max_restarts: how often each environment may fail; once more is an error.
        context: how processes are started. Not "fork": a fork of a process in which torch has
            started its threads may deadlock.

    Raises:
        UsageError: a value out of range.
    """

    timeout: float = 60.0
    start_timeout: float = 180.0
    max_restarts: int = 3
    context: Context = "forkserver"

    def __post_init__(self) -> None:
        for name in ("timeout", "start_timeout"):
            seconds = getattr(self, name)
            if not 0 < seconds < math.inf:
                raise UsageError(f"{name} is {seconds}; it must be a positive number of seconds")
        if self.max_restarts < 0:
            raise UsageError(f"max_restarts is {self.max_restarts}; it must be 0 or more")
        if self.context not in get_args(Context):
            allowed = " or ".join(map(repr, get_args(Context)))
            raise UsageError(f"context is {self.context!r}; it must be {allowed}")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Worker(AsyncVectorEnv[Any, Any]):
    """A process with one environment; `request` a command, then take the `reply`.

    Args:
        maker: what makes the environment there.
        context: how the process is started.
        timeout: seconds that the start may take.

    Raises:
        Exception: it could not be started, or not in time; the worker has been ended.
    """

    def __init__(self, maker: GuardMaker, *, context: Context, timeout: float) -> None:
        self._owner = os.getpid()
        self._pending: Command | None = None
        self._timeout = self._deadline = math.nan
        # Gymnasium waits for a new worker without a limit; a dead one ends that wait.
        alarm = threading.Timer(timeout, self.kill)
        alarm.daemon = True
        alarm.start()
        try:
            super().__init__(
                [maker],
                # Spaces whose elements vary in size have no place in shared memory.
                shared_memory=maker.observation_space.is_np_flattenable,
                copy=False,
                context=context,
                autoreset_mode=AutoresetMode.SAME_STEP,
            )
        except BaseException:
            self.kill()
            raise
        finally:
            alarm.cancel()

    @property
    def pending(self) -> bool:
        """Whether a request has not been replied to."""
        return self._pending is not None

    @property
    def pid(self) -> int:
        """The process id."""
        return self.processes[0].pid or 0

    def request(
        self, command: Command, args: tuple[Any, ...], kwargs: dict[str, Any], *, timeout: float
    ) -> None:
        """Send a command, to be answered within `timeout` seconds; take the answer with `reply`."""
        self._pending = command
        self._timeout, self._deadline = timeout, time.monotonic() + timeout
        try:
            getattr(self, f"{command}_async")(*args, **kwargs)
        except OSError:
            pass  # The pipe is broken: `reply` finds out why.

    def reply(self) -> Any:
        """Return Gymnasium's answer to the request, or a `Fault`, after which the worker is dead."""
        command, left = self._pending, max(self._deadline - time.monotonic(), 0.0)
        try:
            answer = getattr(self, f"{command}_wait")(timeout=left)
        except multiprocessing.TimeoutError:
            answer = Fault(cause=f"gave no answer to {command} within {self._timeout:g} s")
            self.kill()
        except Exception as error:  # noqa: BLE001  # others wrote what is read from the pipe
            answer = Fault(cause=self._cause_of(error))
            self.kill()
        # After an interrupt it stays pending: half of the answer may have been read.
        self._pending = None
        return answer

    def _cause_of(self, error: Exception) -> str:
        """Return how the process ended, or else what came out of the pipe."""
        process = self.processes[0]
        # Gymnasium says that there was no call where the pipe was broken at the request.
        broken = isinstance(error, OSError | EOFError | NoAsyncCallError)
        if broken:
            process.join(_REAP_SECONDS)
        code = process.exitcode
        if code is None or not broken:
            return f"the answer could not be read: {error!r}"
        if code < 0:
            return f"killed by signal {-code} ({signal.strsignal(-code)})"
        return f"exited with code {code}"

    def finish(self) -> None:
        """Ask the environment to close and the process to end, without waiting for either."""
        if self._pending is None:
            self.request("call", ("finish",), {}, timeout=math.inf)

    def join(self, timeout: float) -> None:
        """Wait until the process has ended, but at most `timeout` seconds."""
        self.processes[0].join(timeout)

    def kill(self) -> None:
        """End the process and those that it started, now; a forked copy of the parent may not."""
        if os.getpid() != self._owner:
            return
        for process in getattr(self, "processes", []):
            if process.pid is None:
                continue  # It could not be started.
            # Its children may outlive it, in a group with its number. That number cannot be another
            # process's while they live; if it is another's now, there are none.
            if process.is_alive() or not _exists(process.pid):
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass  # It had not come as far as to have a group.
            process.kill()
            process.join(_REAP_SECONDS)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Kill the process and give its pipes back; `AsyncVectorEnv` would wait for it."""
        self.kill()
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()
        self.error_queue.close()


def starter(
    family: TaskFamily, source: TaskSource, settings: WorkerSettings
) -> Callable[[], Worker | Fault]:
    """Return a function that starts a worker for `family.make(source)`, or says why it cannot.

    Raises:
        UsageError: the family cannot be pickled.
    """
    try:
        pickled = pickle.dumps(CloudpickleWrapper(functools.partial(family.make, source)))
    except Exception as error:
        raise UsageError(
            f"family {family.name!r} cannot be sent to a worker process: {error!r}; "
            "what it holds must go through cloudpickle"
        ) from error
    maker = GuardMaker(
        pickled=pickled,
        observation_space=family.observation_space,
        action_space=family.action_space,
        parent=os.getpid(),
    )
    return functools.partial(_started, maker, settings)


def _started(maker: GuardMaker, settings: WorkerSettings) -> Worker | Fault:
    if settings.context == "forkserver":
        # The server, once it runs, has imported these, and starts a worker in milliseconds.
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(["__main__", "mtrl.envs.workers.guard"])
    try:
        return Worker(maker, context=settings.context, timeout=settings.start_timeout)
    except Exception as error:  # noqa: BLE001  # whatever stopped it, it is not there
        return Fault(
            cause=f"its process did not start within {settings.start_timeout:g} s, or ended at once "
            f"({error!r}); a script that starts workers does so under "
            "`if __name__ == '__main__':`"
        )
