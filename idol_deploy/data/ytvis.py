"""Annotation files of YouTube-VIS (2019, 2021) and OVIS, read and checked once; masks are expanded when asked for.

    dataset = read_dataset("train/instances.json")
    for video in dataset.videos:
        for track in dataset.tracks(video.id):
            track.mask(track.frames[0])

Masks may be compressed or uncompressed run lengths, or polygons; all are held compressed. T: frames of a video;
H, W: its height and width in pixels.
"""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.masks import Masks, Segmentation, compress
from idol_runtime.config import Category
from idol_runtime.errors import DataError

__all__ = [
    "OCCLUSION",
    "Track",
    "Video",
    "VisDataset",
    "in_chunks",
    "load_json",
    "read_dataset",
]

# What OVIS says of an instance in a frame, as the share that is hidden (its challenge's evaluator).
OCCLUSION: Mapping[str, float] = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}

_CHUNK = 256
_Raw = TypeVar("_Raw")
_Read = TypeVar("_Read")

_Side = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True)
class Video:
    """A video: the files of its frames.

    Attributes:
        id: in the annotation file.
        size: (H, W) in pixels.
        files: T names below the folder of frames.
    """

    id: int
    size: tuple[int, int]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, eq=False)
class Track:
    """One annotated instance of a video.

    Attributes:
        id: in the annotation file; belongs to this instance alone.
        video_id: the video it is in.
        category_id: in the numbers of the annotation file.
        masks: its masks, and where they are.
        area: mean of the areas that the file gives, in pixels; of the masks where it gives none. 0 for an instance
            that is never seen.
        crowd: a group that is not annotated one by one.
        occlusion: T shares that are hidden, None where the instance is not seen; None in data sets that don't say.
    """

    id: int
    video_id: int
    category_id: int
    masks: Masks
    area: float
    crowd: bool = False
    occlusion: tuple[float | None, ...] | None = None

    @property
    def frames(self) -> tuple[int, ...]:
        """The frames in which the instance is seen."""
        return self.masks.frames

    def mask(self, frame: int) -> NDArray[np.bool_]:
        """[H, W] bool."""
        return self.masks.mask(frame)


@dataclass(frozen=True, eq=False)
class VisDataset:
    """Videos, their instances and the classes.

    Attributes:
        path: the file, for messages.
        videos: in the order of the file.
        categories: in the order of the file.
        annotated: whether the file has annotations; the public validation and test files have none.
        skipped: how many annotations were left out, by why; empty under `strict`.
        first_skipped: the first of each, in words.
    """

    path: Path
    videos: tuple[Video, ...]
    categories: tuple[Category, ...]
    annotated: bool = True
    skipped: Mapping[str, int] = field(default_factory=dict)
    first_skipped: Mapping[str, str] = field(default_factory=dict)
    _tracks: Mapping[int, tuple[Track, ...]] = field(default_factory=dict, repr=False)

    def tracks(self, video_id: int) -> tuple[Track, ...]:
        """The instances of a video, in the order of the file."""
        return self._tracks.get(video_id, ())

    def video(self, video_id: int) -> Video | None:
        """The video of this id."""
        return self._by_id.get(video_id)

    def subset(self, video_ids: Collection[int]) -> "VisDataset":
        """The same with some of the videos, in the order of the file."""
        videos = tuple(video for video in self.videos if video.id in video_ids)
        tracks = {video.id: self.tracks(video.id) for video in videos}
        return replace(self, videos=videos, _tracks=tracks)

    @functools.cached_property
    def _by_id(self) -> dict[int, Video]:
        return {video.id: video for video in self.videos}


class _Video(msgspec.Struct):
    id: int
    height: _Side
    width: _Side
    file_names: Annotated[list[str], msgspec.Meta(min_length=1)]
    length: int | None = None


class _Category(msgspec.Struct):
    id: int
    name: str


class _Annotation(msgspec.Struct):
    id: int
    video_id: int
    category_id: int
    segmentations: list[Segmentation]
    iscrowd: int | bool = 0
    areas: list[float | None] | None = None
    occlusion: list[str | None] | None = None


class _File(msgspec.Struct):
    videos: Annotated[list[_Video], msgspec.Meta(min_length=1)]
    categories: Annotated[list[_Category], msgspec.Meta(min_length=1)]
    annotations: list[msgspec.Raw] | None = None


def read_dataset(path: str | Path, *, strict: bool = True, allow_empty: bool = True) -> VisDataset:
    """Read an annotation file.

    Args:
        path: JSON in the format of YouTube-VIS or OVIS.
        strict: refuse a file with a broken annotation; otherwise it is left out and counted in `skipped`.
        allow_empty: an instance that is never seen is no fault. The metrics count it, training cannot use it.

    Raises:
        DataError: no such file, not JSON, not of this format, a video or a category twice, or under `strict` an
            annotation of an unknown video or category, with masks of another size or number than the video's
            frames, with broken masks, or with an id that another has. Names the annotation.
        MissingDependencyError: pycocotools is not installed.
    """
    path = Path(path)
    file = load_json(path, _File, "annotation file")
    videos = _videos(file.videos, path)
    categories = tuple(Category(entry.name, entry.id) for entry in file.categories)
    for what, ids in (("video", [v.id for v in videos]), ("category", [c.dataset_id for c in categories])):
        twice = [i for i, count in Counter(ids).items() if count > 1]
        if twice:
            raise DataError(f"{path}: there are two of {what} {twice[0]}; give each its own id")
    reader = _AnnotationReader(
        {video.id: video for video in videos}, {c.dataset_id for c in categories}, allow_empty
    )
    tracks: dict[int, list[Track]] = {}
    skipped: Counter[str] = Counter()
    first: dict[str, str] = {}
    for index, track in enumerate(in_chunks(reader.read, file.annotations or ())):
        if isinstance(track, Track):
            tracks.setdefault(track.video_id, []).append(track)
            continue
        message = f"{path}: {track.where or f'annotation number {index}'}: {track}"
        if strict:
            raise DataError(message) from track
        skipped[track.kind] += 1
        first.setdefault(track.kind, message)
    return VisDataset(
        path,
        videos,
        categories,
        annotated=file.annotations is not None,
        skipped=dict(skipped),
        first_skipped=first,
        _tracks={video_id: tuple(found) for video_id, found in tracks.items()},
    )


