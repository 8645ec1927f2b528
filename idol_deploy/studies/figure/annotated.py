"""One annotated frame as a training pair with itself: whole, at the size of evaluation, without augmentation."""

import difflib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from idol_deploy.config import IdolConfig
from idol_deploy.data.categories import class_labels
from idol_deploy.data.coco import read_coco
from idol_deploy.data.faults import Fault, FaultLog
from idol_deploy.data.pairs import still_frame, video_frame
from idol_deploy.data.samples import (
    NO_IDENTITY,
    AnnotatedFrame,
    Sample,
    expand_masks,
    read_frame,
)
from idol_deploy.data.transforms import Resize, Size, View
from idol_deploy.data.ytvis import Video, VisDataset, read_dataset
from idol_runtime.errors import DataError

__all__ = ["find_video", "read_still", "read_video_frame"]

_NAMED = 6  # videos, images or frames that a message lists


def read_video_frame(
    annotations: str | Path, frames: str | Path, config: IdolConfig, video: str, frame: int
) -> Sample:
    """A frame of YouTube-VIS or OVIS.

    Args:
        annotations: the file.
        frames: the folder that the names in it start from.
        config: classes and size.
        video: its id, or the name of its folder.
        frame: from 0.

    Raises:
        DataError: no such video or frame, no instance in it that the network has a class for, or it cannot be read.
        MissingDependencyError: pycocotools is not installed.
    """
    dataset = read_dataset(annotations, FaultLog())
    labels = class_labels(dataset.categories, config.classes, dataset.path)
    found = find_video(dataset, video)
    if not 0 <= frame < len(found):
        raise DataError(
            f"video {video} has frames 0 to {len(found) - 1}, and so no frame {frame}; choose one of them"
        )
    tracks = [t for t in dataset.tracks(found.id) if t.category_id in labels and not t.crowd]
    seen = [track for track in tracks if track.masks.counts[frame] is not None]
    where = f"video {video}, frame {frame}"
    if not seen:
        others = sorted({t for track in tracks for t in track.frames})
        has = (
            f"frames that do: {_few(others)}" if others else "nor does any other frame; choose another video"
        )
        raise DataError(f"{where} shows no instance of the network's classes; {has}")
    image = read_frame(Path(frames), found.files[frame], found.size, where)
    if isinstance(image, Fault):
        raise DataError(str(image))
    whole = video_frame(image, _whole(found.size, config), [track.masks.counts[frame] for track in seen])
    return _with_itself(where, whole, [labels[track.category_id] for track in seen])


def read_still(annotations: str | Path, frames: str | Path, config: IdolConfig, image: str) -> Sample:
    """An image of COCO, by its id or by its file's name; the rest as `read_video_frame`."""
    dataset = read_coco(annotations, FaultLog())
    labels = class_labels(dataset.categories, config.classes, dataset.path)
    names = {
        name: s for s in dataset.stills for name in (Path(s.file).stem, Path(s.file).name, s.file, str(s.id))
    }
    if image not in names:
        raise DataError(
            f"{dataset.path} has no image {image!r}; {_near(image, [s.file for s in dataset.stills])}"
        )
    still = names[image]
    of_each = [labels.get(category) for category in still.category_ids.tolist()]
    listed = np.array([label is not None for label in of_each], np.bool_)
    if not listed.any():
        raise DataError(f"image {image} shows no instance of the network's classes; choose another")
    pixels = read_frame(Path(frames), still.file, still.size, f"image {image}")
    if isinstance(pixels, Fault):
        raise DataError(str(pixels))
    masks = expand_masks([c for c, keep in zip(still.masks, listed, strict=True) if keep], still.size)
    whole = still_frame(pixels, _whole(still.size, config), masks, still.boxes_xyxy[listed])
    return _with_itself(f"image {image}", whole, [label for label in of_each if label is not None])


def find_video(dataset: VisDataset, name: str) -> Video:
    """The video of this id, or whose frames lie in a folder of this name.

    Raises:
        DataError: there is none, or more than one.
    """
    if name.isdecimal():
        found = dataset.video(int(name))
        if found is not None:
            return found
    folders = [PurePosixPath(video.files[0]).parent for video in dataset.videos]
    matches = [v for v, f in zip(dataset.videos, folders, strict=True) if name in (f.name, str(f))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise DataError(
            f"{dataset.path} has {len(matches)} videos in {name!r}; {_few([v.id for v in matches])} are their ids"
        )
    known = [f"{folder.name} (id {video.id})" for folder, video in zip(folders, dataset.videos, strict=True)]
    raise DataError(f"{dataset.path} has no video {name!r}; {_near(name, known)}")


def _whole(size: Size, config: IdolConfig) -> View:
    return View(size, (Resize(config.preprocessing.network_size(*size)),))


def _with_itself(name: str, frame: AnnotatedFrame, labels: Sequence[int]) -> Sample:
    """Only of instances that have a pixel left at the network's size."""
    kept = frame.present
    if not kept.any():
        raise DataError(f"{name}: its instances are too small for the network's input; choose another")
    frame = AnnotatedFrame(frame.image, frame.masks[kept], frame.boxes_xyxy[kept], kept[kept])
    nobody = np.full(int(kept.sum()), NO_IDENTITY, np.int64)
    return Sample(name, frame, frame, np.array(labels, np.int64)[kept], nobody)


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"it has {_few(known)}"


def _few(values: Sequence[object]) -> str:
    shown = ", ".join(str(value) for value in values[:_NAMED])
    return shown if len(values) <= _NAMED else f"{shown}, … {values[-1]}"
