"""Tracks of a results file of `run`: JSON lines, or `results.json`.

Letter: T frames.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.masks import Masks, RunLengths, Segmentation, compress
from idol_deploy.data.ytvis import Id
from idol_deploy.evaluate.predictions import ResultEntry
from idol_runtime.errors import DataError
from idol_runtime.json_text import JSON_ERRORS, json_fault, to_utf8

__all__ = ["ResultTrack", "ResultTracks", "checked_masks", "read_tracks"]


@dataclass(frozen=True, eq=False)
class ResultTrack:
    """A track of a video.

    Attributes:
        id: identity; the index in a `results.json`, which has no identities.
        name: class name.
        scores: [T] scores; nan in frames without the track.
        masks: T compressed masks.
    """

    id: int
    name: str
    scores: NDArray[np.float64]
    masks: Masks


@dataclass(frozen=True, eq=False)
class ResultTracks:
    """The tracks of a video.

    Attributes:
        frames: [T] indices in the source, with gaps after a run with a stride.
        size: (H, W) of the frames in pixels.
        tracks: tracks by first frame.
        video_id: id of the video; None for JSON lines, which have none.
    """

    frames: NDArray[np.int64]
    size: tuple[int, int]
    tracks: tuple[ResultTrack, ...]
    video_id: int | None = None


class _Instance(msgspec.Struct):
    id: Id
    label: Id
    score: float
    mask: RunLengths
    name: str = msgspec.field(default="", name="class")


class _Frame(msgspec.Struct):
    frame: Id
    size: tuple[int, int]
    instances: list[_Instance]


def read_tracks(
    path: Path, *, video_id: int | None = None, names: Mapping[int, str] | None = None
) -> ResultTracks:
    """Read a results file.

    Args:
        path: JSON lines, or `results.json`, where a track with several classes gets the best one.
        video_id: video to read from a `results.json` with several videos.
        names: class names by category id, for a `results.json`, which has ids only.

    Raises:
        DataError: missing or empty file, another format, broken masks, several videos without `video_id`, or no result
            of this video.
        MissingDependencyError: pycocotools is not installed.
    """
    content = b""
    try:
        content = to_utf8(path.read_bytes())
        if content.lstrip().startswith(b"["):
            return _from_results(
                path, msgspec.json.decode(content, type=list[ResultEntry]), video_id, names or {}
            )
        return _from_lines(path, msgspec.json.Decoder(_Frame).decode_lines(content))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
    except JSON_ERRORS as error:
        fault = json_fault(error, content, "give an output of run --jsonl or --results")
        raise DataError(f"{path} is no results file: {fault}") from error


def _from_lines(path: Path, frames: Sequence[_Frame]) -> ResultTracks:
    if not frames:
        raise DataError(f"{path} is empty; give an output of run --jsonl or --results")
    instances: dict[int, dict[int, _Instance]] = {}
    for t, frame in enumerate(frames):
        for instance in frame.instances:
            instances.setdefault(instance.id, {})[t] = instance
    size = frames[0].size
    rows = [
        [by_frame[t].mask if t in by_frame else None for t in range(len(frames))]
        for by_frame in instances.values()
    ]
    tracks = []
    for (track, by_frame), masks in zip(instances.items(), checked_masks(path, rows, size), strict=True):
        scores = np.full(len(frames), np.nan)
        scores[list(by_frame)] = [instance.score for instance in by_frame.values()]
        names = Counter(instance.name or f"class {instance.label}" for instance in by_frame.values())
        tracks.append(ResultTrack(track, names.most_common(1)[0][0], scores, masks))
    return ResultTracks(np.array([frame.frame for frame in frames], np.int64), size, tuple(tracks))


def _from_results(
    path: Path, entries: Sequence[ResultEntry], video_id: int | None, names: Mapping[int, str]
) -> ResultTracks:
    videos = sorted({entry.video_id for entry in entries})
    if video_id is None and len(videos) > 1:
        raise DataError(
            f"{path} has {len(videos)} videos, {videos[0]} to {videos[-1]}; choose one with --video"
        )
    chosen = [entry for entry in entries if video_id in (None, entry.video_id)]
    if not chosen:
        of_video = f" of video {video_id}" if entries else ""
        raise DataError(f"{path} has no result{of_video}; choose another")
    sizes = {mask.size for entry in chosen for mask in entry.segmentations if isinstance(mask, RunLengths)}
    if len(sizes) != 1 or len({len(entry.segmentations) for entry in chosen}) != 1:
        raise DataError(
            f"{path}: the results of video {chosen[0].video_id} differ in size or length; write them again"
        )
    (size,) = sizes
    best: dict[tuple[bytes | None, ...], tuple[ResultEntry, Masks]] = {}
    for entry, masks in zip(
        chosen, checked_masks(path, [e.segmentations for e in chosen], size), strict=True
    ):
        if masks.counts not in best or entry.score > best[masks.counts][0].score:
            best[masks.counts] = entry, masks
    tracks = [
        ResultTrack(
            number,
            names.get(entry.category_id, f"category {entry.category_id}"),
            np.where(masks.areas > 0, entry.score, np.nan),
            masks,
        )
        for number, (entry, masks) in enumerate(best.values())
        if masks.frames
    ]
    tracks.sort(key=lambda track: (track.masks.frames[0], track.id))
    return ResultTracks(np.arange(len(chosen[0].segmentations)), size, tuple(tracks), chosen[0].video_id)


def checked_masks(name: object, rows: Sequence[Sequence[Segmentation]], size: tuple[int, int]) -> list[Masks]:
    """Compress the masks of tracks.

    Args:
        name: file or source, for messages.
        rows: T segmentations of each track.
        size: (H, W) of the frames in pixels.

    Raises:
        DataError: a mask is broken or of another size.
    """
    tracks = []
    for masks in compress([(row, size) for row in rows]):
        if isinstance(masks, DataError):
            raise DataError(f"{name}: {masks}") from masks
        tracks.append(masks)
    return tracks
