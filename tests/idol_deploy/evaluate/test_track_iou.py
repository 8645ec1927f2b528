import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from idol_deploy.data.masks import Masks
from idol_deploy.evaluate.track_iou import UNASSIGNED, assign_tracks, count_switches
from idol_runtime.tracking.rle import encode_rle

SIZE = (3, 4)


def compressed(masks: NDArray[np.bool_]) -> Masks:  # [T, H, W]
    counts = tuple(encode_rle(mask)["counts"].encode() if mask.any() else None for mask in masks)
    return Masks(SIZE, counts, masks.sum((1, 2)))


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_each_takes_the_largest_overlap_that_is_left(found: int, truth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few pixels, most of them common, so that IoUs above 0.5 and ties are frequent.
    base = rng.random((1, 2, *SIZE)) < 0.7
    tracks, instances = (base ^ (rng.random((n, 2, *SIZE)) < 0.25) for n in (found, truth))
    assigned = assign_tracks([compressed(t) for t in tracks], [compressed(i) for i in instances])
    for frame in range(2 if truth else 0):
        common = (tracks[:, None, frame] & instances[None, :, frame]).sum((2, 3))
        either = (tracks[:, None, frame] | instances[None, :, frame]).sum((2, 3))
        overlaps = common / np.maximum(either, 1)
        taken: set[int] = set()
        left = set(range(truth))
        for overlap in sorted(set(overlaps.ravel().tolist()), reverse=True):
            for d, g in np.argwhere(overlaps == overlap).tolist():
                if overlap >= 0.5 and d not in taken and g in left:
                    assert assigned[g, frame] == d
                    taken.add(d)
                    left.remove(g)
        assert all(assigned[g, frame] == UNASSIGNED for g in left)


def test_switches_bridge_gaps() -> None:
    assigned = np.array([[3, 3, -1, 3, 3], [3, -1, 4, 4, 3], [-1, -1, -1, -1, -1], [-1, 2, -1, -1, 5]])
    assert count_switches(assigned).tolist() == [0, 2, 0, 1]
