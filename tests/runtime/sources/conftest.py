"""A video file, and captures in place of those that OpenCV would open."""

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
    """A queue of captures that take the place of what OpenCV would open."""
    queue: list[Any] = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: queue.pop(0))
    return queue
