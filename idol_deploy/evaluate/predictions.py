"""Results files in the submission format of YouTube-VIS and OVIS, and the archive for their servers."""

import shutil
import zipfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from idol_deploy.data.categories import list_some
from idol_deploy.data.masks import Masks, Segmentation, compress
from idol_deploy.data.ytvis import Id, Video, VisDataset, in_chunks, load_json
from idol_runtime.errors import DataError
from idol_runtime.files import replacing
from idol_runtime.json_text import JSON_ERRORS

__all__ = ["Prediction", "ResultEntry", "by_cell", "group_by", "read_predictions", "write_submission"]

_ZIP32_LIMIT = 1 << 31

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


@dataclass(frozen=True, eq=False)
class Prediction:
    """A result: a track under one class.

    Attributes:
        video_id: id of the video.
        category_id: id of the category in the annotation file.
        score: confidence; higher is more certain.
        masks: compressed masks of all frames.
        area: mean area of the non-empty masks in pixels; 0 if all are empty.
    """

    video_id: int
    category_id: int
    score: float
    masks: Masks
    area: float


class ResultEntry(msgspec.Struct):
    """An entry of a results file."""

    video_id: Id
    category_id: Id
    score: float
    segmentations: list[Segmentation]


def read_predictions(path: str | Path, dataset: VisDataset) -> list[Prediction]:
    """Read a results file.

    Args:
        path: JSON list of objects with `video_id`, `category_id`, `score` and `segmentations`, one RLE or null per
            frame.
        dataset: data set of the results.

    Returns:
        The results in the order of the file, which is the order of results with equal scores.

    Raises:
        DataError: missing file, not JSON, another format, or a result with an unknown video or category, masks of
            another size, or another number of masks than frames. The message names the result.
        MissingDependencyError: pycocotools is not installed.
    """
    path = Path(path)
    reader = _Reader(path, dataset)
    return list(in_chunks(reader.read, list(enumerate(load_json(path, list[msgspec.Raw], "results file")))))


class _Reader:
    def __init__(self, path: Path, dataset: VisDataset) -> None:
        self._path = path
        self._dataset = dataset
        self._categories = {category.dataset_id for category in dataset.categories}
        self._decoder = msgspec.json.Decoder(ResultEntry)

    def read(self, raws: Sequence[tuple[int, msgspec.Raw]]) -> list[Prediction]:
        entries = [self._entry(index, raw) for index, raw in raws]
        masks = compress([(entry.segmentations, video.size) for entry, video in entries])
        predictions = []
        for (index, _), (entry, _), instance in zip(raws, entries, masks, strict=True):
            if isinstance(instance, DataError):
                raise self._error(index, instance) from instance
            area = int(instance.areas.sum()) / max(int(np.count_nonzero(instance.areas)), 1)
            predictions.append(Prediction(entry.video_id, entry.category_id, entry.score, instance, area))
        return predictions

    def _entry(self, index: int, raw: msgspec.Raw) -> tuple[ResultEntry, Video]:
        try:
            entry = self._decoder.decode(raw)
        except JSON_ERRORS as error:
            raise self._error(index, error) from error
        where = self._dataset.path
        video = self._dataset.video(entry.video_id)
        if video is None:
            why = f"there is no video {entry.video_id} in {where}; give the annotations of the same set"
        elif entry.category_id not in self._categories:
            known = list_some(sorted(self._categories), 8)
            why = f"there is no category {entry.category_id} in {where}; it has {known}"
        elif len(entry.segmentations) != len(video):
            why = (
                f"{len(entry.segmentations)} segmentations for the {len(video)} frames of video {video.id}; "
                "give one per frame, or null"
            )
        else:
            return entry, video
        raise self._error(index, why)

    def _error(self, index: int, why: object) -> DataError:
        return DataError(f"{self._path}: result number {index}: {why}")


def group_by(values: Iterable[_Value], key: Callable[[_Value], _Key]) -> dict[_Key, list[_Value]]:
    """Group values by a key, in their order."""
    groups: dict[_Key, list[_Value]] = {}
    for value in values:
        groups.setdefault(key(value), []).append(value)
    return groups


def by_cell(predictions: Sequence[Prediction]) -> dict[tuple[int, int], list[Prediction]]:
    """Group results by (video, category), best score first; equal scores keep their order."""
    ranked = sorted(predictions, key=lambda result: -result.score)
    return group_by(ranked, lambda result: (result.video_id, result.category_id))


def write_submission(path: Path, results: Path) -> None:
    """Write a server's archive, which holds the results as `results.json`; a failure leaves no partial file.

    Raises:
        DataError: the results cannot be read.
        OutputError: the archive cannot be written.
    """
    try:
        size = results.stat().st_size
        source = results.open("rb")
    except OSError as error:
        raise DataError(f"cannot read results file {results}: {error.strerror}; check the path") from error
    # A fixed date, so that equal results make equal archives.
    entry = zipfile.ZipInfo("results.json", (2020, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    with (
        source,
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open(entry, "w", force_zip64=size >= _ZIP32_LIMIT) as target,
    ):
        shutil.copyfileobj(source, target, 1 << 20)
