"""Tests of the pipeline with a network that detects coloured squares: streams, sizes, errors, memory."""

import gc
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idol_runtime.backends.base import BatchLimit
from idol_runtime.config import Category, Preprocessing, StreamConfig
from idol_runtime.errors import BackendError, FrameError
from idol_runtime.pipeline import Pipeline
from idol_runtime.streams import Streams
from idol_runtime.tracking.detection import NetworkOutput
from idol_runtime.tracking.results import FrameResult
from samples.captures import FakeCapture

COLOURS = np.int64([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])
CONFIG = StreamConfig(
    categories=(Category("red", 1), Category("green", 2), Category("blue", 3), Category("yellow", 4)),
    preprocessing=Preprocessing(short_side=None),
)
HEIGHT, WIDTH = 96, 128


class ColourBackend:
    """A backend with one query per colour: the bounds of its pixels, mask feature k, and a separate embedding."""

    name = "colours (numpy)"

    batch = BatchLimit()

    def __init__(self, network_size: tuple[int, int] | None = None) -> None:
        self.network_size = network_size
        self.seen: list[tuple[int, ...]] = []
        self.closed = False

    def infer(self, images: np.ndarray) -> list[NetworkOutput]:
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        self.seen.append(images.shape)
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> NetworkOutput:
        height, width = image.shape[:2]
        padded = Preprocessing().padded_size(height, width)
        k = len(COLOURS)
        logits = np.full((k, k), -8, np.float32)
        boxes = np.full((k, 4), 0.5, np.float32)
        features = np.full((8, padded[0] // 8, padded[1] // 8), -1, np.float32)
        params = np.zeros((k, 169), np.float32)
        params[:, 168] = -0.5
        for i, colour in enumerate(COLOURS):
            params[i, [2 + i, 80, 144]] = 1
            hit = np.abs(image.astype(np.int64) - colour).sum(axis=2) < 60
            if not hit.any():
                continue
            rows, columns = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
            top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            boxes[i] = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
            boxes[i] /= (width, height, width, height)
            logits[i, i] = 2 - 0.1 * i
            cells = np.zeros(padded, bool)
            cells[:height, :width] = hit
            features[i] = np.where(cells[4::8, 4::8], 1, -1)
        return NetworkOutput(
            logits=logits,
            boxes=boxes,
            embeddings=(6 * np.eye(k, 16)).astype(np.float32),
            mask_features=features,
            mask_params=params,
            mask_reference=np.zeros((k, 2), np.float32),
        )

    def close(self) -> None:
        self.closed = True


def scene(t: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return a frame with up to four moving squares; each is absent for some frames."""
    image = np.full((height, width, 3), 40, np.uint8)
    for i, colour in enumerate(COLOURS):
        if (t + 3 * i) % 11 < 8:
            left = (3 * t + 7 * i) % (width - 24)
            image[20 * i + 4 : 20 * i + 20, left : left + 24] = colour
    return image


def same(a: FrameResult, b: FrameResult) -> None:
    assert a.index == b.index
    for name in ("ids", "labels", "scores", "class_scores", "boxes_xyxy", "mask_logits", "masks"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for t in range(25):
        Image.fromarray(scene(t)).save(tmp_path / f"frame{t}.png")
    return tmp_path


def test_objects_keep_their_ids() -> None:
    with Pipeline(ColourBackend(), CONFIG) as pipeline:
        results = [pipeline.step(scene(t)) for t in range(25)]
    assert [r.index for r in results] == list(range(25))
    by_label: dict[int, set[int]] = {}
    for result in results:
        for label, identity in zip(result.labels.tolist(), result.ids.tolist(), strict=True):
            by_label.setdefault(label, set()).add(identity)
    assert set(by_label) == {0, 1, 2, 3}
    assert all(len(ids) == 1 for ids in by_label.values()), by_label
    first = results[0]
    assert first.class_names == ("red", "green", "blue", "yellow")
    for box, mask, label in zip(first.boxes_xyxy, first.masks, first.labels, strict=True):
        left, top, right, bottom = box.round().astype(int)
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[top:bottom, left:right] = True
        assert (scene(0)[top:bottom, left:right] == COLOURS[label]).all()
        assert (mask & expected).sum() / (mask | expected).sum() > 0.5


def test_the_contract_of_a_result() -> None:
    result = Pipeline(ColourBackend(), CONFIG).step(scene(0))
    n = len(result)
    assert n > 1
    expected = {
        "ids": (np.int64, (n,)),
        "labels": (np.int64, (n,)),
        "scores": (np.float32, (n,)),
        "class_scores": (np.float32, (n, 4)),
        "boxes_xyxy": (np.float32, (n, 4)),
        "mask_logits": (np.float32, (n, HEIGHT // 4, WIDTH // 4)),
        "masks": (np.bool_, (n, HEIGHT, WIDTH)),
    }
    for name, (kind, shape) in expected.items():
        array = getattr(result, name)
        assert array.dtype == kind, name
        assert array.shape == shape, name
    assert np.array_equal(result.class_scores.max(axis=1), result.scores)
    assert (np.diff(result.scores) <= 0).all()
    empty = Pipeline(ColourBackend(), CONFIG).step(np.full((HEIGHT, WIDTH, 3), 40, np.uint8))
    assert len(empty) == 0
    for name, (kind, shape) in expected.items():
        assert getattr(empty, name).dtype == kind, name
        assert getattr(empty, name).shape == (0, *shape[1:]), name


def test_a_result_does_not_change_when_the_stream_goes_on() -> None:
    pipeline = Pipeline(ColourBackend(), CONFIG)
    frame = scene(0)
    kept = pipeline.step(frame)
    copies = {name: getattr(kept, name).copy() for name in ("ids", "labels", "scores", "boxes_xyxy")}
    frame[:] = 0
    for t in range(1, 30):
        pipeline.step(scene(t))
    for name, copy in copies.items():
        assert np.array_equal(getattr(kept, name), copy), name


def test_stream_equals_step(folder: Path) -> None:
    pipeline = Pipeline(ColourBackend(), CONFIG)
    stepped = [pipeline.step(scene(t)) for t in range(25)]
    streamed = list(pipeline.stream(folder))
    assert len(streamed) == 25
    for a, b in zip(stepped, streamed, strict=True):
        same(a, b)
    for a, b in zip(pipeline.stream(folder), streamed, strict=True):  # a new stream
        same(a, b)


def test_stride_and_max_frames(folder: Path) -> None:
    pipeline = Pipeline(ColourBackend(), CONFIG)
    kept = list(pipeline.stream(folder, stride=3, max_frames=4))
    pipeline.reset()
    for result, t in zip(kept, (0, 3, 6, 9), strict=True):
        same(result, pipeline.step(scene(t)))


def test_reset_forgets_ids_index_and_size() -> None:
    pipeline = Pipeline(ColourBackend(), CONFIG)
    first = pipeline.step(scene(0))
    pipeline.step(scene(5))
    pipeline.reset()
    same(pipeline.step(scene(0)), first)
    pipeline.reset()
    assert pipeline.step(scene(0, 128, 160)).masks.shape[1:] == (128, 160)


def test_a_closed_pipeline_closes_its_backend() -> None:
    backend = ColourBackend()
    with pytest.raises(RuntimeError), Pipeline(backend, CONFIG):
        raise RuntimeError
    assert backend.closed


def test_a_closed_pipeline_refuses_frames() -> None:
    pipeline, streams = Pipeline(ColourBackend(), CONFIG), Streams(ColourBackend(), CONFIG)
    for network in (pipeline, streams):
        network.close()
        network.close()
    with pytest.raises(BackendError, match="is closed; open the bundle again"):
        pipeline.step(scene(0))
    with pytest.raises(BackendError, match="is closed; open the bundle again"):
        streams.step({"a": scene(0)})


@pytest.mark.parametrize("other", ["step", "stream"])
def test_two_threads_do_not_mix_their_tracks(other: str) -> None:
    backend, started, release = ColourBackend(), threading.Event(), threading.Event()
    infer = backend.infer

    def slow(images: np.ndarray) -> list[NetworkOutput]:
        started.set()
        assert release.wait(20)
        return infer(images)

    backend.infer = slow  # type: ignore[method-assign]
    network = Pipeline(backend, CONFIG) if other == "step" else Streams(backend, CONFIG)
    steps = [
        lambda t=t: network.step(scene(t) if isinstance(network, Pipeline) else {t: scene(t)})  # type: ignore[misc]
        for t in range(2)
    ]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(steps[0])
        assert started.wait(20)
        with pytest.raises(BackendError, match="two threads use one Pipeline or Streams at once"):
            steps[1]()
        release.set()
        assert first.result(20)
    steps[1]()


@pytest.mark.parametrize("restart", ["reset", "stream"])
def test_a_stream_whose_pipeline_starts_again_is_refused(folder: Path, restart: str) -> None:
    pipeline = Pipeline(ColourBackend(), CONFIG)
    first = pipeline.stream(folder)
    next(first)
    if restart == "reset":
        pipeline.reset()
    else:
        second = pipeline.stream(folder)
        next(second)
    with pytest.raises(BackendError, match="open one Pipeline for each, or use Streams"):
        next(first)
    if restart == "stream":
        assert next(second).index == 1


def test_another_frame_size_than_the_networks() -> None:
    pipeline = Pipeline(ColourBackend((64, 128)), CONFIG)
    with pytest.raises(FrameError, match=r"takes 64x128; letterbox it with --fit .*--frame-size 96x128"):
        pipeline.step(scene(0))
    assert Pipeline(ColourBackend((HEIGHT, WIDTH)), CONFIG).step(scene(0)).ids.size


def test_a_refused_frame_changes_nothing() -> None:
    pipeline, other = Pipeline(ColourBackend(), CONFIG), Pipeline(ColourBackend(), CONFIG)
    for t in range(20):
        for bad in (scene(t)[:, :, 0], scene(t, 64, 64)[:, :64] if t else None):
            with pytest.raises(FrameError):
                pipeline.step(bad)
        same(pipeline.step(scene(t)), other.step(scene(t)))


def test_a_frame_refused_for_the_network_does_not_set_the_size() -> None:
    pipeline = Pipeline(ColourBackend((HEIGHT, WIDTH)), CONFIG)
    with pytest.raises(FrameError, match="letterbox"):
        pipeline.step(scene(0, 128, 160))
    assert pipeline.step(scene(0)).index == 0


@pytest.mark.parametrize("network", [(64, 128), (96, 96), (160, 128), (48, 64), (96, 160)], ids=str)
def test_letterboxed_results_lie_in_the_frame(network: tuple[int, int]) -> None:
    backend = ColourBackend(network)
    result = Pipeline(backend, CONFIG, fit=True).step(scene(0))
    plain = Pipeline(ColourBackend(), CONFIG).step(scene(0))
    assert backend.seen == [(1, *network, 3)]
    assert result.masks.shape[1:] == (HEIGHT, WIDTH)
    assert set(result.labels.tolist()) == set(plain.labels.tolist())
    assert (result.boxes_xyxy >= 0).all()
    assert (result.boxes_xyxy <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    pixel = max(HEIGHT / network[0], WIDTH / network[1], 1)  # pixels of the network input, in the frame
    for label, box, mask in zip(result.labels, result.boxes_xyxy, result.masks, strict=True):
        expected = plain.boxes_xyxy[plain.labels == label][0]
        np.testing.assert_allclose(box, expected, atol=2 * pixel + 1)
        rows, columns = np.nonzero(mask)
        centre = (expected[:2] + expected[2:]) / 2
        np.testing.assert_allclose([columns.mean(), rows.mean()], centre, atol=8 * pixel)


def test_a_size_that_changes_in_a_stream(tmp_path: Path) -> None:
    pipeline = Pipeline(ColourBackend(), CONFIG)
    pipeline.step(scene(0))
    with pytest.raises(
        FrameError, match=r"frame 1 is 64x128, the previous frames are 96x128; call reset\(\)"
    ):
        pipeline.step(scene(1)[:64])
    for t, height in enumerate((96, 96, 64)):
        Image.fromarray(scene(t)[:height]).save(tmp_path / f"{t}.png")
    frames = pipeline.stream(tmp_path)
    assert [next(frames).index, next(frames).index] == [0, 1]
    with pytest.raises(FrameError, match="64x128"):
        next(frames)


def test_a_camera_that_returns_with_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = [FakeCapture([(96, 128)] * 2), FakeCapture([(64, 128)] * 2)]
    monkeypatch.setattr("cv2.VideoCapture", lambda *_: captures.pop(0))
    monkeypatch.setattr("idol_runtime.sources.live._LONGEST_WAIT_S", 0.01)
    stream = Pipeline(ColourBackend(), CONFIG).stream(0)
    assert [(result.index, result.placement.frame) for result in islice(stream, 4)] == [
        (0, (96, 128)),
        (1, (96, 128)),
        (2, (64, 128)),
        (3, (64, 128)),
    ]


@pytest.mark.parametrize(
    ("convert", "fix"),
    [
        (lambda f: f[:, :, 0], "COLOR_GRAY2RGB"),
        (lambda f: f[:, :, :1], "numpy.repeat"),
        (lambda f: np.dstack([f, f[:, :, 0]]), "alpha"),
        (lambda f: f / 255, "round"),
        (lambda f: f.astype(np.float32), "round"),
        (lambda f: f.astype(np.uint16) << 8, ">> 8"),
        (lambda f: f > 127, "255"),
        (lambda f: f[None], "one by one"),
        (lambda f: f.transpose(2, 0, 1), "transpose"),
        (lambda f: f.tolist(), "numpy.asarray"),
        (lambda f: None, "numpy"),
        (lambda f: f[:0], "no pixels"),
    ],
)
def test_frames_of_the_wrong_kind(convert: Callable[[np.ndarray], Any], fix: str) -> None:
    with pytest.raises(FrameError, match="frame 0") as caught:
        Pipeline(ColourBackend(), CONFIG).step(convert(scene(0)))
    assert fix in str(caught.value)


def test_a_view_with_strides_is_a_frame() -> None:
    expected = Pipeline(ColourBackend(), CONFIG).step(scene(0))
    same(Pipeline(ColourBackend(), CONFIG).step(scene(0)[:, :, ::-1].copy()[:, :, ::-1]), expected)


def test_a_pipeline_and_streams_continue_from_a_state() -> None:
    whole, first, streams = (
        Pipeline(ColourBackend(), CONFIG),
        Pipeline(ColourBackend(), CONFIG),
        Streams(ColourBackend(), CONFIG),
    )
    expected = [whole.step(scene(t)) for t in range(25)]
    for t in range(12):
        first.step(scene(t))
    state = first.snapshot()
    first.reset()
    first.step(scene(3))
    first.restore(state)
    streams.restore("door", state)
    assert streams.snapshot("door").index == 12
    for t in range(12, 25):
        same(first.step(scene(t)), expected[t])
        same(streams.step({"door": scene(t)})["door"], expected[t])
    with pytest.raises(FrameError, match="the previous frames are"):
        first.step(scene(0, 128, 96))


def test_memory_does_not_grow_with_the_stream() -> None:
    backend = ColourBackend()
    # Nothing matches: new identities in every frame would fill a memory bank without deletion.
    config = replace(CONFIG, association=replace(CONFIG.association, match_score=1.0))
    pipeline = Pipeline(backend, config)
    sizes, rows = [], []
    tracemalloc.start()
    for t in range(300):
        pipeline.step(scene(t))
        if t % 50 == 49:
            backend.seen.clear()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
            rows.append(len(pipeline._stream.tracker.bank or ()))
    tracemalloc.stop()
    assert pipeline._stream.tracker.next_id > 300, "the stream has to bring new identities"
    assert max(rows) <= 4 * CONFIG.association.max_age
    assert max(sizes[1:]) - sizes[0] < 64 * 1024
