"""Frames to calibrate on, and clips to compare tracks on: a video's, a data set's, or drawn ones."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.ytvis import read_dataset
from idol_runtime.sources.images import read_image
from idol_runtime.sources.opening import open_source

__all__ = ["clips_of_dataset", "drawn_clips", "spread_frames", "video_clip"]

Clip = Iterator[NDArray[np.uint8]]  # of [H, W, 3]

_DRAWN, _DRAWN_FRAMES = 12, 24


def video_clip(source: str) -> Clip:
    """All frames of a video or of a folder of images."""
    with open_source(source) as frames:
        for frame in frames:
            yield frame.image


def spread_frames(source: str, count: int) -> Clip:
    """This many frames of a video, evenly spread over it as far as its length is known."""
    with open_source(source) as frames:
        length = frames.frame_count or count
    stride = max(1, length // count)
    read = -(-length // stride)  # fewer than twice as many as are wanted
    wanted = {i * read // count for i in range(count)}
    with open_source(source, stride=stride, max_frames=read) as frames:
        for index, frame in enumerate(frames):
            if index in wanted:
                yield frame.image


def clips_of_dataset(annotations: Path, frames: Path) -> Iterator[Clip]:
    """The videos of a data set."""
    for video in read_dataset(annotations).videos:
        yield (read_image(frames / name) for name in video.files)


def drawn_clips(size: tuple[int, int]) -> Iterator[Clip]:
    """Synthetic videos of identities that no training set of the same generator has."""
    from dataclasses import replace

    from idol_deploy.synth.config import synth_preset
    from idol_deploy.synth.dataset import write_dataset
    from idol_deploy.synth.identities import read_library

    config = replace(synth_preset("standard"), size=size, frames=_DRAWN_FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), read_library(), config, "val", videos=_DRAWN, seed=1)
        yield from clips_of_dataset(Path(folder) / "instances.json", Path(folder) / "JPEGImages")