def load_json(path: Path, kind: Any, what: str, form: str = "YouTube-VIS or OVIS") -> Any:
    """Read a JSON file as values of a type; `what` and the name of its format are for messages.

    Raises:
        DataError: missing, not JSON, or of other fields; says where in the file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise DataError(f"cannot read {what} {path}: {error.strerror}; check the path") from error
    except msgspec.ValidationError as error:
        raise DataError(f"{path} is no {what}: {error}; give one in the format of {form}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}; is the file cut short? Copy it again") from error


def in_chunks(read: Callable[[Sequence[_Raw]], Sequence[_Read]], raws: Sequence[_Raw]) -> Iterator[_Read]:
    """Read many at a time, since compressing one instance's masks costs about what those of many do."""
    for start in range(0, len(raws), _CHUNK):
        yield from read(raws[start : start + _CHUNK])


def _videos(entries: Sequence[_Video], path: Path) -> tuple[Video, ...]:
    for entry in entries:
        if entry.length not in (None, len(entry.file_names)):
            raise DataError(
                f"{path}: video {entry.id} has length {entry.length} and {len(entry.file_names)} file names; mend one"
            )
    return tuple(Video(entry.id, (entry.height, entry.width), tuple(entry.file_names)) for entry in entries)


class _Fault(Exception):  # noqa: N818 - becomes a DataError, or a count
    """What is wrong with one annotation; `kind` is the same for all with that fault."""

    def __init__(self, kind: str, message: str, where: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.where = where


class _AnnotationReader:
    def __init__(self, videos: Mapping[int, Video], categories: Collection[int], allow_empty: bool) -> None:
        self._videos = videos
        self._categories = categories
        self._allow_empty = allow_empty
        self._seen: set[int] = set()
        self._decoder = msgspec.json.Decoder(_Annotation)

    def read(self, raws: Sequence[msgspec.Raw]) -> list[Track | _Fault]:
        """The annotations, or what is wrong with each."""
        entries = [self._entry(raw) for raw in raws]
        sound = [entry for entry in entries if isinstance(entry, _Annotation)]
        compressed = compress([(entry.segmentations, self._videos[entry.video_id].size) for entry in sound])
        masks = dict(zip(map(id, sound), compressed, strict=True))
        return [
            entry if isinstance(entry, _Fault) else self._whole(entry, masks[id(entry)]) for entry in entries
        ]

    def _whole(self, entry: _Annotation, masks: Masks | DataError) -> Track | _Fault:
        try:
            return self._track(entry, masks)
        except _Fault as fault:
            fault.where = f"annotation {entry.id}"
            return fault

    def _entry(self, raw: msgspec.Raw) -> _Annotation | _Fault:
        try:
            entry = self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _Fault("fields missing or of another type", str(error))
        fault = self._misfit(entry)
        return entry if fault is None else fault

    def _misfit(self, entry: _Annotation) -> _Fault | None:
        """Whether it is of this file's videos and categories, and as long as its video."""
        where = f"annotation {entry.id}"
        video = self._videos.get(entry.video_id)
        if video is None:
            message = f"there is no video {entry.video_id}; add it or remove the annotation"
            return _Fault("unknown video", message, where)
        if entry.category_id not in self._categories:
            message = f"there is no category {entry.category_id}; add it or remove the annotation"
            return _Fault("unknown category", message, where)
        for name in ("segmentations", "areas", "occlusion"):
            given = getattr(entry, name)
            if given is not None and len(given) != len(video):
                return _Fault(
                    f"another number of {name} than frames",
                    f"{len(given)} {name} for the {len(video)} frames of video {video.id}; give one per frame, or null",
                    where,
                )
        return None

    def _track(self, entry: _Annotation, masks: Masks | DataError) -> Track:
        if isinstance(masks, DataError):
            raise _Fault("broken mask", str(masks)) from masks
        if not self._allow_empty and not masks.areas.any():
            raise _Fault("never seen", "it has no mask in any frame; remove it")
        if entry.id in self._seen:
            raise _Fault("id used twice", "another annotation has this id; give each its own")
        self._seen.add(entry.id)
        areas = masks.areas.tolist() if entry.areas is None else entry.areas
        seen = [area for area in areas if area]
        return Track(
            entry.id,
            entry.video_id,
            entry.category_id,
            masks,
            area=float(np.mean(seen)) if seen else 0.0,
            crowd=bool(entry.iscrowd),
            occlusion=None if entry.occlusion is None else tuple(map(_hidden, entry.occlusion)),
        )


def _hidden(label: str | None) -> float | None:
    if label is not None and label not in OCCLUSION:
        raise _Fault("unknown occlusion", f"occlusion {label!r} is none of {', '.join(OCCLUSION)}")
    return None if label is None else OCCLUSION[label]
