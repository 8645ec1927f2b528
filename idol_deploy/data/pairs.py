"""Training pairs of videos and of still images (docs/idol.md §5.1).

source = open_pairs("train.json", "train/JPEGImages", preset("ytvis19_r50"), strict=False)
source.load(0, numpy.random.default_rng(0))
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_deploy.config import IdolConfig
from idol_deploy.data.categories import class_labels
from idol_deploy.data.coco import CocoDataset, Still, read_coco
from idol_deploy.data.faults import Fault, FaultLog, crowd, missing_files
from idol_deploy.data.samples import NO_IDENTITY, AnnotatedFrame, PairSource, Sample, expand_masks, read_frame
from idol_deploy.data.transforms import View, boxes_of, draw_still_views, draw_video_views
from idol_deploy.data.ytvis import Track, Video, VisDataset, read_dataset
from idol_runtime.errors import DataError

__all__ = ["StillPairs", "VideoPairs", "draw_frames", "open_pairs", "still_frame", "video_frame"]


def open_pairs(
    annotations: str | Path, frames: str | Path, config: IdolConfig, *, strict: bool = False
) -> PairSource:
    """Open the training pairs of a data set.

    Args:
        annotations: annotation file: COCO if `config.train.still_images` is set, else YouTube-VIS or OVIS.
        frames: folder of the frames or images.
        config: classes and augmentation.
        strict: refuse an unusable annotation or frame instead of counting it in `log`.

    Raises:
        DataError: nothing is usable, or `strict` is set and something is not; the message names it.
        MissingDependencyError: pycocotools is not installed.
    """
    log = FaultLog(strict)
    if config.train.still_images:
        return StillPairs(read_coco(annotations, log), frames, config, log)
    return VideoPairs(read_dataset(annotations, log, allow_empty=False), frames, config, log)


@dataclass(frozen=True)
class _Clip:
    """A video that is usable for training.

    Attributes:
        video: video of the data set.
        frames: indices of the frames that exist.
        tracks: usable instances.
        labels: class label of each track.
        first_identity: identity of the first track; the next tracks count up from it.
    """

    video: Video
    frames: tuple[int, ...]
    tracks: tuple[Track, ...]
    labels: tuple[int, ...]
    first_identity: int


class VideoPairs:
    """Pairs of frames of one video; an epoch has one pair per video.

    The first frame is drawn uniformly, the second within `frame_range` of it; the earlier one is the key frame. A video
    with a single frame is paired with itself.
    """

    def __init__(self, dataset: VisDataset, frames: str | Path, config: IdolConfig, log: FaultLog) -> None:
        """Check that the frames exist and select what is usable.

        Args:
            dataset: videos and their instances.
            frames: folder that the file names start from.
            config: classes, frame selection and augmentation.
            log: receives what is left out.

        Raises:
            DataError: no annotations, or no usable class, frame or instance; or a fault with a strict log.
        """
        if not dataset.annotated:
            raise DataError(
                f"{dataset.path} has no annotations; train on a file that has them, such as train.json"
            )
        self.log = log
        self._root = Path(frames)
        self._train = config.train
        labels = class_labels(dataset.categories, config.classes, dataset.path)
        names = {category.dataset_id: category.name for category in dataset.categories}
        missing = missing_files(self._root, (file for video in dataset.videos for file in video.files))
        self._clips: list[_Clip] = []
        self.identities = 0
        for video in dataset.videos:
            for frame, file in enumerate(video.files):
                if file in missing:
                    where = f"video {video.id}, frame {frame}"
                    self.log.add(_missing_frame(self._root / file, where, "frame"))
            usable = tuple(frame for frame, file in enumerate(video.files) if file not in missing)
            tracks = []
            for track in dataset.tracks(video.id):
                where = f"{dataset.path}: annotation {track.id}"
                if track.category_id not in labels:
                    self.log.add(_unlisted_class(where, names[track.category_id]))
                elif track.crowd:
                    self.log.add(crowd(where))
                elif not track.masks.areas[list(usable)].any():
                    self.log.add(
                        Fault("never seen", where, "the frames with its masks are missing; copy them")
                    )
                else:
                    tracks.append(track)
            if usable and not tracks and config.train.drop_empty:
                self.log.add(_no_instance(f"video {video.id}", "video"))
            elif usable:
                of_tracks = tuple(labels[track.category_id] for track in tracks)
                self._clips.append(_Clip(video, usable, tuple(tracks), of_tracks, self.identities))
                self.identities += len(tracks)
        self.labels = frozenset(label for clip in self._clips for label in clip.labels)
        _require_instances(self.labels, dataset.path, self.log)

    def __len__(self) -> int:
        return len(self._clips)

    def load(self, index: int, rng: np.random.Generator) -> Sample | Fault:
        """Draw a pair of frames of a video.

        Args:
            index: index of the video among the usable ones.
            rng: random generator for the choice of frames and the augmentation.

        Returns:
            The sample, or the fault of a frame that cannot be read.
        """
        clip = self._clips[index]
        pair = draw_frames(clip.frames, self._train.frame_range, rng)
        images = []
        for frame in pair:
            where = f"video {clip.video.id}, frame {frame}"
            image = read_frame(self._root, clip.video.files[frame], clip.video.size, where)
            if isinstance(image, Fault):
                return image
            images.append(image)
        views = draw_video_views([clip.video.size] * len(pair), self._train, rng)
        on_either = [i for i, track in enumerate(clip.tracks) if any(track.masks.areas[t] for t in pair)]
        key, reference = (
            video_frame(image, view, [clip.tracks[i].masks.counts[frame] for i in on_either])
            for image, view, frame in zip(images, views, pair, strict=True)
        )
        chosen = np.array(on_either, np.int64)
        return Sample(
            f"video {clip.video.id}, frames {pair[0]} and {pair[1]}",
            key,
            reference,
            np.array(clip.labels, np.int64)[chosen],
            chosen + clip.first_identity,
        )


class StillPairs:
    """Pairs of two augmentations of one image; every instance is paired with itself."""

    identities = 0

    def __init__(self, dataset: CocoDataset, frames: str | Path, config: IdolConfig, log: FaultLog) -> None:
        """Check that the images exist and select what is usable.

        Args:
            dataset: images and their instances.
            frames: folder of the images.
            config: classes and augmentation; `train.drop_empty` drops images without instances.
            log: receives what is left out.

        Raises:
            DataError: no usable class, image or instance, or a fault with a strict log.
        """
        self.log = log
        self._root = Path(frames)
        self._train = config.train
        self._labels = class_labels(dataset.categories, config.classes, dataset.path)
        missing = missing_files(self._root, (still.file for still in dataset.stills))
        names = {category.dataset_id: category.name for category in dataset.categories}
        self._stills: list[Still] = []
        for still in dataset.stills:
            for number, category in zip(still.annotation_ids, still.category_ids, strict=True):
                if category not in self._labels:
                    where = f"{dataset.path}: annotation {number}"
                    self.log.add(_unlisted_class(where, names[category]))
            if still.file in missing:
                self.log.add(_missing_frame(self._root / still.file, f"image {still.id}", "image"))
            elif config.train.drop_empty and self._labels.keys().isdisjoint(still.category_ids):
                self.log.add(_no_instance(f"image {still.id}", "image"))
            else:
                self._stills.append(still)
        categories = {category for still in self._stills for category in still.category_ids}
        self.labels = frozenset(label for i, label in self._labels.items() if i in categories)
        _require_instances(self.labels, dataset.path, self.log)

    def __len__(self) -> int:
        return len(self._stills)

    def load(self, index: int, rng: np.random.Generator) -> Sample | Fault:
        """Augment an image twice.

        Args:
            index: index of the image among the usable ones.
            rng: random generator for the augmentation.

        Returns:
            The sample, or the fault of an image that cannot be read.
        """
        still = self._stills[index]
        image = read_frame(self._root, still.file, still.size, f"image {still.id}")
        if isinstance(image, Fault):
            return image
        labels = np.array([self._labels.get(i, -1) for i in still.category_ids], np.int64)
        listed = labels >= 0
        counts = [counts for counts, keep in zip(still.masks, listed, strict=True) if keep]
        masks, boxes = expand_masks(counts, still.size), still.boxes_xyxy[listed]
        key, reference = (
            still_frame(image, view, masks, boxes)
            for view in draw_still_views(still.size, 2, self._train, rng)
        )
        identities = np.full(int(listed.sum()), NO_IDENTITY, np.int64)
        return Sample(f"image {still.id}", key, reference, labels[listed], identities)


def draw_frames(frames: Sequence[int], most: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw two of the frames, in order, at most `most` apart; one frame twice if no other is that near."""
    first = frames[int(rng.integers(len(frames)))]
    near = [frame for frame in frames if 0 < abs(frame - first) <= most]
    second = near[int(rng.integers(len(near)))] if near else first
    return min(first, second), max(first, second)


