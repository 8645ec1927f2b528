"""The tracks of a results file, whichever of the two that `run` writes: JSON lines, or `results.json`.

T: frames.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.masks import Masks, RunLengths, Segmentation, compress
from idol_runtime.errors import DataError

__all__ = ["FoundTrack", "FoundTracks", "read_tracks"]


@dataclass(frozen=True, eq=False)
class FoundTrack:
    """One identity.

    Attributes:
        id: its number; in a `results.json`, which has none, its place.
        name: of its class.
        scores: [T]; nan where it is not seen.
        masks: where it is.
    """

    id: int
    name: str
    scores: NDArray[np.float64]
    masks: Masks


@dataclass(frozen=True, eq=False)
class FoundTracks:
    """The identities of a video.

    Attributes:
        frames: [T] their numbers in the source, which a stride may have skipped some of.
        size: (H, W) of the frames.
        tracks: by their first frame.
        video_id: as the file says; None: it does not.
    """

    frames: NDArray[np.int64]
    size: tuple[int, int]
    tracks: tuple[FoundTrack, ...]
    video_id: int | None = None


class _Instance(msgspec.Struct):
    id: int
    label: int
    score: float
    mask: RunLengths
    name: str = msgspec.field(default="", name="class")


class _Frame(msgspec.Struct):
    frame: int
    size: tuple[int, int]
    instances: list[_Instance]


class _Entry(msgspec.Struct):
    video_id: int
    score: float
    category_id: int
    segmentations: list[Segmentation]


def read_tracks(
    path: Path, *, video_id: int | None = None, names: Mapping[int, str] | None = None
) -> FoundTracks:
    """Read a results file.

    Args:
        path: JSON lines, or `results.json`, which repeats a track under each of its classes: the best one is kept.
        video_id: of a `results.json` with several videos.
        names: of the categories of a `results.json`, which has their numbers alone.

    Raises:
        DataError: no such file, neither of the two, empty, or with broken masks; or it has several videos and none
            was chosen, or not the one that was.
        MissingDependencyError: pycocotools is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
    if content.lstrip().startswith(b"["):
        return _from_results(path, content, video_id, names or {})
    return _from_lines(path, content)


def _from_lines(path: Path, content: bytes) -> FoundTracks:
    try:
        frames = msgspec.json.Decoder(_Frame).decode_lines(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is no results file: {error}; give what run --jsonl or --results wrote"
        ) from error
    if not frames:
        raise DataError(f"{path} is empty; give what run --jsonl or --results wrote")
    seen: dict[int, dict[int, _Instance]] = {}
    for t, frame in enumerate(frames):
        for instance in frame.instances:
            seen.setdefault(instance.id, {})[t] = instance
    size = frames[0].size
    rows = [
        [by_frame[t].mask if t in by_frame else None for t in range(len(frames))]
        for by_frame in seen.values()
    ]
    tracks = []
    for (track, by_frame), masks in zip(seen.items(), _checked(path, rows, size), strict=True):
        scores = np.full(len(frames), np.nan)
        scores[list(by_frame)] = [instance.score for instance in by_frame.values()]
        names = Counter(instance.name or f"class {instance.label}" for instance in by_frame.values())
        tracks.append(FoundTrack(track, names.most_common(1)[0][0], scores, masks))
    return FoundTracks(np.array([frame.frame for frame in frames], np.int64), size, tuple(tracks))


def _from_results(path: Path, content: bytes, video_id: int | None, names: Mapping[int, str]) -> FoundTracks:
    try:
        entries = msgspec.json.decode(content, type=list[_Entry])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is no results file: {error}; give what run --jsonl or --results wrote"
        ) from error
    videos = sorted({entry.video_id for entry in entries})
    if video_id is None and len(videos) > 1:
        raise DataError(
            f"{path} has {len(videos)} videos, {videos[0]} to {videos[-1]}; choose one with --video"
        )
    chosen = [entry for entry in entries if video_id in (None, entry.video_id)]
    if not chosen:
        raise DataError(
            f"{path} has no result" + (f" of video {video_id}" if entries else "") + "; choose another"
        )
    sizes = {mask.size for entry in chosen for mask in entry.segmentations if isinstance(mask, RunLengths)}
    if len(sizes) != 1 or len({len(entry.segmentations) for entry in chosen}) != 1:
        raise DataError(
            f"{path}: the results of video {chosen[0].video_id} differ in size or length; write them anew"
        )
    (size,) = sizes
    best: dict[tuple[bytes | None, ...], tuple[_Entry, Masks]] = {}
    for entry, masks in zip(chosen, _checked(path, [e.segmentations for e in chosen], size), strict=True):
        kept = best.get(masks.counts)
        if kept is None or entry.score > kept[0].score:
            best[masks.counts] = entry, masks
    tracks = [
        FoundTrack(
            number,
            names.get(entry.category_id, f"category {entry.category_id}"),
            np.where(masks.areas > 0, entry.score, np.nan),
            masks,
        )
        for number, (entry, masks) in enumerate(best.values())
        if masks.frames
    ]
    tracks.sort(key=lambda track: (track.masks.frames[0], track.id))
    return FoundTracks(np.arange(len(chosen[0].segmentations)), size, tuple(tracks), chosen[0].video_id)


def _checked(path: Path, rows: Sequence[Sequence[Segmentation]], size: tuple[int, int]) -> list[Masks]:
    checked = []
    for masks in compress([(row, size) for row in rows]):
        if isinstance(masks, DataError):
            raise DataError(f"{path}: {masks}") from masks
        checked.append(masks)
    return checked
