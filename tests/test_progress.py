"""Progress: a bar on a terminal, few plain lines elsewhere."""

import io

import pytest

from mtrl import progress
from mtrl.progress import Progress, format_duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_elsewhere_a_line_at_every_tenth_says_how_long_is_left(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress(200, label="training", stream=stream) as bar:
        for step in range(200):
            clock[0] += 0.5
            bar.advance({"loss": 1 / (step + 1)})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "training: 20/200 (10%), 1:30 left, loss 0.05"
    assert lines[-1] == "training: 200/200 (100%), 0:00 left, loss 0.005"


def test_a_slow_loop_is_heard_of_every_half_minute(clock: list[float]) -> None:
    stream = io.StringIO()
    bar = Progress(1000, stream=stream)
    for _ in range(7):
        clock[0] += 10
        bar.advance()
    assert stream.getvalue().splitlines() == [
        "3/1000 (0%), 2:46:10 left",
        "6/1000 (1%), 2:45:40 left",
    ]


def test_steps_done_before_a_resume_do_not_count_towards_the_speed(clock: list[float]) -> None:
    stream = io.StringIO()
    bar = Progress(100, done=85, stream=stream)
    for _ in range(5):
        clock[0] += 2
        bar.advance()
    assert stream.getvalue() == "90/100 (90%), 0:20 left\n"


def test_a_total_that_is_no_multiple_of_ten_ends_with_a_line(clock: list[float]) -> None:
    stream = io.StringIO()
    bar = Progress(7, stream=stream)
    for _ in range(7):
        bar.advance()
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == [
        f"{step}/7" for step in range(1, 8)
    ]


def test_a_terminal_gets_a_bar_that_ends_complete() -> None:
    stream = Terminal()
    with Progress(10, done=4, label="training", stream=stream) as bar:
        bar.advance({"loss": 0.25}, steps=6)
    assert bar.done == 10
    last = stream.getvalue().split("\r")[-1]
    assert "training: 100%" in last
    assert "10/10" in last
    assert "loss 0.25" in last


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(1).advance()
    captured = capsys.readouterr()
    assert captured.err.startswith("1/1 (100%)")
    assert captured.out == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
