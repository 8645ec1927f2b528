"""Fixtures: a video file, and stand-ins for OpenCV captures."""

from pathlib import Path
from typing import Any

import pytest

from samples.captures import write_video

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list of stand-ins that `cv2.VideoCapture` returns one after the other."""
    queue: list[Any] = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: queue.pop(0))
    return queue
