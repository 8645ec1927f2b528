from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_deploy.data.masks import Masks
from idol_deploy.data.ytvis import Track, Video, VisDataset
from idol_deploy.evaluate.predictions import Prediction
from idol_deploy.evaluate.reappearance import Reappearance, find_absences, score_reappearance
from idol_runtime.config import Category
from idol_runtime.tracking.rle import encode_rle

SIZE = (4, 6)


def masks(columns: list[int | None]) -> Masks:
    """Return masks of one column in each frame; None for an absent instance."""
    drawn: NDArray[np.bool_] = np.zeros((len(columns), *SIZE), np.bool_)
    for frame, column in enumerate(columns):
        if column is not None:
            drawn[frame, :, column] = True
    counts = tuple(encode_rle(mask)["counts"].encode() if mask.any() else None for mask in drawn)
    return Masks(SIZE, counts, drawn.sum((1, 2)))


def dataset(*instances: list[int | None]) -> VisDataset:
    video = Video(1, SIZE, tuple(f"{t}.jpg" for t in range(len(instances[0]))))
    tracks = tuple(Track(i, 1, 1, masks(columns), 4.0) for i, columns in enumerate(instances))
    return VisDataset(Path("gt.json"), (video,), (Category("bird", 1),), _tracks={1: tracks})


def results(*tracks: list[int | None]) -> list[Prediction]:
    return [Prediction(1, 1, 0.9, masks(columns), 4.0) for columns in tracks]


HERE: list[int | None] = [0, 0, None, None, None, 0, 0]


@pytest.mark.parametrize(
    ("tracks", "expected"),
    [
        ([HERE], Reappearance(1, 1, 1)),
        ([[0, 0, *[None] * 5], [*[None] * 5, 0, 0]], Reappearance(1, 1, 0)),
        ([[0, 0, *[None] * 5]], Reappearance(1, 0, 0)),
        # A neighbour takes over the identity, and the instance gets a new one.
        ([[0, 0, 3, 3, 3, 3, 3], [*[None] * 5, 0, 0]], Reappearance(1, 1, 0)),
        # Detected late after its return, by the right track.
        ([[0, 0, None, None, None, None, 0]], Reappearance(1, 1, 1)),
        ([], Reappearance(1, 0, 0)),
    ],
)
def test_the_track_before_must_be_the_track_after(
    tracks: list[list[int | None]], expected: Reappearance
) -> None:
    assert score_reappearance(dataset(HERE), results(*tracks)) == expected


def test_each_absence_counts_between_its_neighbours() -> None:
    twice: list[int | None] = [0, None, None, None, 0, None, None, None, 0, None, 0]
    first, second = [0, *[None] * 3, 0, *[None] * 6], [*[None] * 8, 0, None, 0]
    assert score_reappearance(dataset(twice), results(first, second)) == Reappearance(2, 2, 1)
    # The short absence has one frame.
    assert score_reappearance(dataset(twice), results(first, second), minimum=1) == Reappearance(3, 3, 2)


def test_a_track_under_two_classes_is_one_track() -> None:
    found = results(HERE, HERE)
    assert score_reappearance(dataset(HERE), [found[0], replace(found[1], category_id=2)]) == Reappearance(
        1, 1, 1
    )


def test_crowds_and_beginnings_are_no_absences() -> None:
    whole = dataset(HERE)
    crowd = replace(whole, _tracks={1: (replace(whole.tracks(1)[0], crowd=True),)})
    assert score_reappearance(crowd, results(HERE)) == Reappearance()
    assert find_absences(np.array([0, 0, 0, 1, 1, 0, 1, 0, 0, 0], bool)) == [(5, 5)]
