"""Many copies of one MuJoCo model, stepped together by a few threads, to Gymnasium's last bit.

A slot is a row of numbers: everything that a step depends on, the solver's warm start included. Each
thread takes the next slot that waits, puts its row into the one `MjData` that the thread has, steps,
and takes the row out; MuJoCo runs without Python's lock, so that the threads run side by side. What a
slot computes depends on its row alone, not on the thread or on the other slots.

`mujoco.rollout` would loop in C++, but it does not give back the warm start with which the next step
begins. Contacts turn that difference of the solver's tolerance into another trajectory within an
episode, and the loop's share of a step is a few per cent.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from mtrl.errors import MissingExtraError, MtrlError

__all__ = ["Bodies", "available_threads", "check_mujoco", "gymnasium_model"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
MAX_VALUE = 1e10
"""MuJoCo's own limit: it resets a simulation that holds a larger number."""


def check_mujoco(needed_by: str) -> None:
    """Check that MuJoCo can be imported.

    Raises:
        MissingExtraError: it is not installed; the message names what needs it.
        MtrlError: it is, and fails as it is imported, as it does where `MUJOCO_GL` asks for what
            the machine lacks.
    """
    try:
        import mujoco  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f'{needed_by} needs MuJoCo; pip install "mtrl-suite[mujoco]"'
        ) from error
    except Exception as error:  # whatever the libraries that it loads raise
        raise MtrlError(
            f"{needed_by} needs MuJoCo, which fails as it is imported: {error!r}; "
            f"MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r}: unset it if nothing is to be drawn"
        ) from error


@functools.cache
def gymnasium_model(gymnasium_id: str) -> tuple[Any, int]:
    """Return the MuJoCo model of a Gymnasium environment, and its frames per step.

    It is shared: copy it to change it.
    """
    env: Any = gym.make(gymnasium_id, disable_env_checker=True).unwrapped
    return env.model, env.frame_skip


