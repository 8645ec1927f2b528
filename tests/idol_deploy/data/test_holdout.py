"""Holdout: the same split everywhere, and no recording on both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from idol_deploy.data.holdout import holdout
from idol_deploy.data.ytvis import Video, VisDataset
from idol_runtime.errors import ConfigError, DataError


def _dataset(recordings: int, clips: int = 2, turned: bool = False) -> VisDataset:
    videos = [
        Video(10 * recording + clip, (4, 6), (f"recording{recording}/{clip}.jpg",))
        for recording in range(recordings)
        for clip in range(clips)
    ]
    return VisDataset(Path("gt.json"), tuple(videos[::-1] if turned else videos), ())


def _ids(dataset: VisDataset) -> set[int]:
    return {video.id for video in dataset.videos}


def test_recordings_stay_whole_and_the_order_of_the_file_is_nothing() -> None:
    rest, held = holdout(_dataset(20), seed=3, share=0.25)
    assert len(_ids(held)) == 10
    assert _ids(rest) | _ids(held) == _ids(_dataset(20))
    assert {i // 10 for i in _ids(held)}.isdisjoint(i // 10 for i in _ids(rest))
    assert _ids(holdout(_dataset(20, turned=True), seed=3, share=0.25)[1]) == _ids(held)
    assert _ids(holdout(_dataset(20), seed=4, share=0.25)[1]) != _ids(held)
    videos = [replace(v, files=(v.files[0].replace("/", "\\"),)) for v in _dataset(20).videos]
    assert _ids(holdout(VisDataset(Path("gt.json"), tuple(videos), ()), seed=3, share=0.25)[1]) == _ids(held)


def test_the_split_never_changes() -> None:
    # Models in use were trained with this split; another one would test them on their training data.
    assert sorted(_ids(holdout(_dataset(20, clips=1), seed=0)[1])) == [50, 60]


def test_frames_without_folders_are_recordings_of_their_own() -> None:
    videos = tuple(Video(i, (4, 6), (f"{i}.jpg",)) for i in range(4))
    rest, held = holdout(VisDataset(Path("gt.json"), videos, ()), seed=0, share=0.5)
    assert (len(rest.videos), len(held.videos)) == (2, 2)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_neither_side_is_empty(share: float) -> None:
    assert all(part.videos for part in holdout(_dataset(3), seed=1, share=share))


def test_what_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1, got 1"):
        holdout(_dataset(3), seed=0, share=1)
    with pytest.raises(DataError, match="has only one recording"):
        holdout(_dataset(1), seed=0)
