"""Tests of the BLAS thread limit: one thread inside, the previous number outside."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from idol_runtime.blas import one_blas_thread
from idol_runtime.config import AssociationConfig
from idol_runtime.tracking import detection
from idol_runtime.tracking.association import Tracker
from idol_runtime.tracking.detection import NetworkOutput, detect

if TYPE_CHECKING:
    from collections.abc import Iterator


def _threads() -> set[int]:
    """Return the thread counts of numpy's libraries; libraries of other tests are ignored."""
    return {library["num_threads"] for library in threadpool_info() if "numpy" in library["filepath"]}


@pytest.fixture(autouse=True)
def two() -> Iterator[None]:
    """The number of threads of the process before the test."""
    with threadpool_limits(2, user_api="blas"):
        if not _threads():
            pytest.skip("numpy was built with a BLAS that is not its own")
        assert _threads() == {2}
        yield
        assert _threads() == {2}


def test_one_inside_and_as_many_as_before_outside() -> None:
    @one_blas_thread()
    def fail() -> None:
        assert _threads() == {1}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_threads_that_overlap_leave_as_many_as_before() -> None:
    entered, left = threading.Event(), threading.Event()

    @one_blas_thread()
    def first() -> None:
        entered.wait(60)

    @one_blas_thread()
    def second() -> None:
        entered.set()
        assert left.wait(60)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(first), pool.submit(second)
        one.result()
        left.set()
        other.result()


def test_what_a_frame_means_is_found_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    decode = detection.decode_masks

    def spying(*arguments: np.ndarray) -> np.ndarray:
        seen.append(_threads())
        return decode(*arguments)

    monkeypatch.setattr(detection, "decode_masks", spying)
    rng = np.random.default_rng(0)
    shapes = {"logits": (6, 3), "boxes": (6, 4), "embeddings": (6, 8), "mask_features": (8, 4, 6)}
    shapes |= {"mask_params": (6, 169), "mask_reference": (6, 2)}
    arrays = {name: rng.uniform(0.2, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}
    config = AssociationConfig()
    found = detect(NetworkOutput(**arrays), config)
    assert seen == [{1}]
    seen.clear()

    class Scores(np.ndarray):
        """An array that records the number of threads at its first use."""

        def __len__(self) -> int:
            seen.append(_threads())
            return super().__len__()

    Tracker(config).update(found.scores.view(Scores), found.labels, found.boxes, found.embeddings)
    assert seen
    assert all(threads == {1} for threads in seen)