def available_threads() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _helpers(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads that all batches of this process share; a fork's child has none of them."""
    return ThreadPoolExecutor(threads, thread_name_prefix="mtrl-mujoco")


class _Worker:
    """One thread's simulation, and views of the arrays that are kept."""

    def __init__(self, model: Any, fields: Sequence[str]) -> None:
        import mujoco

        self.data = mujoco.MjData(model)
        self.parts = [getattr(self.data, name).reshape(-1) for name in fields]


class Bodies:
    """The states of one robot in every slot.

    Args:
        models: one per slot, alike but for their numbers; slots may share one.
        frame_skip: simulation steps per step.
        fields: names of `MjData` arrays that are kept as a reset or step leaves them.
        threads: at most so many step at a time.

    Attributes:
        states: (slots, numbers), each row as `mj_getState` writes it.
        qpos: (slots, positions), a view of `states`.
        qvel: (slots, velocities), a view of `states`.
        fields: by name, views shaped (slots, *shape of the field).
    """

    def __init__(
        self, models: Sequence[Any], *, frame_skip: int, fields: Sequence[str], threads: int
    ) -> None:
        self.models, self._frame_skip = list(models), frame_skip
        self._names, self._threads = tuple(fields), min(threads, len(models))
        self._prepare()

    def _prepare(self, states: Array | None = None, kept: Array | None = None) -> None:
        """Make all arrays, and the simulations and views, which cannot be copied or pickled."""
        import mujoco

        model, kinds, slots = self.models[0], mujoco.mjtState, len(self.models)
        self._workers = [_Worker(model, self._names) for _ in range(self._threads)]
        # In the order in which mj_getState writes them.
        parts = [kinds.mjSTATE_TIME, kinds.mjSTATE_QPOS, kinds.mjSTATE_QVEL, kinds.mjSTATE_ACT]
        parts += [kinds.mjSTATE_WARMSTART, kinds.mjSTATE_CTRL]
        self._spec = sum(int(part) for part in parts)
        ends = np.cumsum([mujoco.mj_stateSize(model, int(part)) for part in parts]).tolist()
        self.states = np.zeros((slots, ends[-1])) if states is None else states
        self.qpos, self.qvel = self.states[:, ends[0] : ends[1]], self.states[:, ends[1] : ends[2]]
        self._controls = self.states[:, ends[4] :]
        example = self._workers[0]
        widths = np.cumsum([0, *(len(part) for part in example.parts)]).tolist()
        self._kept = np.zeros((slots, widths[-1])) if kept is None else kept
        self.fields = {
            name: self._kept[:, start:end].reshape(slots, *getattr(example.data, name).shape)
            for name, start, end in zip(self._names, widths, widths[1:], strict=False)
        }
        self._rows = list(zip(self.states, self._kept, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        names = ("models", "_frame_skip", "_names", "_threads", "states", "_kept")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)
        self._prepare(self.states, self._kept)

    def __len__(self) -> int:
        return len(self.models)

    def arrays(self) -> dict[str, Array]:
        """Return the arrays themselves that hold all states: to be copied, or written into."""
        return {"states": self.states, "kept": self._kept}

    @property
    def seconds_per_step(self) -> float:
        """Simulated time of one step."""
        return float(self.models[0].opt.timestep * self._frame_skip)

    @property
    def start(self) -> Array:
        """The positions in which the model is described, shaped (positions,)."""
        return np.array(self.models[0].qpos0)

    def reset(self, slots: NDArray[np.intp], qpos: Array, qvel: Array) -> Flags:
        """Put these slots into these positions and velocities, shaped (slots, ...), at time 0.

        Returns:
            Which of them hold numbers that are not finite or beyond `MAX_VALUE`.
        """
        self.states[slots] = 0.0
        self.qpos[slots], self.qvel[slots] = qpos, qvel
        self._run(self._reset, slots)
        return self._bad(slots)

    def step(self, slots: NDArray[np.intp], controls: NDArray[Any]) -> Flags:
        """Step these slots with controls shaped (slots, actuators).

        Returns:
            Which of them have diverged: they hold numbers that are not finite or beyond
            `MAX_VALUE`, or did, so that MuJoCo began them anew.
        """
        before = self.states[slots, 0]
        self._controls[slots] = controls
        self._run(self._step, slots)
        # Time is the first number. What MuJoCo began anew has lost at least one simulation step.
        shortest = (self._frame_skip - 0.5) * self.models[0].opt.timestep
        return np.asarray(self._bad(slots) | (self.states[slots, 0] - before < shortest))

    def _bad(self, slots: NDArray[np.intp]) -> Flags:
        return np.asarray(~(np.abs(self.states[slots]) < MAX_VALUE).all(axis=1))

    def _run(self, work: Callable[[_Worker, Iterator[int]], None], slots: NDArray[np.intp]) -> None:
        waiting = iter(slots.tolist())  # `next` of a list's iterator is atomic
        helping = self._workers[1 : len(slots) // 2]  # sharing one slot would not pay
        futures = []
        if helping:
            helpers = _helpers(len(self._workers) - 1, os.getpid())
            futures = [helpers.submit(work, worker, waiting) for worker in helping]
        work(self._workers[0], waiting)
        for future in futures:
            future.result()

    def _reset(self, worker: _Worker, slots: Iterator[int]) -> None:
        import mujoco

        for slot in slots:
            model, (row, kept) = self.models[slot], self._rows[slot]
            mujoco.mj_resetData(model, worker.data)
            mujoco.mj_setState(model, worker.data, row, self._spec)
            mujoco.mj_forward(model, worker.data)
            self._take(model, worker, row, kept)

    def _step(self, worker: _Worker, slots: Iterator[int]) -> None:
        import mujoco

        for slot in slots:
            model, (row, kept) = self.models[slot], self._rows[slot]
            mujoco.mj_setState(model, worker.data, row, self._spec)
            mujoco.mj_step(model, worker.data, self._frame_skip)
            if worker.parts:
                # Gymnasium does so in every step, for the contact forces.
                mujoco.mj_rnePostConstraint(model, worker.data)
            self._take(model, worker, row, kept)

    def _take(self, model: Any, worker: _Worker, row: Array, kept: Array) -> None:
        import mujoco

        mujoco.mj_getState(model, worker.data, row, self._spec)
        if worker.parts:
            np.concatenate(worker.parts, out=kept)
