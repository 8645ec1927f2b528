"""Key and reference frames of videos, from annotations of YouTube-VIS or OVIS (docs/idol.md §5.1).

source = VideoPairs.open("train.json", "train/JPEGImages", ytvis19_r50())
source.load(0, numpy.random.default_rng(0))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from idol_deploy.config import IdolConfig, TrainConfig
from idol_deploy.data.class_names import class_labels
from idol_deploy.data.faults import Fault, FaultLog, missing_files
from idol_deploy.data.samples import (
    AnnotatedFrame,
    Sample,
    expand_masks,
    read_frame,
    unlisted_class,
)
from idol_deploy.data.transforms import View, boxes_of, draw_video_views
from idol_deploy.data.ytvis import Track, Video, VisDataset, read_dataset
from idol_runtime.errors import DataError

__all__ = ["VideoPairs", "draw_frames", "video_frame"]


@dataclass(frozen=True)
class _Clip:
    """A video that can be trained on.

    Attributes:
        video: its files.
        frames: indices of those that are there.
        tracks: its instances.
        labels: of the tracks.
        first_identity: the number of the first track; the others follow.
    """

    video: Video
    frames: tuple[int, ...]
    tracks: tuple[Track, ...]
    labels: tuple[int, ...]
    first_identity: int


class VideoPairs:
    """Pairs of frames of one video, one pair per video and epoch.

    The first frame is drawn uniformly, the second within `frame_range` of it; the earlier one is the key frame. A
    video of a single frame makes a pair with itself.
    """

    def __init__(
        self,
        dataset: VisDataset,
        frames: str | Path,
        classes: Sequence[str],
        train: TrainConfig,
        *,
        strict: bool = False,
    ) -> None:
        """Checks that all frames are there, and leaves out what cannot be used.

        Args:
            dataset: videos and their instances.
            frames: the folder that the files' names start from.
            classes: of the network.
            train: how frames are drawn and augmented.
            strict: refuse what cannot be used instead of counting it in `log`.

        Raises:
            DataError: no annotations, no class, no frame or no instance can be used, or under `strict` something can't.
        """
        if not dataset.annotated:
            raise DataError(
                f"{dataset.path} has no annotations; train on a file that has, such as train.json"
            )
        self.log = FaultLog(strict)
        self.log.take(dataset.skipped, dataset.first_skipped)
        self._root = Path(frames)
        self._train = train
        labels = class_labels(dataset.categories, classes, dataset.path)
        names = {category.dataset_id: category.name for category in dataset.categories}
        missing = missing_files(self._root, (file for video in dataset.videos for file in video.files))
        self._clips: list[_Clip] = []
        self.identities = 0
        for video in dataset.videos:
            usable = self._usable_frames(video, missing)
            tracks = self._usable_tracks(video, dataset, labels, names)
            if usable and (tracks or not train.drop_empty):
                of_tracks = tuple(labels[track.category_id] for track in tracks)
                self._clips.append(_Clip(video, usable, tracks, of_tracks, self.identities))
                self.identities += len(tracks)
        if not self.identities:
            raise DataError(
                "; ".join((f"{dataset.path}: no instance is left to train on", *self.log.summary()))
            )

    @classmethod
    def open(
        cls, annotations: str | Path, frames: str | Path, config: IdolConfig, *, strict: bool = False
    ) -> "VideoPairs":
        """Reads an annotation file in the format of YouTube-VIS or OVIS.

        Args:
            annotations: the file.
            frames: the folder that the names in it start from.
            config: classes, and how frames are drawn and augmented.
            strict: refuse what is broken or of an unknown class instead of counting it in `log`.

        Raises:
            DataError: nothing can be used, or under `strict` something can't; names the annotation or frame.
            MissingDependencyError: pycocotools is not installed.
        """
        dataset = read_dataset(annotations, strict=strict, allow_empty=False)
        return cls(dataset, frames, config.classes, config.train, strict=strict)

    def __len__(self) -> int:
        return len(self._clips)

    def load(self, index: int, rng: np.random.Generator) -> Sample | Fault:
        """Draws a pair of a video's frames.

        Args:
            index: of the video, among those that can be used.
            rng: decides which frames, and how they are augmented.

        Returns:
            The sample, or which frame cannot be read and why.
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

    def _usable_frames(self, video: Video, missing: set[str]) -> tuple[int, ...]:
        usable = []
        for frame, file in enumerate(video.files):
            if file in missing:
                why = f"there is no {self._root / file}; copy it there, or remove the frame"
                self.log.add(Fault("missing frame", f"video {video.id}, frame {frame}", why))
            else:
                usable.append(frame)
        return tuple(usable)

    def _usable_tracks(
        self, video: Video, dataset: VisDataset, labels: Mapping[int, int], names: Mapping[int, str]
    ) -> tuple[Track, ...]:
        usable = []
        for track in dataset.tracks(video.id):
            if track.category_id in labels:
                if not track.crowd:
                    usable.append(track)
            else:
                self.log.add(unlisted_class(dataset.path, track.id, names[track.category_id]))
        return tuple(usable)


def draw_frames(frames: Sequence[int], most: int, rng: np.random.Generator) -> tuple[int, int]:
    """Two of the frames, in order and at most so far apart; twice the same where no other is near."""
    first = frames[int(rng.integers(len(frames)))]
    near = [frame for frame in frames if 0 < abs(frame - first) <= most]
    second = near[int(rng.integers(len(near)))] if near else first
    return min(first, second), max(first, second)


def video_frame(image: Image.Image, view: View, counts: Sequence[bytes | None]) -> AnnotatedFrame:
    """What a view shows of a frame and its instances' compressed masks; boxes are those of what is seen."""
    masks = view.masks(expand_masks(counts, view.source))
    boxes = boxes_of(masks)
    return AnnotatedFrame(view.image(image), masks, boxes, boxes[:, 2] > 0)
