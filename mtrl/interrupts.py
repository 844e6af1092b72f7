"""Ctrl-C and SIGTERM: the first asks a loop to finish its step and save, the second quits at once.

Exit codes are the shell's convention, 128 plus the signal's number: 130 for SIGINT, 143 for
SIGTERM.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from mtrl.errors import MtrlError

__all__ = ["Interrupted", "Interrupts", "terminate_after"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 10.0


class Interrupted(MtrlError):
    """A run that was asked to stop, and did so after saving; the message says how to resume."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Interrupts:
    """While entered, remembers the first signal in `signal_number` and quits on the second.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            # No clean-up: that may be what hangs, and a run survives a kill at any instant anyway.
            os._exit(128 + number)
        self.signal_number = number


def terminate_after(wait: Callable[[], object]) -> None:
    """End this process once `wait` returns, as SIGTERM does, or after ten seconds without saving.

    For a process that works for another: `wait` returns when that one has died.
    """

    def run() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGTERM)
        # A step or a compilation may take long; a run survives a kill at any instant.
        time.sleep(GRACE_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=run, daemon=True).start()
