"""Annotation files of YouTube-VIS (2019, 2021) and OVIS: read and checked once, masks expanded on request.

    dataset = read_dataset("train/instances.json")
    for video in dataset.videos:
        for track in dataset.tracks(video.id):
            track.masks.mask(track.masks.frames[0])

Masks in the file are compressed or uncompressed run lengths, or polygons. In memory all are compressed.
Letters: T frames of a video; H x W its height and width in pixels.
"""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from idol_deploy.data.faults import Fault, FaultLog, unknown_id
from idol_deploy.data.masks import Masks, Segmentation, compress
from idol_runtime.config import Category
from idol_runtime.errors import DataError
from idol_runtime.json_text import JSON_ERRORS, json_fault, to_utf8

__all__ = [
    "OCCLUSION",
    "CategoryEntry",
    "Id",
    "class_names",
    "Side",
    "Track",
    "Video",
    "VisDataset",
    "in_chunks",
    "load_json",
    "read_dataset",
    "require_unique",
]

# OVIS occlusion levels as the hidden share of an instance (values of the evaluator of its challenge).
OCCLUSION: Mapping[str, float] = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}

_CHUNK = 256
_Raw = TypeVar("_Raw")
_Parsed = TypeVar("_Parsed")

# Ids fit into numpy's int64. The largest side is that of a JPEG; OpenCV and Pillow read none that is much larger.
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


@dataclass(frozen=True)
class Video:
    """A video of a data set.

    Attributes:
        id: id in the annotation file.
        size: (H, W) in pixels.
        files: T file names below the folder of frames.
    """

    id: int
    size: tuple[int, int]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, eq=False)
class Track:
    """An annotated instance of a video.

    Attributes:
        id: id in the annotation file, unique in the file.
        video_id: id of the instance's video.
        category_id: id of the category in the annotation file.
        masks: T compressed masks.
        area: mean of the areas given in the file, in pixels; mean of the mask areas where the file gives none; 0 for an
            instance that is never visible.
        crowd: True for a group of objects annotated as one.
        occlusion: T hidden shares, None in frames without the instance; None for data sets without occlusion.
    """

    id: int
    video_id: int
    category_id: int
    masks: Masks
    area: float
    crowd: bool = False
    occlusion: tuple[float | None, ...] | None = None


@dataclass(frozen=True, eq=False)
class VisDataset:
    """Videos, their annotated instances and the categories.

    Attributes:
        path: annotation file, for messages.
        videos: videos in the order of the file.
        categories: categories in the order of the file.
        annotated: False for a file without annotations, such as the public validation and test files.
    """

    path: Path
    videos: tuple[Video, ...]
    categories: tuple[Category, ...]
    annotated: bool = True
    _tracks: Mapping[int, tuple[Track, ...]] = field(default_factory=dict, repr=False)

    def tracks(self, video_id: int) -> tuple[Track, ...]:
        """Return the instances of a video, in the order of the file."""
        return self._tracks.get(video_id, ())

    def video(self, video_id: int) -> Video | None:
        """Return the video with this id; None if there is none."""
        return self._by_id.get(video_id)

    def subset(self, video_ids: Collection[int]) -> "VisDataset":
        """Return the data set with only these videos, in the order of the file."""
        videos = tuple(video for video in self.videos if video.id in video_ids)
        return replace(self, videos=videos, _tracks={video.id: self.tracks(video.id) for video in videos})

    @functools.cached_property
    def _by_id(self) -> dict[int, Video]:
        return {video.id: video for video in self.videos}


class _Video(msgspec.Struct):
    id: Id
    height: Side
    width: Side
    file_names: Annotated[list[str], msgspec.Meta(min_length=1)]
    length: int | None = None


class CategoryEntry(msgspec.Struct):
    """A category of an annotation file.

    Attributes:
        id: number that annotations refer to.
        name: class name.
    """

    id: Id
    name: str


