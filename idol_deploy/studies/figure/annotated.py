"""An annotated frame as a training pair with itself: uncropped, at evaluation size, without augmentation."""

import difflib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from idol_deploy.config import IdolConfig
from idol_deploy.data.categories import class_labels, list_some
from idol_deploy.data.coco import read_coco
from idol_deploy.data.faults import Fault, FaultLog, crowd
from idol_deploy.data.pairs import still_frame, video_frame
from idol_deploy.data.samples import NO_IDENTITY, AnnotatedFrame, Sample, expand_masks, read_frame
from idol_deploy.data.transforms import Resize, Size, View
from idol_deploy.data.ytvis import Track, Video, VisDataset, read_dataset
from idol_runtime.errors import DataError

__all__ = ["find_video", "read_still", "read_video_frame", "without_crowds"]

_LISTED = 6  # videos, images or frames in a message


def read_video_frame(
    annotations: str | Path,
    frames: str | Path,
    config: IdolConfig,
    video: str,
    frame: int,
    log: FaultLog | None = None,
) -> Sample:
    """Read a frame of YouTube-VIS or OVIS.

    Args:
        annotations: annotation file.
        frames: folder that its file names start from.
        config: classes and size.
        video: id of the video, or name of its folder.
        frame: index of the frame, from 0.
        log: receives the annotations of the file that are left out, and the crowds of the video (default: a new log).

    Raises:
        DataError: no such video or frame, no instance of the network's classes in it, or an unreadable file.
        MissingDependencyError: pycocotools is not installed.
    """
    log = log or FaultLog()
    dataset = read_dataset(annotations, log)
    labels = class_labels(dataset.categories, config.classes, dataset.path)
    match = find_video(dataset, video)
    if not 0 <= frame < len(match):
        raise DataError(f"video {video} has no frame {frame}; choose one of 0 to {len(match) - 1}")
    tracks = [track for track in without_crowds(dataset, match, log) if track.category_id in labels]
    visible = [track for track in tracks if track.masks.counts[frame] is not None]
    where = f"video {video}, frame {frame}"
    if not visible:
        others = sorted({t for track in tracks for t in track.masks.frames})
        fix = f"choose one of the frames {list_some(others, _LISTED)}" if others else "choose another video"
        raise DataError(f"{where} has no instance of the network's classes; {fix}")
    image = read_frame(Path(frames), match.files[frame], match.size, where)
    if isinstance(image, Fault):
        raise DataError(str(image))
    masks = [track.masks.counts[frame] for track in visible]
    whole = video_frame(image, _evaluation_view(match.size, config), masks)
    return _pair_with_itself(where, whole, [labels[track.category_id] for track in visible])


def read_still(
    annotations: str | Path, frames: str | Path, config: IdolConfig, image: str, log: FaultLog | None = None
) -> Sample:
    """Read an image of COCO by its id or file name; other arguments and errors as `read_video_frame`."""
    dataset = read_coco(annotations, log or FaultLog())
    labels = class_labels(dataset.categories, config.classes, dataset.path)
    names = {
        name: s for s in dataset.stills for name in (Path(s.file).stem, Path(s.file).name, s.file, str(s.id))
    }
    if image not in names:
        raise DataError(
            f"{dataset.path} has no image {image!r}; {_suggest(image, [s.file for s in dataset.stills])}"
        )
    still = names[image]
    classes = [labels.get(category) for category in still.category_ids]
    listed = np.array([label is not None for label in classes], np.bool_)
    if not listed.any():
        raise DataError(f"image {image} has no instance of the network's classes; choose another")
    pixels = read_frame(Path(frames), still.file, still.size, f"image {image}")
    if isinstance(pixels, Fault):
        raise DataError(str(pixels))
    masks = expand_masks([c for c, keep in zip(still.masks, listed, strict=True) if keep], still.size)
    whole = still_frame(pixels, _evaluation_view(still.size, config), masks, still.boxes_xyxy[listed])
    return _pair_with_itself(f"image {image}", whole, [label for label in classes if label is not None])


def without_crowds(dataset: VisDataset, video: Video, log: FaultLog) -> list[Track]:
    """Return the instances of a video; the log receives its crowds."""
    tracks = dataset.tracks(video.id)
    for track in tracks:
        if track.crowd:
            log.add(crowd(f"{dataset.path}: annotation {track.id}"))
    return [track for track in tracks if not track.crowd]


def find_video(dataset: VisDataset, name: str) -> Video:
    """Return the video with this id, or with frames in a folder of this name.

    Raises:
        DataError: there is no such video, or more than one.
    """
    if name.isdecimal() and (video := dataset.video(int(name))) is not None:
        return video
    folders = [PurePosixPath(video.files[0].replace("\\", "/")).parent for video in dataset.videos]
    matches = [v for v, f in zip(dataset.videos, folders, strict=True) if name in (f.name, str(f))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = list_some([video.id for video in matches], _LISTED)
        raise DataError(f"{dataset.path} has {len(matches)} videos in {name!r}; choose one of the ids {ids}")
    known = [f"{folder.name} (id {video.id})" for folder, video in zip(folders, dataset.videos, strict=True)]
    raise DataError(f"{dataset.path} has no video {name!r}; {_suggest(name, known)}")


def _evaluation_view(size: Size, config: IdolConfig) -> View:
    return View(size, (Resize(config.preprocessing.network_size(*size)),))


def _pair_with_itself(name: str, frame: AnnotatedFrame, labels: Sequence[int]) -> Sample:
    """Return a sample of the instances that have a pixel left at the network's size."""
    kept = frame.present
    if not kept.any():
        raise DataError(f"{name}: its instances are too small for the network's input; choose another")
    frame = AnnotatedFrame(frame.image, frame.masks[kept], frame.boxes_xyxy[kept], kept[kept])
    identities = np.full(int(kept.sum()), NO_IDENTITY, np.int64)
    return Sample(name, frame, frame, np.array(labels, np.int64)[kept], identities)


def _suggest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"it has {list_some(known, _LISTED)}"
