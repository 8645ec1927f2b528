"""Calibration frames, and clips for comparing tracks: from a video, from a data set, or synthetic."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.faults import frame_path
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.progress import Announce, silent
from idol_deploy.synth.config import synth_preset
from idol_deploy.synth.dataset import write_dataset
from idol_deploy.synth.identities import read_library
from idol_runtime.sources.images import read_image
from idol_runtime.sources.opening import open_source

__all__ = ["SYNTHETIC_FRAMES", "clips_of_dataset", "spread_frames", "synthetic_clips", "video_clip"]

Clip = Iterator[NDArray[np.uint8]]  # [H, W, 3] each

_CLIPS, _CLIP_FRAMES = 12, 24
SYNTHETIC_FRAMES = _CLIPS * _CLIP_FRAMES  # of all synthetic clips together


def video_clip(source: str, max_frames: int | None = None) -> Clip:
    """Yield the first `max_frames` frames of a video or of a folder of images (default: all)."""
    with open_source(source, max_frames=max_frames) as frames:
        for frame in frames:
            yield frame.image


def spread_frames(source: str, count: int) -> Clip:
    """Yield `count` frames of a video, evenly spread if its length is known, else the first ones.

    A container may state more frames than it has: then further frames are taken from between the first ones.
    """
    with open_source(source) as frames:
        length = frames.frame_count or count
    stride = max(1, length // count)
    read = -(-length // stride)  # less than 2 * count
    selected = {i * read // count * stride for i in range(count)}
    present = set[int]()
    with open_source(source, stride=stride, max_frames=read) as frames:
        for frame in frames:
            present.add(frame.index)
            if frame.index in selected:
                yield frame.image
    missing = len(selected - present)
    others = sorted(set(range(max(present) + 1)) - selected)
    if missing and others:
        selected = {others[i * len(others) // missing] for i in range(missing)}
        with open_source(source, max_frames=max(selected) + 1) as frames:
            yield from (frame.image for frame in frames if frame.index in selected)


def clips_of_dataset(annotations: Path, frames: Path) -> Iterator[Clip]:
    """Yield the videos of a data set, given its annotation file and its folder of frames."""
    for video in read_dataset(annotations).videos:
        yield (read_image(frame_path(frames, name)) for name in video.files)


def synthetic_clips(size: tuple[int, int], announce: Announce = silent) -> Iterator[Clip]:
    """Yield synthetic videos of (H, W) pixels with identities of the generator's held-out split."""
    config = replace(synth_preset("standard"), size=size, frames=_CLIP_FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        progress = partial(announce, "drawing synthetic videos")
        write_dataset(Path(folder), read_library(), config, "val", videos=_CLIPS, seed=1, progress=progress)
        yield from clips_of_dataset(Path(folder) / "instances.json", Path(folder) / "JPEGImages")
