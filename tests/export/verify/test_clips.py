"""Selection of frames from a video."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from idol_export.verify.clips import spread_frames
from idol_runtime.sources.frame_source import FrameSource

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("length", "count"), [(9, 5), (5, 5), (3, 5), (10, 5), (19, 4), (40, 7)])
def test_frames_are_spread_over_all_of_a_video(tmp_path: Path, length: int, count: int) -> None:
    for index in range(length):
        Image.fromarray(np.full((4, 4, 3), index, np.uint8)).save(tmp_path / f"{index:02}.png")
    taken = [int(frame[0, 0, 0]) for frame in spread_frames(str(tmp_path), count)]
    assert len(taken) == min(length, count)
    gaps = np.diff([*taken, length])
    assert taken[0] == 0
    assert gaps.max() <= 2 * max(length / count, 1)
    assert gaps.min() >= 1


def test_a_container_that_states_too_many_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sound may be longer than its pictures, for example."""

    for index in range(40):
        Image.fromarray(np.full((4, 4, 3), index, np.uint8)).save(tmp_path / f"{index:02}.png")
    monkeypatch.setattr(FrameSource, "frame_count", 66)
    taken = [int(frame[0, 0, 0]) for frame in spread_frames(str(tmp_path), 10)]
    assert len(set(taken)) == 10
