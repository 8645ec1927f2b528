"""Annotation files of COCO's instances, read and checked once; masks are held compressed.

    dataset = read_coco("annotations/instances_train2017.json")
    for still in dataset.stills:
        still.boxes_xyxy, still.masks

n: instances of an image; H, W: its height and width in pixels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.faults import Fault, FaultLog
from idol_deploy.data.masks import Masks, Segmentation, compress
from idol_deploy.data.ytvis import in_chunks, load_json
from idol_runtime.config import Category
from idol_runtime.errors import DataError

__all__ = ["CocoDataset", "Still", "read_coco"]


@dataclass(frozen=True, eq=False)
class Still:
    """An image and its instances; crowds are left out.

    Attributes:
        id: in the annotation file.
        size: (H, W) in pixels.
        file: its name below the folder of images.
        annotation_ids: n, in the annotation file.
        category_ids: [n] in the numbers of the annotation file.
        boxes_xyxy: [n, 4] as annotated, in pixels; not those of the masks.
        masks: n compressed masks, for `idol_deploy.data.rle`.
    """

    id: int
    size: tuple[int, int]
    file: str
    annotation_ids: tuple[int, ...]
    category_ids: NDArray[np.int32]
    boxes_xyxy: NDArray[np.float32]
    masks: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """Images, their instances and the classes.

    Attributes:
        path: the file, for messages.
        stills: in the order of the file.
        categories: in the order of the file.
    """

    path: Path
    stills: tuple[Still, ...]
    categories: tuple[Category, ...]


class _Image(msgspec.Struct, gc=False):
    id: int
    height: Annotated[int, msgspec.Meta(ge=1)]
    width: Annotated[int, msgspec.Meta(ge=1)]
    file_name: str


class _Category(msgspec.Struct):
    id: int
    name: str


class _Head(msgspec.Struct):
    """What is read before the segmentation, which only crowds may have in another form."""

    id: int
    image_id: int
    iscrowd: int | bool = 0


class _Annotation(msgspec.Struct):
    category_id: int
    bbox: tuple[float, float, float, float]
    segmentation: Segmentation = None


class _File(msgspec.Struct):
    images: Annotated[list[_Image], msgspec.Meta(min_length=1)]
    categories: Annotated[list[_Category], msgspec.Meta(min_length=1)]
    annotations: list[msgspec.Raw]


@dataclass(frozen=True)
class _Instance:
    head: _Head
    category_id: int
    box: tuple[float, float, float, float]
    masks: Masks


def read_coco(path: str | Path, log: FaultLog) -> CocoDataset:
    """Read an annotation file.

    Args:
        path: JSON in the format of COCO's instances.
        log: gets what is left out: annotations of an unknown image or category, with a box without area, without a
            mask or with a broken one. Refuses the file at the first if it is strict.

    Raises:
        DataError: no such file, not JSON, not of this format, an image or a category twice, or a fault in a strict
            log. Names the annotation.
        MissingDependencyError: pycocotools is not installed.
    """
    path = Path(path)
    file = load_json(path, _File, "annotation file", "COCO's instances")
    for what, entries in (("image", file.images), ("category", file.categories)):
        number, count = Counter(entry.id for entry in entries).most_common(1)[0]
        if count > 1:
            raise DataError(f"{path}: there are two of {what} {number}; give each its own id")
    reader = _AnnotationReader(path, file)
    found: dict[int, list[_Instance]] = {image.id: [] for image in file.images}
    for instance in in_chunks(reader.read, list(enumerate(file.annotations))):
        if isinstance(instance, _Instance):
            found[instance.head.image_id].append(instance)
        elif instance is not None:
            log.add(instance)
    stills = tuple(_still(image, found[image.id]) for image in file.images)
    return CocoDataset(path, stills, tuple(Category(entry.name, entry.id) for entry in file.categories))


class _AnnotationReader:
    def __init__(self, path: Path, file: _File) -> None:
        self._path = path
        self._sizes = {image.id: (image.height, image.width) for image in file.images}
        self._categories = {entry.id for entry in file.categories}
        self._heads = msgspec.json.Decoder(_Head)
        self._bodies = msgspec.json.Decoder(_Annotation)

    def read(self, raws: Sequence[tuple[int, msgspec.Raw]]) -> list[_Instance | Fault | None]:
        """Numbered annotations, or what is wrong with each; None for a crowd."""
        entries = [self._entry(raw, index) for index, raw in raws]
        sound = [entry for entry in entries if isinstance(entry, tuple)]
        masks = iter(compress([([body.segmentation], self._sizes[head.image_id]) for head, body in sound]))
        return [
            self._checked(*entry, next(masks)) if isinstance(entry, tuple) else entry for entry in entries
        ]

    def _entry(self, raw: msgspec.Raw, index: int) -> tuple[_Head, _Annotation] | Fault | None:
        where = f"{self._path}: annotation number {index}"
        try:
            head = self._heads.decode(raw)
            if head.iscrowd:
                return None
            where = f"{self._path}: annotation {head.id}"
            entry = self._bodies.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Fault("fields missing or of another type", where, str(error))
        if head.image_id not in self._sizes:
            why = f"there is no image {head.image_id}; add it or remove the annotation"
            return Fault("unknown image", where, why)
        if entry.category_id not in self._categories:
            why = f"there is no category {entry.category_id}; add it or remove the annotation"
            return Fault("unknown category", where, why)
        left, top, width, height = entry.bbox
        if not (width > 0 and height > 0):
            why = f"its box at ({left:g}, {top:g}) is {width:g} x {height:g}; remove the annotation"
            return Fault("box without area", where, why)
        return head, entry

    def _checked(self, head: _Head, entry: _Annotation, masks: Masks | DataError) -> _Instance | Fault:
        where = f"{self._path}: annotation {head.id}"
        if isinstance(masks, DataError):
            return Fault("broken mask", where, str(masks).replace("frame 0", f"image {head.image_id}"))
        if masks.counts[0] is None:
            return Fault("empty mask", where, "it covers no pixel; remove the annotation")
        return _Instance(head, entry.category_id, entry.bbox, masks)


def _still(image: _Image, instances: Sequence[_Instance]) -> Still:
    corners = np.array([instance.box for instance in instances], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    limits = [image.width, image.height, image.width, image.height]
    return Still(
        image.id,
        (image.height, image.width),
        image.file_name,
        tuple(instance.head.id for instance in instances),
        np.array([instance.category_id for instance in instances], np.int32),
        corners.clip(0, limits).astype(np.float32),
        tuple(instance.masks.counts[0] or b"" for instance in instances),
    )
