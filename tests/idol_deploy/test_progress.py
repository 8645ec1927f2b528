"""Progress on a terminal, and as lines in a file or pipe."""

from __future__ import annotations

import sys
import threading

import pytest

from idol_deploy import progress
from idol_deploy.progress import StepDisplay, counted, steps
from samples.waiting import LIMIT_S


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_long_step_has_a_line_every_ten_seconds_and_one_at_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = _Clock()
    display = StepDisplay(terminal=False, clock=clock)
    display("reading")
    for _ in counted(range(120), display, "comparing", 120):
        clock.now += 0.5
    display("writing")
    display.finish()
    assert capsys.readouterr().out.splitlines() == [
        "reading",
        "comparing",
        "comparing: 20 of 120 frames, 0:50 left",
        "comparing: 40 of 120 frames, 0:40 left",
        "comparing: 60 of 120 frames, 0:30 left",
        "comparing: 80 of 120 frames, 0:20 left",
        "comparing: 100 of 120 frames, 0:10 left",
        "comparing: 120 of 120 frames, 0:00 left",
        "comparing: finished in 1:00",
        "writing",
    ]


def test_the_time_left_counts_from_where_a_step_continues(capsys: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    display = StepDisplay(terminal=False, clock=clock)
    display("comparing", 50, 100)
    clock.now = 10.0
    display("comparing", 60, 100)
    clock.now = 3700.0
    display("comparing", 61, unit="groups")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "comparing: 60 of 100 frames, 0:40 left",
        "comparing: 61 groups, 1:01:40",
    ]


def test_a_terminal_shows_one_line_that_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock()
    monkeypatch.setattr("os.get_terminal_size", lambda *_: type("Size", (), {"columns": 40})())
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2)
    display = StepDisplay(terminal=True, clock=clock)
    display("comparing the fp16 graph's tracks with those of fp32", 0, 288)
    clock.now = 4.0
    display("comparing the fp16 graph's tracks with those of fp32", 8, 288)
    display.clear()
    out, err = capsys.readouterr()
    assert out == ""
    *_, first, second, last = err.split("\r\x1b[K")
    assert (first, last) == ("comparing the fp16 graph's tracks wit …", "")
    assert second.endswith(": 8 of 288 frames, 2:20 left …")
    assert len(second) < 40


def test_a_terminal_is_redrawn_while_a_step_says_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_TERMINAL_SECONDS", 0.01)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    drawn = threading.Event()
    draw = StepDisplay._draw

    def once_more(display: StepDisplay) -> None:
        draw(display)
        if threading.current_thread() is not threading.main_thread():
            drawn.set()

    monkeypatch.setattr(StepDisplay, "_draw", once_more)
    with steps(redraw=True) as announce:
        announce("tracing")
        assert drawn.wait(LIMIT_S)
    assert not any(thread.name == "idol-progress" for thread in threading.enumerate())
    assert capsys.readouterr().err.endswith("\r\x1b[K")


def test_an_interrupted_step_is_not_called_finished(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with steps() as announce:
            announce("tracing")
            announce._begun -= 60  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().out == "tracing\n"
