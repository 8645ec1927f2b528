"""The window: what it shows, how it stops a run, and a missing screen."""

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from idol_runtime.errors import OutputError
from idol_runtime.sinks.display import DisplaySink
from samples.results import SIZE, context, frame, result

cv2 = pytest.importorskip("cv2")


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A simulated screen: the images shown, the next key, and whether the window is still visible."""
    state: dict[str, Any] = {"shown": [], "key": -1, "visible": 1.0, "destroyed": 0}

    def destroy(_: str) -> None:
        state["destroyed"] += 1

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, image: state["shown"].append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda _: state["key"])
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: state["visible"])
    monkeypatch.setattr(cv2, "destroyWindow", destroy)
    return state


@pytest.mark.parametrize(
    ("key", "visible", "stopped"),
    [(-1, 1.0, False), (ord("x"), 1.0, False), (ord("q"), 1.0, True), (27, 1.0, True), (-1, 0.0, True)],
)
def test_the_window_shows_and_stops(window: dict[str, Any], key: int, visible: float, stopped: bool) -> None:
    with DisplaySink("", context()) as sink:
        window.update(key=key, visible=visible)
        sink.write(frame(), result())
        assert sink.stopped is stopped
    sink.close()
    assert window["shown"][0].shape == (*SIZE, 3)
    assert window["destroyed"] == 1


def test_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=-6))
    with pytest.raises(OutputError, match=r"cannot open a window: .* write a video instead"):
        DisplaySink("", context())


def test_a_window_that_fails_later(window: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("no window")

    sink = DisplaySink("", context())
    monkeypatch.setattr(cv2, "imshow", refuse)
    monkeypatch.setattr(cv2, "destroyWindow", refuse)
    with pytest.raises(OutputError, match="cannot draw in the window"), sink:
        sink.write(frame(), result())
