"""The training pairs of a data set, whatever it is of."""

from pathlib import Path

from idol_deploy.config import IdolConfig
from idol_deploy.data.samples import PairSource
from idol_deploy.data.still_pairs import StillPairs
from idol_deploy.data.video_pairs import VideoPairs

__all__ = ["open_pairs"]


def open_pairs(
    annotations: str | Path, frames: str | Path, config: IdolConfig, *, strict: bool
) -> PairSource:
    """The training pairs of a data set: of videos, or of COCO's images where the configuration says `still_images`.

    Raises:
        DataError: see `VideoPairs.open` and `StillPairs.open`.
        MissingDependencyError: pycocotools is not installed.
    """
    kind = StillPairs if config.train.still_images else VideoPairs
    return kind.open(annotations, frames, config, strict=strict)
