"""Results files: what a model found in the videos of a data set, in the YouTube-VIS / OVIS submission format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from idol_deploy.data.masks import Masks, Segmentation, compress
from idol_deploy.data.ytvis import Video, VisDataset, in_chunks, load_json
from idol_runtime.errors import DataError

__all__ = ["Prediction", "by_cell", "read_predictions"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """One result: a track under one class.

    Attributes:
        video_id: the video it was found in.
        category_id: in the numbers of the annotation file.
        score: the higher the surer.
        masks: its masks, and where they are.
        area: mean pixels of the masks that are not empty; 0 without any.
    """

    video_id: int
    category_id: int
    score: float
    masks: Masks
    area: float


class _Entry(msgspec.Struct):
    video_id: int
    category_id: int
    score: float
    segmentations: list[Segmentation]


def read_predictions(path: str | Path, dataset: VisDataset) -> list[Prediction]:
    """Read a results file.

    Args:
        path: JSON: a list of objects with `video_id`, `category_id`, `score` and `segmentations`, one RLE or null per
            frame.
        dataset: the data set that the results are of.

    Returns:
        The results, in the order of the file, which decides between equal scores.

    Raises:
        DataError: no such file, not JSON, not of this format, or a result of an unknown video or category, or with
            masks of another size or number than the video's frames. Names the result.
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
        self._decoder = msgspec.json.Decoder(_Entry)

    def read(self, raws: Sequence[tuple[int, msgspec.Raw]]) -> list[Prediction]:
        entries = [self._entry(index, raw) for index, raw in raws]
        masks = compress([(entry.segmentations, video.size) for entry, video in entries])
        return [
            self._prediction(index, entry, instance)
            for (index, _), (entry, _), instance in zip(raws, entries, masks, strict=True)
        ]

    def _entry(self, index: int, raw: msgspec.Raw) -> tuple[_Entry, Video]:
        try:
            entry = self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._error(index, error) from error
        where = self._dataset.path
        video = self._dataset.video(entry.video_id)
        if video is None:
            why = f"there is no video {entry.video_id} in {where}; give the annotations of the same set"
        elif entry.category_id not in self._categories:
            why = f"there is no category {entry.category_id} in {where}; it has {_few(sorted(self._categories))}"
        elif len(entry.segmentations) != len(video):
            why = (
                f"{len(entry.segmentations)} segmentations for the {len(video)} frames of video {video.id}; "
                "give one per frame, or null"
            )
        else:
            return entry, video
        raise self._error(index, why)

    def _prediction(self, index: int, entry: _Entry, masks: Masks | DataError) -> Prediction:
        if isinstance(masks, DataError):
            raise self._error(index, masks) from masks
        area = int(masks.areas.sum()) / max(int(np.count_nonzero(masks.areas)), 1)
        return Prediction(entry.video_id, entry.category_id, entry.score, masks, area)

    def _error(self, index: int, why: object) -> DataError:
        return DataError(f"{self._path}: result number {index}: {why}")


def _few(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return shown if len(ids) <= 8 else f"{shown}, … {ids[-1]}"


def by_cell(predictions: Sequence[Prediction]) -> dict[tuple[int, int], list[Prediction]]:
    """The results of each (video, category), best score first; equal scores keep their order."""
    cells: dict[tuple[int, int], list[Prediction]] = {}
    for prediction in predictions:
        cells.setdefault((prediction.video_id, prediction.category_id), []).append(prediction)
    for cell in cells.values():
        order = np.argsort([-prediction.score for prediction in cell], kind="stable")
        cell[:] = [cell[i] for i in order]
    return cells
