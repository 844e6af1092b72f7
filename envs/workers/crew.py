"""The workers of a vector environment: they are started, asked, replaced when lost, and ended."""

import atexit
import functools
import logging
import time
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from mtrl.envs.family import TaskFamily, TaskSource
from mtrl.envs.task import Task
from mtrl.envs.workers.guard import ANSWER, Answer, Fault
from mtrl.envs.workers.worker import Command, Worker, WorkerSettings, starter
from mtrl.errors import UsageError, WorkerError
from mtrl.seeding import numpy_generator

__all__ = ["Begun", "Crew"]

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long `close` at most waits for environments to close, before it ends their processes."""

Seeds = Mapping[int, int | None]
Options = dict[str, Any] | None
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(kw_only=True)
class _Slot:
    """One environment: where its tasks come from, and what is known of its worker."""

    source: TaskSource
    worker: Worker | None = None
    fault: Fault | None = None  # why there is no worker, where one was lost
    pid: int | None = None
    seed: int | None = None
    restarts: int = 0
    task: Task | None = None

    def stop(self, fault: Fault | None) -> None:
        """End the worker, because of `fault` or, without one, through no fault of its own."""
        if self.worker is not None:
            self.worker.close()
        self.worker, self.fault = None, fault

    def next_seed(self) -> int | None:
        """Return the seed of a new worker: not that of the old one, which would play it again."""
        if self.seed is None:
            return None
        return int(numpy_generator(self.seed, f"restart {self.restarts}").integers(2**31))


class Begun(NamedTuple):
    """An episode that begins: `obs` a batch of one, `cause` of the restart if there was one."""

    obs: Any
    info: dict[str, Any]
    cause: str | None


class Crew:
    """Workers with an environment of one family each, which start when first needed.

    Args:
        family: makes the environments.
        sources: of the tasks, one per worker.
        settings: what is forgiven.
    """

    def __init__(
        self, family: TaskFamily, sources: Sequence[TaskSource], settings: WorkerSettings
    ) -> None:
        self.family, self.settings = family, settings
        self._slots = [_Slot(source=source) for source in sources]
        self._closed = False
        # Python ends child processes at exit with a signal that a stopped one does not receive, and
        # waits for them without a limit. What is registered later runs before that.
        self._at_exit = functools.partial(_kill, weakref.ref(self))
        atexit.register(self._at_exit)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def restarts(self) -> list[int]:
        """How often each worker has been replaced."""
        return [slot.restarts for slot in self._slots]

    @property
    def pids(self) -> list[int | None]:
        """The process ids, None where no process runs."""
        return [None if slot.worker is None else slot.pid for slot in self._slots]

    @property
    def tasks(self) -> list[Task | None]:
        """The tasks that are played, None where the environment does not say."""
        return [slot.task for slot in self._slots]

    @property
    def lost(self) -> list[int]:
        """The workers that failed and have not been replaced."""
        return [index for index, slot in enumerate(self._slots) if slot.fault is not None]

    def exchange(
        self, command: Command, arguments: Mapping[int, Arguments], new: Collection[int] = ()
    ) -> dict[int, Any]:
        """Send a command to these workers and return by index what each answers, or its fault.

        Those that are `new` have as long for it as they may take to start.

        An interrupt ends those that have not answered: what they say later must not be taken for
        the answer to something else.
        """
        slots = {index: self._slots[index] for index in arguments}
        asked = {index: slot.worker for index, slot in slots.items() if slot.worker is not None}
        try:
            for index, worker in asked.items():
                limits = self.settings
                timeout = limits.start_timeout if index in new else limits.timeout
                worker.request(command, *arguments[index], timeout=timeout)
            replies: dict[int, Any] = {index: slot.fault for index, slot in slots.items()}
            for index, worker in asked.items():
                replies[index] = worker.reply()
            return replies
        except BaseException:
            for index, worker in asked.items():
                if worker.pending:
                    slots[index].stop(None)
            raise

    def handle(self, faults: Mapping[int, Fault]) -> None:
        """End the workers that failed.

        Raises:
            UsageError, MissingExtraError, AttributeError: an environment refused what it was
                asked, as a new one would; it goes on.
        """
        for index, fault in faults.items():
            if fault.refusal is None:
                self._slots[index].stop(fault)
        for index, fault in faults.items():
            if fault.refusal is not None:
                raise fault.refusal(f"{self.name(index)}: {fault.cause}")

    def begin(
        self, indices: Collection[int], seeds: Seeds | None = None, options: Options = None
    ) -> dict[int, Begun]:
        """Begin an episode in these environments, in new workers where there is none.

        Raises:
            WorkerError: an environment failed too often; all workers have been ended.
            UsageError, MissingExtraError: an environment refused.
        """
        for index, seed in (seeds or {}).items():
            self._slots[index].seed = self._slots[index].seed if seed is None else seed
        begun: dict[int, Begun] = {}
        causes: dict[int, str] = {}
        while waiting := [index for index in indices if index not in begun]:
            causes |= self._count(waiting)
            fresh = self.start(waiting)
            requests = {i: self._reset(i, i in fresh, seeds or {}, options) for i in waiting}
            replies = self.exchange("reset", requests, new=fresh)
            answers = {index: _answer(reply) for index, reply in replies.items()}
            self.handle({i: each for i, each in answers.items() if isinstance(each, Fault)})
            for index, answer in answers.items():
                if not isinstance(answer, Fault):
                    begun[index] = Begun(replies[index][0], answer.info, causes.get(index))
                    self.plays(index, answer.task)
        return begun

    def _reset(self, index: int, fresh: bool, seeds: Seeds, options: Options) -> Arguments:
        seed, slot = seeds.get(index), self._slots[index]
        if seed is None and fresh:
            seed = slot.next_seed()
        return (), {"seed": [seed], "options": options}

    def plays(self, index: int, task: Task | None) -> None:
        """Note the task of the episode that has begun."""
        self._slots[index].task = task

    def _count(self, indices: Iterable[int]) -> dict[int, str]:
        """Count a restart of those that were lost, and return the causes."""
        causes, limit = {}, self.settings.max_restarts
        for index in indices:
            slot = self._slots[index]
            if slot.fault is None:
                continue
            if slot.restarts >= limit:
                error = self.error(index, slot.fault)
                self.close()
                raise error
            slot.restarts += 1
            causes[index] = slot.fault.cause
            details = f"\n{slot.fault.details}" if slot.fault.details else ""
            message = "%s failed: %s; restart %d of %d%s"
            logger.warning(
                message, self.name(index), slot.fault.cause, slot.restarts, limit, details
            )
        return causes

    def start(self, indices: Iterable[int]) -> set[int]:
        """Start the workers that are missing, all at the same time; return which they are.

        Raises:
            UsageError: the crew was closed, or the family cannot be pickled.
        """
        if self._closed:
            raise UsageError(f"environments of {self.family.name!r} are closed; make new ones")
        missing = [index for index in indices if self._slots[index].worker is None]
        if not missing:
            return set()
        slots = [self._slots[index] for index in missing]
        starters = [starter(self.family, slot.source, self.settings) for slot in slots]
        with ThreadPoolExecutor(len(missing)) as pool:
            for slot, made in zip(slots, pool.map(lambda start: start(), starters), strict=True):
                if isinstance(made, Fault):
                    slot.fault = made
                else:
                    slot.worker, slot.fault, slot.pid = made, None, made.pid
        return set(missing)

    def call(self, name: str, arguments: Mapping[int, Arguments]) -> list[Any]:
        """Look an attribute up in these environments, and call it if it can be called.

        Raises:
            AttributeError: there is none.
            UsageError: an environment refused the arguments.
            WorkerError: it failed; where its process has died, the next step or reset replaces it.
        """
        requests: dict[int, Arguments] = {
            index: (("look_up", name, args, kwargs), {})
            for index, (args, kwargs) in arguments.items()
        }
        return self._ask(requests)

    def assign(self, name: str, values: Mapping[int, Any]) -> None:
        """Set an attribute of these environments; what it raises is what `call` raises."""
        self._ask({index: (("assign", name, value), {}) for index, value in values.items()})

    def _ask(self, requests: Mapping[int, Arguments]) -> list[Any]:
        fresh = self.start(i for i in requests if self._slots[i].fault is None)
        replies = self.exchange("call", requests, new=fresh)
        self._handle_answers(replies)
        for index, reply in replies.items():
            if isinstance(reply, Fault):
                raise self.error(index, reply)
        return [reply[0] for reply in replies.values()]

    def _handle_answers(self, replies: Mapping[int, Any]) -> None:
        """End the workers that died of a call, and raise what the others have against it."""
        self.handle({i: each for i, each in replies.items() if isinstance(each, Fault)})
        for index, reply in replies.items():
            answer = None if isinstance(reply, Fault) else reply[0]
            if isinstance(answer, Fault):
                if answer.refusal is not None:
                    raise answer.refusal(f"{self.name(index)}: {answer.cause}")
                raise self.error(index, answer)

    def set_sources(self, sources: Mapping[int, TaskSource]) -> None:
        """Take the tasks of the next episodes from other sources, also after a restart.

        Raises:
            UsageError, WorkerError: an environment refused its source, or raised something else.
        """
        running: dict[int, Arguments] = {
            index: (("look_up", "set_task_source", (source,), {}), {})
            for index, source in sources.items()
            if self._slots[index].worker is not None
        }
        self._handle_answers(self.exchange("call", running))
        for index, source in sources.items():
            self._slots[index].source = source

    def error(self, index: int, fault: Fault) -> WorkerError:
        """Return the error that this worker failed, with its traceback in the notes."""
        error = WorkerError(
            f"{self.name(index)} failed: {fault.cause}. It was restarted "
            f"{self._slots[index].restarts} times; leave the task out, raise max_restarts or "
            "timeout (WorkerSettings), or look at it in one process with family.make(task)"
        )
        if fault.details:
            error.add_note(f"In the worker:\n{fault.details}")
        return error

    def name(self, index: int) -> str:
        """Return words for this environment: family, task and process."""
        slot = self._slots[index]
        task = slot.task or slot.source
        what = f"task {task.id} {dict(task.params)}" if isinstance(task, Task) else f"a {task} task"
        return (
            f"environment {index} of task family {self.family.name!r}, {what}, "
            f"in worker process {slot.pid}"
        )

    def close(self) -> None:
        """End all processes, after their environments have had a moment to close themselves."""
        self._closed = True
        workers = [slot.worker for slot in self._slots if slot.worker is not None]
        try:
            for worker in workers:
                worker.finish()
            deadline = time.monotonic() + min(CLOSE_SECONDS, self.settings.timeout)
            for worker in workers:
                worker.join(max(deadline - time.monotonic(), 0.0))
        finally:
            self.kill()

    def kill(self) -> None:
        """End all processes now."""
        self._closed = True
        atexit.unregister(self._at_exit)
        for slot in self._slots:
            slot.stop(None)

    def __del__(self) -> None:
        if hasattr(self, "_at_exit"):
            self.kill()


def _kill(crew: "weakref.ref[Crew]") -> None:
    found = crew()
    if found is not None:
        found.kill()


def _answer(reply: Any) -> Answer | Fault:
    """Return the answer in the reply to a reset, or the fault in its place."""
    if isinstance(reply, Fault):
        return reply
    answer: Answer = reply[1][ANSWER][0]
    return answer.fault or answer
