"""Re-identification after absence: whether an instance gets its former track when it reappears.

IDF1 and AssA weigh every frame. The few frames around an absence, where position gives no evidence and appearance must,
have little effect on them. Letter: T frames.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.ytvis import VisDataset
from idol_deploy.evaluate.predictions import Prediction, group_by
from idol_deploy.evaluate.track_iou import UNASSIGNED, assign_tracks

__all__ = ["MIN_ABSENCE", "Absence", "Reappearance", "find_absences", "follow_absences", "score_reappearance"]

MIN_ABSENCE = 3  # frames; position is enough to bridge a shorter absence


@dataclass(frozen=True)
class Reappearance:
    """Number of absences and their outcome.

    Attributes:
        absences: annotated absences between frames with the instance.
        tracked: absences with a track of the instance both before and after, up to its neighbouring absences.
        reidentified: absences after which the instance has the track of before.
    """

    absences: int = 0
    tracked: int = 0
    reidentified: int = 0


@dataclass(frozen=True)
class Absence:
    """An absence of an instance between two appearances.

    Attributes:
        first: first frame without the instance.
        last: last frame without the instance.
        before: index of the last track of the instance since its previous absence; `UNASSIGNED` for none.
        after: index of the first track of the instance up to its next absence; `UNASSIGNED` for none.
    """

    first: int
    last: int
    before: int
    after: int


def score_reappearance(
    dataset: VisDataset, predictions: Sequence[Prediction], minimum: int = MIN_ABSENCE
) -> Reappearance:
    """Count absences and re-identifications over a data set.

    Args:
        dataset: data set with annotations; crowds do not count.
        predictions: results of its videos. Results of one track under several classes have equal masks and count as the
            first of them.
        minimum: frames of the shortest absence that counts (default: 3).

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    by_video = group_by(predictions, lambda prediction: prediction.video_id)
    absences: list[Absence] = []
    for video in dataset.videos:
        instances = [track for track in dataset.tracks(video.id) if not track.crowd]
        tracks = [prediction.masks for prediction in by_video.get(video.id, [])]
        assigned = assign_tracks(tracks, [instance.masks for instance in instances])
        for instance, row in zip(instances, assigned, strict=True):
            absences += follow_absences(instance.masks.areas > 0, row, minimum)
    tracked = [absence for absence in absences if UNASSIGNED not in (absence.before, absence.after)]
    same = sum(absence.before == absence.after for absence in tracked)
    return Reappearance(len(absences), len(tracked), same)


def find_absences(visible: NDArray[np.bool_], minimum: int = 1) -> list[tuple[int, int]]:  # [T]
    """Return (first, last) frame of each gap of at least `minimum` frames between visible frames."""
    frames: list[int] = np.flatnonzero(visible).tolist()
    return [(a + 1, b - 1) for a, b in itertools.pairwise(frames) if b - a - 1 >= minimum]


def follow_absences(
    visible: NDArray[np.bool_],  # [T]
    assigned: NDArray[np.int64],  # [T]
    minimum: int = MIN_ABSENCE,
) -> list[Absence]:
    """Return the absences of an instance from its visibility and its assigned tracks (`assign_tracks`)."""
    absences = find_absences(visible, minimum)
    edges = [0, *(first for first, _ in absences), len(assigned)]
    return [
        Absence(
            first,
            last,
            before=_first_track(assigned[edges[k] : first][::-1]),
            after=_first_track(assigned[last + 1 : edges[k + 2]]),
        )
        for k, (first, last) in enumerate(absences)
    ]


def _first_track(assigned: NDArray[np.int64]) -> int:
    return next((int(index) for index in assigned if index != UNASSIGNED), UNASSIGNED)
