"""Calibration frames, and clips for comparing tracks: from a video, from a data set, or synthetic."""

import tempfile
from collections.abc import Iterator, Mapping
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
from idol_runtime.config import Preprocessing
from idol_runtime.errors import FrameError, SourceError
from idol_runtime.sources.images import read_image
from idol_runtime.sources.opening import open_source

__all__ = [
    "SYNTHETIC_FRAMES",
    "check_sources",
    "clips_of_dataset",
    "size_text",
    "spread_frames",
    "synthetic_clips",
    "video_clip",
]

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


def check_sources(
    preprocessing: Preprocessing,
    frame_size: tuple[int, int],
    sources: Mapping[str, str | None],
    annotations: Path | None,
) -> None:
    """Check that frames and annotations exist and are resized to the same network input as the camera's frames.

    Args:
        preprocessing: resize of the network.
        frame_size: (H, W) of the camera's frames.
        sources: videos or images by their option's name.
        annotations: annotation file to score on; None for no annotations.

    Raises:
        SourceError: a source is missing or live.
        DataError: the annotations are broken.
        FrameError: frames have another shape than the network input.
    """
    expected, sizes = preprocessing.network_size(*frame_size), list[tuple[str, str, tuple[int, int]]]()
    for use, path in sources.items():
        if path is not None:
            with open_source(path) as source:
                if source.live or source.size is None:
                    raise SourceError(
                        f"--{use} reads {source.name} twice, and it is live; record it and pass the file"
                    )
                sizes.append((use, source.name, source.size))
    if annotations is not None:
        videos = read_dataset(annotations).videos
        sizes += [("score", f"video {video.id} of {annotations.name}", video.size) for video in videos]
    for use, name, size in sizes:
        resized = preprocessing.network_size(*size)
        if resized != expected:
            raise FrameError(
                f"{name} is {size_text(size)}, which preprocessing resizes to {size_text(resized)} instead of "
                f"{size_text(expected)}; {use} on a source of {size_text(frame_size)}"
            )


def size_text(size: tuple[int, int]) -> str:
    """Return a size as HEIGHTxWIDTH."""
    return f"{size[0]}x{size[1]}"