class _Categories(msgspec.Struct):
    categories: Annotated[list[CategoryEntry], msgspec.Meta(min_length=1)]


class _Annotation(msgspec.Struct):
    id: Id
    video_id: Id
    category_id: Id
    segmentations: list[Segmentation]
    iscrowd: int | bool = 0
    areas: list[float | None] | None = None
    occlusion: list[str | None] | None = None


class _File(msgspec.Struct):
    videos: Annotated[list[_Video], msgspec.Meta(min_length=1)]
    categories: Annotated[list[CategoryEntry], msgspec.Meta(min_length=1)]
    annotations: list[msgspec.Raw] | None = None


def read_dataset(path: str | Path, log: FaultLog | None = None, *, allow_empty: bool = True) -> VisDataset:
    """Read an annotation file.

    Args:
        path: JSON file in the format of YouTube-VIS or OVIS.
        log: receives the annotations that are left out: unknown video or category, another number of masks than frames,
            broken masks, masks of another size, an id used twice. Default: a strict log.
        allow_empty: accept instances that are never visible (default). The metrics count them; training cannot use
            them.

    Raises:
        DataError: missing file, not JSON, another format, a video or category id used twice, or a fault with a strict
            log. The message names the annotation.
        MissingDependencyError: pycocotools is not installed.
    """
    path, log = Path(path), log or FaultLog(strict=True)
    file = load_json(path, _File, "annotation file")
    videos = _videos(file.videos, path)
    require_unique(path, "video", (video.id for video in videos))
    require_unique(path, "category", (entry.id for entry in file.categories))
    reader = _AnnotationReader(path, videos, file.categories, allow_empty)
    tracks: dict[int, list[Track]] = {}
    for track in in_chunks(reader.read, list(enumerate(file.annotations or ()))):
        if isinstance(track, Fault):
            log.add(track)
        else:
            tracks.setdefault(track.video_id, []).append(track)
    return VisDataset(
        path,
        videos,
        tuple(Category(entry.name, entry.id) for entry in file.categories),
        annotated=file.annotations is not None,
        _tracks={video_id: tuple(entries) for video_id, entries in tracks.items()},
    )


