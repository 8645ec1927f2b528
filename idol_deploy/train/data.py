"""The training set of a run and the part that is held out, from its settings."""

from pathlib import Path

import msgspec

from idol_deploy.data.faults import FaultLog
from idol_deploy.data.holdout import holdout
from idol_deploy.data.pairs import VideoPairs, open_pairs
from idol_deploy.data.samples import PairSource
from idol_deploy.data.ytvis import VisDataset, load_json, read_dataset
from idol_deploy.evaluate.inference import require_frames
from idol_deploy.settings import TrainSettings
from idol_runtime.errors import ConfigError

__all__ = ["TrainingData", "category_names", "open_training_data"]


class TrainingData(msgspec.Struct, frozen=True):
    """What a run reads.

    Attributes:
        pairs: to train with.
        held_out: to evaluate on; None where nothing is held out.
    """

    pairs: PairSource
    held_out: VisDataset | None = None


class _Category(msgspec.Struct):
    name: str


class _Categories(msgspec.Struct):
    categories: list[_Category]


def category_names(annotations: Path) -> tuple[str, ...]:
    """The classes of an annotation file, in its order.

    Raises:
        DataError: no such file, or it does not say.
    """
    file: _Categories = load_json(annotations, _Categories, "annotation file")
    return tuple(category.name for category in file.categories)


def open_training_data(settings: TrainSettings) -> TrainingData:
    """Reads the annotations, and holds out what the settings say.

    Raises:
        ConfigError: still images cannot be held out.
        DataError: see `open_pairs`.
        SourceError: a frame that is to be evaluated is missing.
        MissingDependencyError: pycocotools is not installed.
    """
    data, network = settings.data, settings.network
    if data.holdout is None:
        if settings.run.evaluate_period:
            raise ConfigError(
                "run.evaluate_period needs videos to evaluate on; hold some out with data.holdout=0"
            )
        return TrainingData(open_pairs(data.annotations, data.frames, network, strict=data.strict))
    if network.train.still_images:
        raise ConfigError("data.holdout splits videos, and these are still images; leave it out")
    log = FaultLog(data.strict)
    dataset = read_dataset(data.annotations, log, allow_empty=False)
    kept, held_out = holdout(dataset, data.holdout, data.holdout_share)
    if settings.run.evaluate_period:
        require_frames(held_out.videos, Path(data.frames))
    pairs = VideoPairs(kept, data.frames, network.classes, network.train, log)
    return TrainingData(pairs, held_out)
