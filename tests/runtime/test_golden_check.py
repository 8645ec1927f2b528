"""Tests of the golden check: equal outputs open a pipeline, a wrong output is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_runtime import pipeline as module
from idol_runtime.backends import OpenOptions
from idol_runtime.backends.base import BatchLimit
from idol_runtime.backends.choice import Check
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle, GoldenFrame
from idol_runtime.config import Preprocessing
from idol_runtime.errors import BackendError
from idol_runtime.pipeline import Pipeline, check_golden_frame
from idol_runtime.preprocess import resize
from idol_runtime.streams import Streams
from idol_runtime.tracking.detection import NetworkOutput

Change = Callable[[np.ndarray], np.ndarray]


class FixedBackend:
    """A backend with the same outputs for every frame."""

    name, engine = "fixed (numpy)", "onnxruntime"
    graph = None
    batch = BatchLimit()

    def __init__(self, golden_frame: GoldenFrame, size: tuple[int, int] | None, **changes: Change) -> None:
        self.network_size = size
        self.seen: list[np.ndarray] = []
        self.closed = False
        outputs = {name: golden_frame.outputs[name].copy() for name in OUTPUT_NAMES}
        for name, change in changes.items():
            outputs[name] = change(outputs[name])
        self._output = NetworkOutput(**outputs)

    def infer(self, images: np.ndarray) -> list[NetworkOutput]:
        self.seen.append(images)
        return [self._output] * len(images)

    def close(self) -> None:
        self.closed = True


def use(monkeypatch: pytest.MonkeyPatch, backend: FixedBackend) -> FixedBackend:
    """Have every bundle opened in this backend."""

    def open_checked(bundle: Bundle, options: OpenOptions, check: Check, _: object) -> FixedBackend:
        check(backend)
        return backend

    monkeypatch.setattr(module, "open_backend", open_checked)
    return backend


def put(value: float) -> Change:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[-1] = value
        return array

    return change


def test_the_right_answer_passes(kit: Any) -> None:
    golden_frame = kit.golden_frame()
    backend = FixedBackend(golden_frame, kit.size)
    check_golden_frame(backend, golden_frame)
    assert np.array_equal(backend.seen[0], golden_frame.frame[None])


def test_the_golden_frame_is_resized_as_any_frame(kit: Any) -> None:
    golden_frame = kit.golden_frame()
    backend = FixedBackend(golden_frame, (32, 48))
    check_golden_frame(backend, golden_frame)
    assert np.array_equal(backend.seen[0][0], resize(golden_frame.frame, (32, 48)))


def test_rounding_passes(kit: Any) -> None:
    golden_frame = kit.golden_frame()
    for name in OUTPUT_NAMES:
        check_golden_frame(
            FixedBackend(golden_frame, None, **{name: lambda a: a * np.float32(1 + 1e-5)}), golden_frame
        )


@pytest.mark.parametrize("name", OUTPUT_NAMES)
@pytest.mark.parametrize(
    "change",
    [put(1e4), put(float("nan")), put(float("inf")), lambda a: a[:-1], lambda a: a[None], lambda a: a * 1.01],
    ids=["one value", "nan", "inf", "short", "extra axis", "all"],
)
def test_a_wrong_answer_is_refused_by_name(kit: Any, name: str, change: Change) -> None:
    golden_frame = kit.golden_frame()
    with pytest.raises(BackendError, match=rf"fixed \(numpy\).*\b{name}\b") as caught:
        check_golden_frame(FixedBackend(golden_frame, None, **{name: change}), golden_frame)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OUTPUT_NAMES)
def test_a_golden_frame_of_nan_passes_nothing(kit: Any, name: str) -> None:
    golden_frame = kit.golden_frame()
    outputs = golden_frame.outputs
    spoiled = GoldenFrame(golden_frame.frame, {**outputs, name: outputs[name] * np.float32("nan")})
    with pytest.raises(BackendError, match=name):
        check_golden_frame(FixedBackend(spoiled, None), spoiled)


def test_an_all_zero_output_is_compared_too(kit: Any) -> None:
    golden_frame = kit.golden_frame()
    zeros = GoldenFrame(golden_frame.frame, {**golden_frame.outputs, "boxes": np.zeros((3, 4), np.float32)})
    check_golden_frame(FixedBackend(zeros, None), zeros)
    with pytest.raises(BackendError, match="boxes"):
        check_golden_frame(FixedBackend(golden_frame, None), zeros)


class MixingBackend(FixedBackend):
    """A backend that takes a frame's outputs from the previous frame of the batch."""

    def infer(self, images: np.ndarray) -> list[NetworkOutput]:
        self.seen.append(images)
        right, wrong = self._output, NetworkOutput(*(1.5 * array for array in vars(self._output).values()))
        golden = self.seen[0][0]
        return [right if np.array_equal(image, golden) else wrong for image in np.roll(images, 1, axis=0)]


@pytest.mark.parametrize("frames", [2, 3, 4])
def test_frames_that_mix_are_found_among_others(kit: Any, frames: int) -> None:
    golden_frame = kit.golden_frame()
    mixing = MixingBackend(golden_frame, kit.size)
    check_golden_frame(mixing, golden_frame)
    with pytest.raises(BackendError, match=rf"fails the golden check in a batch of {frames}: logits"):
        check_golden_frame(mixing, golden_frame, frames=frames)
    fixed = FixedBackend(golden_frame, kit.size)
    check_golden_frame(fixed, golden_frame, frames=frames)
    places = {
        i
        for images in fixed.seen
        for i, image in enumerate(images)
        if np.array_equal(image, golden_frame.frame)
    }
    assert places == set(range(frames)), "the golden frame has been everywhere"


def test_streams_are_opened_with_the_golden_frame_among_others(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden_frame, path = kit.golden_frame(), kit.write(tmp_path / "m.idol")
    for most, seen in ((None, [1, 3, 3]), (2, [1, 2, 2]), (1, [1])):
        backend = use(monkeypatch, FixedBackend(golden_frame, kit.size))
        backend.batch = BatchLimit(most)
        with Streams.open(path, at_once=3) as streams:
            assert [len(images) for images in backend.seen] == seen
            assert streams.step({0: golden_frame.frame, 1: golden_frame.frame})[1].index == 0
    use(monkeypatch, MixingBackend(golden_frame, kit.size))
    with pytest.raises(BackendError, match="in a batch of 4"):
        Streams.open(path)


def test_open_runs_the_golden_check_by_default(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden_frame = kit.golden_frame()
    path = kit.write(tmp_path / "m.idol", kit.manifest(note="untrained weights"))
    backend = use(monkeypatch, FixedBackend(golden_frame, kit.size))
    with Pipeline.open(path) as pipeline:
        assert pipeline.note == "untrained weights"
        assert pipeline.config.preprocessing == Preprocessing(short_side=None)
        assert pipeline.step(golden_frame.frame).index == 0, "the golden frame is not part of the stream"
    assert [len(backend.seen), backend.closed] == [2, True]
    wrong = use(monkeypatch, FixedBackend(golden_frame, kit.size, boxes=put(9)))
    with pytest.raises(BackendError, match="boxes"):
        Pipeline.open(path)
    with Pipeline.open(path, golden_check=False):
        assert len(wrong.seen) == 1, "only the replay before"
