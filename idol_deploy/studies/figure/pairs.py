"""Augmented pairs as the network sees them: the first batch of a training run, through the run's own loader."""

import itertools
from pathlib import Path

from idol_deploy.data.loader import LoaderState, PairLoader
from idol_deploy.data.preview import write_pairs
from idol_deploy.settings import TrainSettings
from idol_deploy.train.data import open_training_data
from idol_runtime.errors import ConfigError
from idol_runtime.files import writable_target
from idol_runtime.optional import load_cv2

__all__ = ["draw_training_pairs"]

_READABLE = 320  # pixels of a frame's short side, for the text on it to leave something to see


def draw_training_pairs(
    settings: TrainSettings, path: str | Path, *, pairs: int = 4, start: int = 0
) -> tuple[str, ...]:
    """Draw the pairs that a run with these settings takes, a row for each.

    Args:
        settings: of the run; their seed decides order and augmentation.
        path: the picture, in a format that Pillow writes.
        pairs: how many.
        start: how many the run has taken before.

    Returns:
        What was left out or passed over, in words.

    Raises:
        ConfigError: the picture's name ends in no such format, or the settings do not go together.
        DataError: annotations or frames that cannot be used.
        OutputError: the picture cannot be written.
        MissingDependencyError: OpenCV or pycocotools is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(
            f"cannot draw {path}: the picture is of pixels, so its name ends in .png, .jpg or .webp"
        )
    writable_target(path)
    load_cv2("drawing pairs")
    data, network = open_training_data(settings).pairs, settings.network
    state = LoaderState(settings.run.seed, start)
    loader = PairLoader(data, network.preprocessing, pairs=pairs, state=state, strict=settings.data.strict)
    (batch,) = itertools.islice(loader, 1)
    short = min(batch.images.shape[2:])
    write_pairs(batch, network.classes, path, scale=-(-_READABLE // short))
    return (*data.log.summary(), *loader.log.summary())
