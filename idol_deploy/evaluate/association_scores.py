"""What one way to make tracks of a network's detections is worth: AP, identities, and who comes back as whom.

AP ranks one result per likely class of a track; identities are of tracks, which have one class. So all videos are run
twice; the second time costs no network where the backend remembers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from idol_deploy.data.ytvis import VisDataset
from idol_deploy.evaluate.average_precision import score
from idol_deploy.evaluate.inference import Work, run_videos
from idol_deploy.evaluate.predictions import Prediction, read_predictions
from idol_deploy.evaluate.reappearance import score_returns
from idol_deploy.evaluate.shards import Shard
from idol_deploy.evaluate.tracking import CLASS_MEAN, score_tracking
from idol_runtime.backends import Backend
from idol_runtime.config import StreamConfig
from idol_runtime.pipeline import Pipeline

__all__ = ["FoundTracks", "association_scores", "find_tracks"]


@dataclass(frozen=True)
class FoundTracks:
    """Results of a data set's videos.

    Attributes:
        ranked: a track under each of its likely classes.
        tracked: a track under its best class.
    """

    ranked: Sequence[Prediction]
    tracked: Sequence[Prediction]

    def of(self, dataset: VisDataset) -> "FoundTracks":
        """Those of its videos alone."""
        ranked, tracked = (
            [entry for entry in entries if dataset.video(entry.video_id)]
            for entries in (self.ranked, self.tracked)
        )
        return FoundTracks(ranked, tracked)


def find_tracks(
    backend: Backend,
    stream: StreamConfig,
    dataset: VisDataset,
    frames: Path,
    results: Path,
    *,
    identity: Mapping[str, Any],
    shard: Shard | None = None,
    meet: Callable[[], object] = lambda: None,
) -> FoundTracks | None:
    """Run all videos.

    Args:
        backend: runs the network.
        stream: thresholds and association.
        dataset: the videos.
        frames: the folder of their frames.
        results: what the two results files begin with.
        identity: what the results depend on; see `Work`.
        shard: this process's share.
        meet: waits for all processes.

    Returns:
        All results, in the first process; None in the others.
    """
    shard = shard or Shard()
    found: list[Sequence[Prediction]] = []
    for name, multi_class in (("ranked", True), ("tracked", False)):
        config = replace(stream, video=replace(stream.video, multi_class=multi_class))
        path = results.with_name(f"{results.name}-{name}.results")
        run_videos(Work(dataset, frames, path, identity, shard), partial(Pipeline, backend, config))
        meet()
        found.append(read_predictions(path, dataset) if shard.rank == 0 else ())
    return FoundTracks(*found) if shard.rank == 0 else None


def association_scores(dataset: VisDataset, found: FoundTracks) -> dict[str, float]:
    """OVIS's AP and AR, TrackEval's HOTA, AssA, DetA, IDF1 and IDSW over classes, and `kept`.

    That is the share of absences after which an instance has its former identity (`score_returns`); -1 without any.
    """
    returns = score_returns(dataset, found.tracked)
    scores = dict(score(dataset, found.ranked, "ovis").summary)
    scores |= score_tracking(dataset, found.tracked)[CLASS_MEAN]
    return scores | {"kept": returns.kept / returns.absences if returns.absences else -1.0}