def load_json(path: Path, kind: Any, what: str, form: str = "YouTube-VIS or OVIS") -> Any:
    """Read a JSON file as values of a type.

    Args:
        path: JSON file, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
        kind: type for msgspec.
        what: name of the file in messages.
        form: name of the expected format in messages.

    Raises:
        DataError: missing file, not JSON, or other fields; the message names the place in the file.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {what} {path}: {error.strerror}; check the path") from error
    try:
        text = to_utf8(text)
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{path} is no {what}: {error}; give a file in the format of {form}") from error
    except JSON_ERRORS as error:
        fix = "check that the file is complete, or copy it again"
        raise DataError(f"{path} is not JSON: {json_fault(error, text, fix)}") from error


def class_names(path: Path) -> tuple[str, ...]:
    """Read the class names of a network.

    Args:
        path: annotation file, whose categories are classes in the order of their ids as in the published code; or, if
            the suffix is not `.json`, a text file with one name per line. Blank lines are ignored.

    Raises:
        DataError: the file cannot be read, or names no class.
    """
    if path.suffix.lower() == ".json":
        file: _Categories = load_json(path, _Categories, "annotation file")
        return tuple(entry.name for entry in sorted(file.categories, key=lambda entry: entry.id))
    try:
        lines = to_utf8(path.read_bytes()).decode().splitlines()
    except OSError as error:
        raise DataError(f"cannot read class names {path}: {error.strerror}; check the path") from error
    except UnicodeError as error:
        raise DataError(f"{path} is no text file: {error}; write one class name per line") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise DataError(f"{path} has no class names; write one per line")
    return names


def require_unique(path: Path, what: str, ids: Iterable[int]) -> None:
    """Check that no id is used twice.

    Raises:
        DataError: an id is used twice.
    """
    number, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: {what} id {number} is used twice; give each {what} its own id")


def in_chunks(
    parse: Callable[[Sequence[_Raw]], Sequence[_Parsed]], raws: Sequence[_Raw]
) -> Iterator[_Parsed]:
    """Parse raw entries in chunks: compressing the masks of one instance costs about as much as those of many."""
    for start in range(0, len(raws), _CHUNK):
        yield from parse(raws[start : start + _CHUNK])


def _videos(entries: Sequence[_Video], path: Path) -> tuple[Video, ...]:
    for entry in entries:
        if entry.length not in (None, len(entry.file_names)):
            raise DataError(
                f"{path}: video {entry.id} has length {entry.length} and {len(entry.file_names)} file names; "
                "correct one of them"
            )
    return tuple(Video(entry.id, (entry.height, entry.width), tuple(entry.file_names)) for entry in entries)


class _AnnotationReader:
    def __init__(
        self, path: Path, videos: Sequence[Video], categories: Sequence[CategoryEntry], allow_empty: bool
    ) -> None:
        self._path = path
        self._videos = {video.id: video for video in videos}
        self._categories = {entry.id for entry in categories}
        self._allow_empty = allow_empty
        self._ids: set[int] = set()
        self._decoder = msgspec.json.Decoder(_Annotation)

    def read(self, raws: Sequence[tuple[int, msgspec.Raw]]) -> list[Track | Fault]:
        """Return the track of each numbered annotation, or its fault."""
        entries = [self._decode(raw, index) for index, raw in raws]
        valid = [entry for entry in entries if isinstance(entry, _Annotation)]
        masks = iter(compress([(entry.segmentations, self._videos[entry.video_id].size) for entry in valid]))
        return [entry if isinstance(entry, Fault) else self._track(entry, next(masks)) for entry in entries]

    def _where(self, entry: _Annotation) -> str:
        return f"{self._path}: annotation {entry.id}"

    def _decode(self, raw: msgspec.Raw, index: int) -> _Annotation | Fault:
        try:
            entry = self._decoder.decode(raw)
        except JSON_ERRORS as error:
            where = f"{self._path}: annotation number {index}"
            return Fault("fields missing or of another type", where, str(error))
        video = self._videos.get(entry.video_id)
        if video is None:
            return unknown_id("video", entry.video_id, self._where(entry))
        if entry.category_id not in self._categories:
            return unknown_id("category", entry.category_id, self._where(entry))
        for name in ("segmentations", "areas", "occlusion"):
            values = getattr(entry, name)
            if values is not None and len(values) != len(video):
                return Fault(
                    f"another number of {name} than frames",
                    self._where(entry),
                    f"{len(values)} {name} for the {len(video)} frames of video {video.id}; "
                    "give one per frame, or null",
                )
        return entry

    def _track(self, entry: _Annotation, masks: Masks | DataError) -> Track | Fault:
        where = self._where(entry)
        if isinstance(masks, DataError):
            return Fault("broken mask", where, str(masks))
        if not self._allow_empty and not masks.areas.any():
            return Fault("never seen", where, "it has no mask in any frame; remove it")
        if entry.id in self._ids:
            return Fault("id used twice", where, "another annotation has this id; give each its own")
        self._ids.add(entry.id)
        levels = entry.occlusion
        unknown = [level for level in levels or () if level not in (None, *OCCLUSION)]
        if unknown:
            why = f"occlusion {unknown[0]!r} is none of {', '.join(OCCLUSION)}; use one of them"
            return Fault("unknown occlusion", where, why)
        areas = [area for area in (masks.areas.tolist() if entry.areas is None else entry.areas) if area]
        return Track(
            entry.id,
            entry.video_id,
            entry.category_id,
            masks,
            area=sum(areas) / max(len(areas), 1),
            crowd=bool(entry.iscrowd),
            occlusion=None
            if levels is None
            else tuple(OCCLUSION[level] if level else None for level in levels),
        )
