"""Annotation files of COCO instances: read and checked once, masks compressed in memory.

    dataset = read_coco("annotations/instances_train2017.json", FaultLog())
    for still in dataset.stills:
        still.boxes_xyxy, still.masks

Letters: n instances of an image; H x W its height and width in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.faults import Fault, FaultLog, crowd, unknown_id
from idol_deploy.data.masks import Masks, Segmentation, compress
from idol_deploy.data.ytvis import CategoryEntry, Id, Side, in_chunks, load_json, require_unique
from idol_runtime.config import Category
from idol_runtime.errors import DataError
from idol_runtime.json_text import JSON_ERRORS

__all__ = ["CocoDataset", "Still", "read_coco"]


@dataclass(frozen=True, eq=False)
class Still:
    """An image and its instances, without crowds.

    Attributes:
        id: id in the annotation file.
        size: (H, W) in pixels.
        file: file name below the folder of images.
        annotation_ids: n ids in the annotation file.
        category_ids: n category ids in the annotation file.
        boxes_xyxy: [n, 4] annotated boxes in pixels, which may differ from the bounds of the masks.
        masks: n compressed masks, for `idol_deploy.data.rle`.
    """

    id: int
    size: tuple[int, int]
    file: str
    annotation_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    boxes_xyxy: NDArray[np.float32]
    masks: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """Images, their annotated instances and the categories.

    Attributes:
        path: annotation file, for messages.
        stills: images in the order of the file.
        categories: categories in the order of the file.
    """

    path: Path
    stills: tuple[Still, ...]
    categories: tuple[Category, ...]


class _Image(msgspec.Struct, gc=False):
    id: Id
    height: Side
    width: Side
    file_name: str


class _Head(msgspec.Struct):
    """Fields read before the segmentation, since crowds may have a segmentation of another form."""

    id: Id
    image_id: Id
    iscrowd: int | bool = 0


class _Annotation(msgspec.Struct):
    category_id: Id
    bbox: tuple[float, float, float, float]
    segmentation: Segmentation = None


class _File(msgspec.Struct):
    images: Annotated[list[_Image], msgspec.Meta(min_length=1)]
    categories: Annotated[list[CategoryEntry], msgspec.Meta(min_length=1)]
    annotations: list[msgspec.Raw]


class _Instance(NamedTuple):
    head: _Head
    body: _Annotation
    mask: bytes


def read_coco(path: str | Path, log: FaultLog) -> CocoDataset:
    """Read an annotation file.

    Args:
        path: JSON file in the format of COCO instances.
        log: receives the annotations that are left out: crowd, unknown image or category, box without area in the
            image, missing, empty or broken mask.

    Raises:
        DataError: missing file, not JSON, another format, an image or category id used twice, or a fault with a strict
            log. The message names the annotation.
        MissingDependencyError: pycocotools is not installed.
    """
    path = Path(path)
    file = load_json(path, _File, "annotation file", "COCO instances")
    require_unique(path, "image", (image.id for image in file.images))
    require_unique(path, "category", (entry.id for entry in file.categories))
    reader = _AnnotationReader(path, file)
    instances: dict[int, list[_Instance]] = {image.id: [] for image in file.images}
    for instance in in_chunks(reader.read, list(enumerate(file.annotations))):
        if isinstance(instance, Fault):
            log.add(instance)
        else:
            instances[instance.head.image_id].append(instance)
    stills = tuple(_still(image, instances[image.id]) for image in file.images)
    return CocoDataset(path, stills, tuple(Category(entry.name, entry.id) for entry in file.categories))


class _AnnotationReader:
    def __init__(self, path: Path, file: _File) -> None:
        self._path = path
        self._sizes = {image.id: (image.height, image.width) for image in file.images}
        self._categories = {entry.id for entry in file.categories}
        self._heads = msgspec.json.Decoder(_Head)
        self._bodies = msgspec.json.Decoder(_Annotation)

    def read(self, raws: Sequence[tuple[int, msgspec.Raw]]) -> list[_Instance | Fault]:
        """Return the instance of each numbered annotation, or its fault."""
        entries = [self._decode(raw, index) for index, raw in raws]
        valid = [entry for entry in entries if isinstance(entry, tuple)]
        masks = iter(compress([([body.segmentation], self._sizes[head.image_id]) for head, body in valid]))
        return [
            self._instance(*entry, next(masks)) if isinstance(entry, tuple) else entry for entry in entries
        ]

    def _decode(self, raw: msgspec.Raw, index: int) -> tuple[_Head, _Annotation] | Fault:
        where = f"{self._path}: annotation number {index}"
        try:
            head = self._heads.decode(raw)
            where = f"{self._path}: annotation {head.id}"
            if head.iscrowd:
                return crowd(where)
            body = self._bodies.decode(raw)
        except JSON_ERRORS as error:
            return Fault("fields missing or of another type", where, str(error))
        if head.image_id not in self._sizes:
            return unknown_id("image", head.image_id, where)
        if body.category_id not in self._categories:
            return unknown_id("category", body.category_id, where)
        if not body.segmentation:
            why = "it has a box but no mask, which training needs; add its segmentation, or remove it"
            return Fault("no mask", where, why)
        height, width = self._sizes[head.image_id]
        x1, y1, x2, y2 = _corners([body], (height, width))[0].tolist()
        if not (x1 < x2 and y1 < y2):
            box = "[{:g}, {:g}, {:g}, {:g}]".format(*body.bbox)
            why = f"its box {box} has no area in the {height}x{width} image; correct it, or remove the annotation"
            return Fault("box without area", where, why)
        return head, body

    def _instance(self, head: _Head, body: _Annotation, masks: Masks | DataError) -> _Instance | Fault:
        where = f"{self._path}: annotation {head.id}"
        if isinstance(masks, DataError):
            return Fault("broken mask", where, str(masks).replace("frame 0", f"image {head.image_id}"))
        mask = masks.counts[0]
        if mask is None:
            return Fault("empty mask", where, "its mask has no pixel; remove the annotation")
        return _Instance(head, body, mask)


def _still(image: _Image, instances: Sequence[_Instance]) -> Still:
    size = image.height, image.width
    return Still(
        image.id,
        size,
        image.file_name,
        tuple(instance.head.id for instance in instances),
        tuple(instance.body.category_id for instance in instances),
        _corners([instance.body for instance in instances], size),
        tuple(instance.mask for instance in instances),
    )


def _corners(annotations: Sequence[_Annotation], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the boxes of n annotations, [n, 4] xyxy, clipped to the image (H, W)."""
    corners = np.array([annotation.bbox for annotation in annotations], np.float64).reshape(-1, 4)
    with np.errstate(over="ignore"):
        corners[:, 2:] += corners[:, :2]
    return corners.clip(0, [*size[::-1], *size[::-1]]).astype(np.float32)