def video_frame(image: Image.Image, view: View, counts: Sequence[bytes | None]) -> AnnotatedFrame:
    """Apply a view to a frame and its compressed masks; boxes are the bounds of the remaining masks."""
    masks = view.masks(expand_masks(counts, view.source))
    boxes = boxes_of(masks)
    return AnnotatedFrame(view.image(image), masks, boxes, boxes[:, 2] > 0)


def still_frame(
    image: Image.Image,
    view: View,
    masks: NDArray[np.bool_],  # [n, H, W]
    boxes_xyxy: NDArray[np.float32],  # [n, 4]
) -> AnnotatedFrame:
    """Apply a view to an image and its instances; boxes are the annotated ones, clipped to the view."""
    masks, boxes = view.masks(masks), view.boxes(boxes_xyxy)
    present: NDArray[np.bool_] = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    present &= np.logical_or.reduce(masks, (1, 2))
    return AnnotatedFrame(view.image(image), masks, boxes, present)


def _missing_frame(file: Path, where: str, what: str) -> Fault:
    return Fault("missing frame", where, f"there is no {file}; copy it there, or remove the {what}")


def _no_instance(where: str, what: str) -> Fault:
    why = f"it has no instance to train on; set train.drop_empty=false to train on such a {what} too"
    return Fault(f"{what} without instances", where, why, expected=True)


def _unlisted_class(where: str, name: str) -> Fault:
    why = f"the network has no class {name!r}; add it to the classes, or remove the annotation"
    return Fault(f"class {name!r} is not in the list", where, why)


def _require_instances(labels: Collection[int], path: Path, log: FaultLog) -> None:
    if not labels:
        reasons = log.summary() or ["it has no annotations; give a file that has them"]
        raise DataError("; ".join((f"{path}: no instance is left to train on", *reasons)))
