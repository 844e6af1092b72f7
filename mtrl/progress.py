"""Progress of a long loop: a bar with the time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

__all__ = ["Progress", "format_duration"]

LINE_SHARE = 0.1
LINE_SECONDS = 30.0


class Progress:
    """Reports on a loop of `total` steps, of which `done` were done before (a resumed run).

    Args:
        total: steps in the whole loop.
        done: steps done before; they do not count towards the speed.
        label: what runs, such as "meta-training".
        stream: where to write; standard error if not given. A bar if it is a terminal, else a line
            at every tenth of the loop, at its end, and at least every 30 s.
    """

    def __init__(
        self, total: int, *, done: int = 0, label: str = "", stream: TextIO | None = None
    ) -> None:
        stream = sys.stderr if stream is None else stream
        display = _Bar if stream.isatty() else _Lines
        self._display: _Display = display(total, done, label, stream)
        self.done = done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._display.close()

    def advance(self, values: Mapping[str, float] | None = None, steps: int = 1) -> None:
        """Count `steps` as done and show `values` beside the progress."""
        self.done += steps
        self._display.show(self.done, values or {})


class _Display(Protocol):
    def show(self, done: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class _Bar:
    def __init__(self, total: int, done: int, label: str, stream: TextIO) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            total=total, initial=done, desc=label or None, file=stream, dynamic_ncols=True
        )

    def show(self, done: int, values: Mapping[str, float]) -> None:
        # refresh=False: the bar redraws at its own pace, however fast the loop is.
        self._bar.set_postfix_str(_format_values(values), refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    def __init__(self, total: int, done: int, label: str, stream: TextIO) -> None:
        self._total = total
        self._first = done
        self._label = f"{label}: " if label else ""
        self._stream = stream
        self._started = self._last_time = time.monotonic()
        self._next_line = self._line_after(done)

    def show(self, done: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        if done < self._next_line and now - self._last_time < LINE_SECONDS:
            return
        self._last_time = now
        self._next_line = self._line_after(done)
        seconds_left = (now - self._started) / (done - self._first) * (self._total - done)
        parts = [
            f"{self._label}{done}/{self._total} ({done / self._total:.0%})",
            f"{format_duration(seconds_left)} left",
            _format_values(values),
        ]
        self._stream.write(", ".join(part for part in parts if part) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Every line is complete already."""

    def _line_after(self, done: int) -> int:
        tenth = max(1, round(self._total * LINE_SHARE))
        return min((done // tenth + 1) * tenth, self._total)


def _format_values(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def format_duration(seconds: float) -> str:
    """Return `seconds` as h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
