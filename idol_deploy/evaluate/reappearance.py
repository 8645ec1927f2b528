"""Who comes back as whom: whether a track is taken up again when its instance has been away.

IDF1 and AssA weigh every frame; of the few frames around an absence, where position says nothing and appearance must,
they show little. T: frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.ytvis import VisDataset
from idol_deploy.evaluate.assignment import NOBODY, who_shows_whom
from idol_deploy.evaluate.predictions import Prediction

__all__ = ["LEAST_AWAY", "Absence", "Returns", "find_absences", "follow_absences", "score_returns"]

LEAST_AWAY = 3  # frames: a shorter absence is bridged by position as well


@dataclass(frozen=True)
class Returns:
    """What became of the instances that were away.

    Attributes:
        absences: annotated ones, each with frames of the instance before and after it.
        seen: those before and after which, up to the instance's next absence, some track shows the instance.
        kept: those after which it is the track of before.
    """

    absences: int = 0
    seen: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Absence:
    """An instance that was away, and returned.

    Attributes:
        first: frame without it.
        last: frame without it.
        before: number of the track that showed it last, since its absence before; `NOBODY` where none did.
        after: number of the track that shows it next, up to its next absence; likewise.
    """

    first: int
    last: int
    before: int
    after: int


def score_returns(dataset: VisDataset, predictions: Sequence[Prediction], least: int = LEAST_AWAY) -> Returns:
    """Counts over a data set.

    Args:
        dataset: with annotations; crowds don't count.
        predictions: of its videos. Results of a track under several classes have equal masks, and count as its first.
        least: frames; shorter absences are left out.

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    found: dict[int, list[Prediction]] = {}
    for prediction in predictions:
        found.setdefault(prediction.video_id, []).append(prediction)
    absences: list[Absence] = []
    for video in dataset.videos:
        tracks = [track for track in dataset.tracks(video.id) if not track.crowd]
        shown = who_shows_whom(
            [prediction.masks for prediction in found.get(video.id, [])], [track.masks for track in tracks]
        )
        for track, row in zip(tracks, shown, strict=True):
            absences += follow_absences(track.masks.areas > 0, row, least)
    seen = [absence for absence in absences if NOBODY not in (absence.before, absence.after)]
    return Returns(len(absences), len(seen), sum(absence.before == absence.after for absence in seen))


def find_absences(seen: NDArray[np.bool_], least: int = 1) -> list[tuple[int, int]]:  # [T]
    """(first, last) frame of every run of `least` frames or more without the instance, between frames with it."""
    there = np.flatnonzero(seen)
    return [
        (a + 1, b - 1)
        for a, b in zip(there[:-1].tolist(), there[1:].tolist(), strict=True)
        if b - a - 1 >= least
    ]


def follow_absences(
    seen: NDArray[np.bool_],  # [T]
    shown: NDArray[np.int64],  # [T]
    least: int = LEAST_AWAY,
) -> list[Absence]:
    """The absences of an instance, by when it is seen and which track shows it (`who_shows_whom`)."""
    absences = find_absences(seen, least)
    edges = [0, *(first for first, _ in absences), len(shown)]
    return [
        Absence(
            first,
            last,
            before=next((int(n) for n in shown[edges[k] : first][::-1] if n != NOBODY), NOBODY),
            after=next((int(n) for n in shown[last + 1 : edges[k + 2]] if n != NOBODY), NOBODY),
        )
        for k, (first, last) in enumerate(absences)
    ]
