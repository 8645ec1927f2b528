"""A holdout of a training set for validation: YouTube-VIS and OVIS publish annotations for training only."""

import hashlib
from pathlib import PurePosixPath

from idol_deploy.data.ytvis import Video, VisDataset
from idol_runtime.errors import ConfigError, DataError

__all__ = ["HOLDOUT_SHARE", "holdout"]

HOLDOUT_SHARE = 0.1


def holdout(dataset: VisDataset, seed: int, share: float = HOLDOUT_SHARE) -> tuple[VisDataset, VisDataset]:
    """Split a data set by recording; the same seed and share give the same split on every machine.

    Videos with frames in one folder are clips of one recording and stay together, so that no instance is on both sides.
    The side of a recording depends on its name and the seed, not on the order of the file.

    Args:
        dataset: data set to split.
        seed: seed of the split.
        share: share of the recordings to hold out (default: 0.1); at least one is held out.

    Returns:
        The part for training and the held-out part.

    Raises:
        ConfigError: the share is not between 0 and 1.
        DataError: the data set has fewer than two recordings.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the held-out share must be between 0 and 1, got {share}")
    names = {_recording(video) for video in dataset.videos}
    recordings = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    if len(recordings) < 2:
        raise DataError(
            f"{dataset.path} has only one recording, which cannot be split; give separate validation videos"
        )
    count = min(max(round(share * len(recordings)), 1), len(recordings) - 1)
    chosen = set(recordings[:count])
    held_out = {video.id for video in dataset.videos if _recording(video) in chosen}
    kept = {video.id for video in dataset.videos} - held_out
    return dataset.subset(kept), dataset.subset(held_out)


def _recording(video: Video) -> str:
    folder = str(PurePosixPath(video.files[0].replace("\\", "/")).parent)
    return f"video {video.id}" if folder == "." else folder
