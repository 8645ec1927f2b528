"""Cameras: indices, and what happens when one stops."""

from typing import Any

import pytest

from idol_runtime.errors import SourceError
from idol_runtime.sources.opening import open_source
from samples.captures import FakeCapture

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize("source", [97, "97"])
def test_a_camera_that_is_not_there(source: int | str) -> None:
    with pytest.raises(SourceError, match="cannot open camera 97"):
        open_source(source)


@pytest.mark.parametrize("source", [-1, "-1", True, 2**31, 10**11])
def test_no_camera_index(source: int | str) -> None:
    with pytest.raises(SourceError, match="camera index lies between 0 and"):
        open_source(source)


def test_a_camera_is_live_and_names_its_end(fake: list[Any]) -> None:
    capture = FakeCapture([(8, 8)] * 3, -1)
    fake.append(capture)
    seen = []
    with open_source(0) as source:
        assert source.live
        assert source.frame_count is None
        with pytest.raises(SourceError, match="camera 0 stopped sending at frame 3"):
            seen.extend(source)
    assert len(seen) == 3
    assert capture.released


def test_a_camera_without_frames(fake: list[Any]) -> None:
    fake.append(FakeCapture([], 0))
    with pytest.raises(SourceError, match="camera 0 has no frames"):
        open_source("0")
