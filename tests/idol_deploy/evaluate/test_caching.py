"""The backend that runs each frame once."""

from __future__ import annotations

import numpy as np

from idol_deploy.evaluate.caching import CachingBackend
from idol_runtime.backends.base import BatchLimit
from idol_runtime.tracking.detection import NetworkOutput


class _Counting:
    name, graph, reason, network_size = "counting", None, "", None
    batch = BatchLimit()

    def __init__(self) -> None:
        self.seen = 0

    def infer(self, images: np.ndarray) -> list[NetworkOutput]:
        self.seen += len(images)
        return [NetworkOutput(*[image.astype(np.float32)] * 6) for image in images]

    def close(self) -> None:
        raise AssertionError("the next pipeline wants it")


def test_each_frame_is_run_once_and_never_mistaken_for_another() -> None:
    counting = _Counting()
    backend = CachingBackend(counting)
    video = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    for _ in range(2):
        for frame in video:
            (found,) = backend.infer(frame[None])
            np.testing.assert_array_equal(found.logits, frame)
        backend.close()
    assert counting.seen == 3
    # The same bytes in another shape are another frame.
    backend.infer(video[0].reshape(1, 6, 4, 3))
    assert counting.seen == 4


def test_of_old_frames_nothing_is_kept() -> None:
    counting = _Counting()
    backend = CachingBackend(counting, keep=2)
    video = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    for t, seen in ((0, 1), (1, 2), (0, 2), (2, 3), (1, 3), (0, 4)):
        backend.infer(video[t : t + 1])
        assert counting.seen == seen
