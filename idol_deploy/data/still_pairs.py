"""Pairs made of still images, from annotations of COCO's instances (docs/idol.md §5.1).

source = StillPairs.open("instances_train2017.json", "train2017", coco_r50())
source.load(0, numpy.random.default_rng(0))
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_deploy.config import IdolConfig, TrainConfig
from idol_deploy.data.class_names import class_labels
from idol_deploy.data.coco import CocoDataset, Still, read_coco
from idol_deploy.data.faults import Fault, FaultLog, missing_files
from idol_deploy.data.samples import (
    NO_IDENTITY,
    AnnotatedFrame,
    Sample,
    expand_masks,
    read_frame,
    unlisted_class,
)
from idol_deploy.data.transforms import View, draw_still_views
from idol_runtime.errors import DataError

__all__ = ["StillPairs", "still_frame"]


class StillPairs:
    """Pairs of two augmentations of one image, in which every instance finds itself."""

    identities = 0

    def __init__(
        self,
        dataset: CocoDataset,
        frames: str | Path,
        classes: Sequence[str],
        train: TrainConfig,
        log: FaultLog | None = None,
    ) -> None:
        """Checks that all images are there, and leaves out what cannot be used.

        Args:
            dataset: images and their instances.
            frames: the folder of the images.
            classes: of the network.
            train: how images are augmented, and whether those without instances are left out.
            log: gets what is left out; by default it counts.

        Raises:
            DataError: no class or no image can be used, or the log is strict and something is left out.
        """
        self.log = log or FaultLog()
        self._root = Path(frames)
        self._train = train
        self._labels = class_labels(dataset.categories, classes, dataset.path)
        missing = missing_files(self._root, (still.file for still in dataset.stills))
        names = {category.dataset_id: category.name for category in dataset.categories}
        self._stills: list[Still] = []
        for still in dataset.stills:
            self._log_unlisted(dataset.path, still, names)
            if still.file in missing:
                why = f"there is no {self._root / still.file}; copy it there, or remove the image"
                self.log.add(Fault("missing frame", f"image {still.id}", why))
            elif not train.drop_empty or any(i in self._labels for i in still.category_ids.tolist()):
                self._stills.append(still)
        if not self._stills:
            raise DataError(f"{dataset.path}: no image is left to train on; {'; '.join(self.log.summary())}")

    @classmethod
    def open(
        cls, annotations: str | Path, frames: str | Path, config: IdolConfig, *, strict: bool = False
    ) -> "StillPairs":
        """Reads an annotation file in the format of COCO's instances; arguments and errors as `VideoPairs.open`."""
        log = FaultLog(strict)
        return cls(read_coco(annotations, log), frames, config.classes, config.train, log)

    def __len__(self) -> int:
        return len(self._stills)

    def load(self, index: int, rng: np.random.Generator) -> Sample | Fault:
        """Augments an image twice.

        Args:
            index: of the image, among those that can be used.
            rng: decides how it is augmented.

        Returns:
            The sample, or why the image cannot be read.
        """
        still = self._stills[index]
        image = read_frame(self._root, still.file, still.size, f"image {still.id}")
        if isinstance(image, Fault):
            return image
        labels = np.array([self._labels.get(i, -1) for i in still.category_ids.tolist()], np.int64)
        listed = labels >= 0
        counts = [counts for counts, keep in zip(still.masks, listed, strict=True) if keep]
        masks, boxes = expand_masks(counts, still.size), still.boxes_xyxy[listed]
        key, reference = (
            still_frame(image, view, masks, boxes)
            for view in draw_still_views(still.size, 2, self._train, rng)
        )
        identities = np.full(int(listed.sum()), NO_IDENTITY, np.int64)
        return Sample(f"image {still.id}", key, reference, labels[listed], identities)

    def _log_unlisted(self, path: Path, still: Still, names: Mapping[int, str]) -> None:
        for number, category in zip(still.annotation_ids, still.category_ids.tolist(), strict=True):
            if category not in self._labels:
                self.log.add(unlisted_class(path, number, names[category]))


def still_frame(
    image: Image.Image,
    view: View,
    masks: NDArray[np.bool_],  # [n, H, W]
    boxes_xyxy: NDArray[np.float32],  # [n, 4]
) -> AnnotatedFrame:
    """What a view shows of an image and its instances; boxes are the annotated ones, cut off at its edge."""
    masks, boxes = view.masks(masks), view.boxes(boxes_xyxy)
    present: NDArray[np.bool_] = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    present &= np.logical_or.reduce(masks, (1, 2))
    return AnnotatedFrame(view.image(image), masks, boxes, present)
